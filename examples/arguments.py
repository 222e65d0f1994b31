# SPDX-License-Identifier: MIT
"""How the examples read their arguments; imports nothing that a server of `serve_stream.py` should not have."""

from __future__ import annotations

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """A number of epochs, files or the like."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"needs an integer of at least 1, got {text!r}")
    return int(text)
