# SPDX-License-Identifier: MIT
"""A stack of recurrent layers in PyTorch's elementary operations: slow, but all that PyTorch can do with a formula.

Derivatives of any order, forward mode and vmap, which its own kernels lack in part. Rows are packed as in a
``PackedSequence``: ``sizes[t]`` rows of time t, one time after the other, always of the first sequences.
T times, R rows of all times, B rows of the first, G gates, H hidden size, P size of h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

CellWeights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]  # w_ih, w_hh, b_ih, b_hh, w_hr


def rnn_step(z: Tensor, h: Tensor, c: Any, weights: CellWeights, activation: Callable[[Tensor], Tensor]) -> tuple:
    """h and c from z = W_ih x + b_ih and the states before."""
    _, w_hh, _, b_hh, _ = weights
    return activation(z + linear(h, w_hh, b_hh)), c


def gru_step(z: Tensor, h: Tensor, c: Any, weights: CellWeights, _: Any) -> tuple:
    """Likewise, with the reset after the recurrent product."""
    _, w_hh, _, b_hh, _ = weights
    z_r, z_u, z_n = z.chunk(3, -1)
    h_r, h_u, h_n = linear(h, w_hh, b_hh).chunk(3, -1)
    n = torch.tanh(z_n + torch.sigmoid(z_r + h_r) * h_n)
    return n + torch.sigmoid(z_u + h_u) * (h - n), c


def lstm_step(z: Tensor, h: Tensor, c: Tensor, weights: CellWeights, _: Any) -> tuple:
    """Likewise."""
    _, w_hh, _, b_hh, w_hr = weights
    i, f, g, o = (z + linear(h, w_hh, b_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w_hr is None else linear(h, w_hr)), c


STEPS = {"rnn": rnn_step, "gru": gru_step, "lstm": lstm_step}


def direction(
    cell: str, variant: str, rows: Tensor, sizes: Sequence[int], h: Tensor, c: Any, weights: CellWeights, reverse: bool
) -> tuple[Tensor, Tensor, Any]:
    """One layer in one direction: its outputs (R, P) and the states after each row's last time."""
    step, activation = STEPS[cell], torch.relu if variant == "relu" else torch.tanh
    z = linear(rows, weights[0], weights[2]).split(list(sizes))
    outs = [rows] * len(sizes)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        n = sizes[t]
        outs[t], c_t = step(z[t], h[:n], None if c is None else c[:n], weights, activation)
        h = torch.cat([outs[t], h[n:]])
        c = None if c is None else torch.cat([c_t, c[n:]])
    return torch.cat(outs), h, c


def stack(
    cell: str,
    variant: str,
    rows: Tensor,
    sizes: Sequence[int],
    h0: Tensor,
    c0: Any,
    weights: Sequence[CellWeights],
    directions: int,
    drop: Callable[[int, Tensor], Tensor],
) -> tuple[Tensor, ...]:
    """All layers over rows (R, I): outputs (R, D*P), final h and, for an LSTM, c. ``drop`` acts after a layer."""
    ends, layers = [], len(weights) // directions
    for l in range(layers):
        halves = []
        for d in range(directions):
            k = l * directions + d
            c = None if c0 is None else c0[k]
            out, *end = direction(cell, variant, rows, sizes, h0[k], c, weights[k], d == 1)
            halves.append(out)
            ends.append(end)
        rows = halves[0] if directions == 1 else torch.cat(halves, -1)
        if l < layers - 1:
            rows = drop(l, rows)
    states = [torch.stack(part) for part in zip(*ends, strict=True) if part[0] is not None]
    return tuple(chain([rows], states))
