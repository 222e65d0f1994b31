# SPDX-License-Identifier: MIT
"""The compiled backend: the same interface as `reference`. Each cell brings its steps, `_unroll` and `_bptt`
the loops over time."""

from __future__ import annotations

from . import _gru, _lstm, _rnn, _unroll
from ._kernels import new_array
from ._stepper import Stepper, lone_call, lone_step

__all__ = ["Stepper", "backward", "forward", "new_array", "pack", "serve"]

_CELLS = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def forward(call, training, out=None, packed=None):
    """Run a call: (out, h_n, c_n or None, what backward needs if training)."""
    if packed is None:
        found = None if training or call.T != 1 or call.B != 1 else lone_call(call, out)
        if found is not None:  # weights are not worth packing for a step
            return found
        packed = _CELLS[call.cell].pack(call)
    return _unroll.forward(call, training, out, packed)


def backward(tape, grad_out, grad_h_n, grad_c_n, into=None, of_x=True, of_weights=True):
    """Backpropagation through time: the gradients, those of the weights in ``into``'s arrays if given; None for x or
    the weights if they are not wanted."""
    return _CELLS[tape.call.cell].backward(tape, grad_out, grad_h_n, grad_c_n, into, of_x, of_weights)


def pack(call):
    """The weights of a call, packed once for many calls of ``forward``."""
    packed = _CELLS[call.cell].pack(call)
    packed.pack_inputs()
    return packed


def serve(call, packed, x, state, batch_first):
    """A call of a layer of one direction, the short way: (out, state), or None where an array is not just as needed.

    call: any with the layer's weights; packed: those, packed, or None.
    """
    if packed is None:
        served = lone_step(call, x, state)
        if served is not None:
            return served
        packed = _CELLS[call.cell].pack(call)
    return packed.serve(x, state, batch_first)
