# SPDX-License-Identifier: MIT
"""fastrnn as a good user calls it (streams, frozen layers, functions), by layers and by functions alone, and its NumPy
fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from _peer_task import Run, Task, UnableError, one_or_pair

import fastrnn
from fastrnn import reference

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
GRADS = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")


def layer_of(task: Task) -> fastrnn.layers.Layer:
    """A layer with the task's weights."""
    layer = getattr(fastrnn, task.cell.upper())(*task.sizes, dtype=task.x.dtype)
    layer.load_state_dict(dict(zip(NAMES, task.weights, strict=True)))
    return layer


def native(task: Task) -> Run:
    """The compiled kernels."""
    fastrnn.set_num_threads(task.threads)
    if task.mode == "training":
        return training(fastrnn, task)
    state = one_or_pair(task.state)
    if task.mode == "inference":
        frozen = layer_of(task).freeze()
        return lambda: frozen(task.x, state, task.lengths)
    stream = layer_of(task).stream()
    stream.reset(state)
    x, out = task.x[0], np.empty_like(task.grad_out[0])
    return lambda: stream(x, out)


def layers(task: Task) -> Run:
    """Layers as they are, packed anew in each call."""
    fastrnn.set_num_threads(task.threads)
    layer, state = layer_of(task), one_or_pair(task.state)
    if task.mode == "step":
        return steps(layer, task.x, state)
    if task.mode == "inference":
        return lambda: layer(task.x, state, task.lengths)

    def run() -> tuple:
        out, last, tape = layer.forward(task.x, state, task.lengths)
        grads = layer.backward(tape, task.grad_out)
        return out, last, [grads.x, *grads.params.values(), grads.state]

    return run


def functions(task: Task) -> Run:
    """Functions alone."""
    if task.mode == "training":
        raise UnableError("the same as fastrnn in training")
    fastrnn.set_num_threads(task.threads)
    function, (arguments, options) = getattr(fastrnn, task.cell), called(task)
    if task.mode == "inference":
        return lambda: function(*arguments, **options)
    x, *weights, state = arguments
    return steps(lambda x, state: function(x, *weights, state), x, state)


def steps(call: Callable[[np.ndarray, Any], tuple], x: np.ndarray, state: Any) -> Run:
    """Calls of one time step each."""

    def run() -> np.ndarray:
        nonlocal state
        out, state = call(x, state)
        return out

    return run


def fallback(task: Task) -> Run:
    """The same in NumPy."""
    if task.mode == "training":
        return training(reference, task)
    if task.mode == "inference":
        function, arguments, options = getattr(reference, task.cell), *called(task)
        return lambda: function(*arguments, **options)
    stepper = reference.Stepper(task.cell, layer_of(task).variant, [(*task.weights, None)], 1)
    stepper.assign(*task.state, *[None] * (2 - len(task.state)))
    x, out = task.x[0], np.empty_like(task.grad_out[0])

    def run() -> np.ndarray:
        stepper(x, out)
        return out

    return run


def called(task: Task) -> tuple[tuple, dict[str, Any]]:
    """The functions' arguments and options."""
    state = one_or_pair(tuple(part[0] for part in task.state))
    return (task.x, *task.weights, state), {"lengths": task.lengths}


def training(side: Any, task: Task) -> Run:
    """A forward and a backward pass."""
    forward, backward = getattr(side, f"{task.cell}_forward"), getattr(side, f"{task.cell}_backward")
    arguments, options = called(task)

    def run() -> tuple:
        out, state, tape = forward(*arguments, **options)
        grads = backward(tape, task.grad_out)
        return out, state, [getattr(grads, name) for name in GRADS]

    return run
