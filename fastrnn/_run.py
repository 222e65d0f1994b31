# SPDX-License-Identifier: MIT
"""What a function of the API does once its arguments are a Call, on any backend: compute, and name the results."""

from __future__ import annotations

from typing import Any

from . import _check
from ._records import Call, Grads, Tape


def infer(backend: Any, call: Call) -> tuple:
    """(out, state), the state being h_n or (h_n, c_n)."""
    out, h_n, c_n, _ = backend.forward(call, False)
    return out, h_n if c_n is None else (h_n, c_n)


def forward(backend: Any, call: Call) -> tuple:
    """(out, state, tape)."""
    call.own_weights()
    out, h_n, c_n, saved = backend.forward(call, True)
    return out, h_n if c_n is None else (h_n, c_n), Tape.of(call, saved, backend)


def backward(cell: str, tape: Tape, grad_out: Any, grad_h_n: Any, grad_c_n: Any = None) -> Grads:
    """The gradients, by the backend that made the tape."""
    call = _check.tape(tape, cell).call
    return tape.backend.backward(tape, *_check.gradients(call, grad_out, grad_h_n, grad_c_n))
