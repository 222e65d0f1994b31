# SPDX-License-Identifier: MIT
"""Modules of PyTorch and ours with the same weights, inputs for them, and whether both do the same.

T times, B batch, I input size, H hidden size, P size of h, L layers, D directions.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn.torch
from fastrnn import _torch_autograd

torch.set_num_threads(1)  # a second one would only wait

T, B, I, H = 6, 3, 4, 5
CELLS = {
    "rnn": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "projected": (nn.LSTM, {"proj_size": 3}),
}
STACKS = {
    "plain": {},
    "no-bias": {"bias": False},
    "bidirectional": {"bidirectional": True},
    "stacked": {"num_layers": 3},
    "both": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 3, "dropout": 0.4},
    "all-dropped": {"num_layers": 2, "dropout": 1.0, "bidirectional": True},
}
LAYOUTS = ("time-first", "batch-first", "unbatched", "unbatched-batch-first", "sorted", "unsorted", "even")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

# What PyTorch says of its own LSTM, and of a switch that turns oneDNN off.
KNOWN = ("LSTM with projections is not supported with oneDNN", "TF32 acceleration on top of oneDNN")
quiet = [pytest.mark.filterwarnings(f"ignore:{text}:UserWarning") for text in KNOWN]

each_cell = pytest.mark.parametrize("cell", CELLS)
each_stack = pytest.mark.parametrize("stack", STACKS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).rpartition(".")[2])


def modules(cell, seed=0, hidden_size=H, **options):
    """(torch.nn's, ours), of the same weights."""
    kind, more = CELLS[cell]
    torch.manual_seed(seed)
    theirs = kind(I, hidden_size, **more, **options)
    ours = fastrnn.torch.accelerate(copy.deepcopy(theirs))
    assert type(ours) is getattr(fastrnn.torch, kind.__name__)
    return theirs, ours


def inputs(module, layout, T=T, B=B, seed=1):
    """x, as a PackedSequence if the layout says so, and a list of initial states."""
    rng = torch.Generator().manual_seed(seed)
    dtype, B = module.weight_ih_l0.dtype, 1 if layout.startswith("unbatched") else B
    x = torch.randn(T, B, I, dtype=dtype, generator=rng)
    LD = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 1 + isinstance(module, nn.LSTM)]
    states = [torch.randn(LD, B, size, dtype=dtype, generator=rng) for size in sizes]
    if layout.startswith("unbatched"):
        return x[:, 0], [state[:, 0] for state in states]
    if layout in ("time-first", "batch-first"):
        return x.transpose(0, 1).contiguous() if layout == "batch-first" else x, states
    lengths = {"sorted": range(T, 0, -1), "unsorted": [(2 * b + 1) % T + 1 for b in range(B)], "even": [T] * B}[layout]
    return pack_padded_sequence(x, list(lengths)[:B], enforce_sorted=layout == "sorted"), states


def options_of(layout):
    """What a module has to be told of it."""
    return {"batch_first": True} if layout.endswith("batch-first") else {}


def packed(out):
    return out.data if isinstance(out, PackedSequence) else out


def call(module, x, states, seed=2):
    """(out, *final states), with the dropout masks of a seed."""
    torch.manual_seed(seed)
    hx = None if states is None else tuple(states) if isinstance(module, nn.LSTM) else states[0]
    out, state = module(x, hx)
    return out, *(state if isinstance(module, nn.LSTM) else (state,))


def gradients(module, x, states, wanted=None, create_graph=False):
    """(results, gradients of a random loss) by x, states and parameters."""
    source = packed(x).detach().clone().requires_grad_()
    states = None if states is None else [state.detach().clone().requires_grad_() for state in states]
    results = call(module, PackedSequence(source, *x[1:]) if isinstance(x, PackedSequence) else source, states)
    rng = torch.Generator().manual_seed(3)
    parts = [packed(part) for part in results]
    loss = sum((part * torch.randn(part.shape, dtype=part.dtype, generator=rng)).sum() for part in parts)
    wanted = wanted or [source, *(states or ()), *module.parameters()]
    return parts, torch.autograd.grad(loss, wanted, create_graph=create_graph)


def flat(results):
    """All tensors in nested results."""
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for part in results if part is not None for tensor in flat(part)]


def assert_close(found, wanted):
    found, wanted = flat(found), flat(wanted)
    tolerance = TOLERANCE[found[0].dtype]
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


class Ways(list):
    """Which way every call of our modules took: "kernels" or "torch"."""

    def kernels_only(self):
        return set(self) == {"kernels"}

    def torch_only(self):
        return set(self) == {"torch"}


def watched_ways(monkeypatch):
    """A fixture: the ways taken so far."""
    taken, forward, run = Ways(), fastrnn.torch.Recurrent.forward, _torch_autograd.Pass.forward

    def watched(self, *arguments):
        before = len(taken)
        result = forward(self, *arguments)
        if len(taken) == before:
            taken.append("torch")
        return result

    def running(self, *arguments, **options):
        taken.append("kernels")
        return run(self, *arguments, **options)

    def served(self, *arguments):
        result = serve(self, *arguments)
        if result is not None:
            taken.append("kernels")
        return result

    serve = fastrnn.torch.Recurrent._served
    monkeypatch.setattr(fastrnn.torch.Recurrent, "forward", watched)
    monkeypatch.setattr(fastrnn.torch.Recurrent, "_served", served)
    monkeypatch.setattr(_torch_autograd.Pass, "forward", running)
    return taken
