# SPDX-License-Identifier: MIT
"""One direction of a node, run: usual activations by fastrnn's kernels, others by the steps of this file.

T time steps, B batch, H hidden size; letters and what a step takes as in `fastrnn.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from .._records import Ragged
from ..reference import blocks, forward
from .activations import Activation
from .nodes import Direction


def run(
    direction: Direction,
    x: np.ndarray,
    ragged: Ragged | None,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    out: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Run a direction over x (T, B, I), all arguments checked; writes ``out`` (T, B, H), returns h_n and c_n."""
    T, B, _ = x.shape
    call = replace(direction.call, T=T, B=B, x=x, ragged=ragged, h0=h0, c0=c0)
    if direction.usual:
        _, h_n, c_n, _ = direction.backend.forward(call, False, out, direction.packed)
    else:
        step = partial(STEP[call.cell], [clipped(f, call.clip) for f in direction.activations], direction.coupled)
        _, h_n, c_n, _ = forward(call, False, out, step=step)
    return h_n, c_n


def clipped(activation: Activation, clip: float | None) -> Callable[[np.ndarray], np.ndarray]:
    """The activation, its input kept in -clip..clip."""
    return activation if clip is None else lambda z: activation(np.clip(z, -clip, clip))


def rnn_step(act, coupled, call, z_t, h_prev, c_prev, h_t, c_t):
    """h = f(z)."""
    (f,) = act
    h_t[...] = f(z_t + h_prev @ call.w_hh.T)


def gru_step(act, coupled, call, z_t, h_prev, c_prev, h_t, c_t):
    """h = (1 - u) n + u h_prev, with u and r from f, n from g; u is ONNX's z, n its h."""
    (f, g), H = act, call.H
    r, u, n, _ = blocks(z_t, H)
    if call.variant == "reset_after":
        a_r, a_u, a_n = blocks(h_prev @ call.w_hh.T, H)
        m = a_n if call.b_hh is None else a_n + call.b_hh[2 * H :]
        r, u = f(r + a_r), f(u + a_u)
        n = g(n + r * m)
    else:
        a_r, a_u = blocks(h_prev @ call.w_hh[: 2 * H].T, H)
        r, u = f(r + a_r), f(u + a_u)
        n = g(n + (r * h_prev) @ call.w_hh[2 * H :].T)
    h_t[...] = (1 - u) * n + u * h_prev


def lstm_step(act, coupled, call, z_t, h_prev, c_prev, h_t, c_t):
    """c = f c_prev + i g(z_g), h = o h(c); i, f, o from f, each seeing the cell through its peephole."""
    (act_f, act_g, act_h), peephole = act, call.peephole
    i, f, g, o = blocks(z_t + h_prev @ call.w_hh.T, call.H)
    if peephole is None:
        i, f = act_f(i), act_f(f)
    else:
        i, f = act_f(i + peephole[0] * c_prev), act_f(f + peephole[1] * c_prev)
    if coupled:
        f = 1 - i
    c_t[...] = f * c_prev + i * act_g(g)
    o = act_f(o if peephole is None else o + peephole[2] * c_t)
    h_t[...] = o * act_h(c_t)


STEP = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}
