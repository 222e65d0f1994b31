# SPDX-License-Identifier: MIT
"""The compiled backend: the same interface as `reference`, each cell from its own time loops."""

from __future__ import annotations

from . import _gru, _lstm, _rnn
from ._stepper import Stepper

__all__ = ["Stepper", "backward", "forward", "pack"]

_CELLS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def forward(call, training, out=None, packed=None):
    """Run a call: (out, h_n, c_n or None, what backward needs if training)."""
    return _CELLS[call.cell].forward(call, training, out, packed)


def backward(tape, grad_out=None, grad_h_n=None, grad_c_n=None, into=None):
    """Backpropagation through time: the gradients, those of the weights in ``into``'s arrays if given."""
    return _CELLS[tape.call.cell].backward(tape, grad_out, grad_h_n, grad_c_n, into)


def pack(call):
    """The weights of a call, packed once for many calls of ``forward``."""
    return _CELLS[call.cell].pack(call)
