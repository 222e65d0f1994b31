# SPDX-License-Identifier: MIT
"""PyTorch, eager: its modules as they are (oneDNN's LSTM), and its own loops and cells."""

from __future__ import annotations

from typing import Any

import torch
from _peer_task import Run, Task, UnableError, one_or_pair
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def modules(task: Task) -> Run:
    """`torch.nn.RNN`, `LSTM` and `GRU`; a ragged batch packed."""
    return run_of(torch.nn, task)


def run_of(library: Any, task: Task) -> Run:
    """The modules of torch.nn, or those of the same names in fastrnn.torch."""
    torch.set_num_threads(task.threads)
    x, *state = tensors = [torch.from_numpy(array) for array in (task.x, *task.state)]
    module = loaded(getattr(library, task.cell.upper())(*task.sizes, dtype=x.dtype), task)
    if task.mode == "training":
        return training(module, task, tensors)
    if task.mode == "step":
        return steps(module, x, one_or_pair(tuple(state)))
    return inference(lambda: forward(module, x, one_or_pair(tuple(state)), task.lengths))


def plain(task: Task) -> Run:
    """What PyTorch does without oneDNN's LSTM; step by step its cells."""
    if task.mode == "step":
        torch.set_num_threads(task.threads)
        cell = loaded(getattr(torch.nn, f"{task.cell.upper()}Cell")(*task.sizes), task)
        x, *state = (torch.from_numpy(array[0]) for array in (task.x, *task.state))
        return cell_steps(cell, x, one_or_pair(tuple(state)))
    if (task.cell, task.x.dtype) != ("lstm", "float32"):
        raise UnableError("the same as torch but for the LSTM in float32")
    torch.backends.mkldnn.set_flags(False)
    return modules(task)


def loaded(module: torch.nn.Module, task: Task) -> torch.nn.Module:
    """A module with the task's weights, which are its parameters in the same order."""
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), task.weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    return module


def forward(module: torch.nn.Module, x: torch.Tensor, state: Any, lengths: Any) -> tuple:
    """The output, padded, and the state."""
    if lengths is None:
        return module(x, state)
    packed = pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
    out, state = module(packed, state)
    return pad_packed_sequence(out, total_length=len(x))[0], state


def inference(run: Run) -> Run:
    """A run that records nothing."""
    return torch.inference_mode()(run)


def training(module: torch.nn.Module, task: Task, tensors: list[torch.Tensor]) -> Run:
    """A forward and a backward pass."""
    x, *state = (tensor.requires_grad_() for tensor in tensors)
    wanted, grad_out = [x, *module.parameters(), *state], torch.from_numpy(task.grad_out)

    def run() -> tuple:
        out, last = forward(module, x, one_or_pair(tuple(state)), task.lengths)
        grads = torch.autograd.grad(out, wanted, grad_out)
        return out.detach(), [part.detach() for part in (last if isinstance(last, tuple) else (last,))], grads

    return run


def steps(module: torch.nn.Module, x: torch.Tensor, state: Any) -> Run:
    """A module, called with one time step after the other."""

    def run() -> torch.Tensor:
        nonlocal state
        out, state = module(x, state)
        return out

    return inference(run)


def cell_steps(cell: torch.nn.Module, x: torch.Tensor, state: Any) -> Run:
    """A cell, likewise."""

    def run() -> torch.Tensor:
        nonlocal state
        state = cell(x, state)
        return state[0] if isinstance(state, tuple) else state

    return inference(run)
