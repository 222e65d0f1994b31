# SPDX-License-Identifier: MIT
"""One direction of a node, run: usual activations by fastrnn's kernels, others by the NumPy loop of this file.

T time steps, B batch, H hidden size, N rows at work in all steps together; letters as in `fastrnn.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .._records import Call, Ragged
from ..reference import Steps, blocks, inputs
from .activations import Activation
from .nodes import Direction

Ends = tuple[np.ndarray, np.ndarray | None]  # h_n and, for an LSTM, c_n


def run(
    direction: Direction,
    x: np.ndarray,
    ragged: Ragged | None,
    h0: np.ndarray | None,
    c0: np.ndarray | None,
    out: np.ndarray,
) -> Ends:
    """Run a direction over x (T, B, I), all arguments checked; writes ``out`` (T, B, H) and returns h_n and c_n."""
    T, B, _ = x.shape
    call = replace(direction.call, T=T, B=B, x=x, ragged=ragged, h0=h0, c0=c0)
    if direction.usual:
        _, h_n, c_n, _ = direction.backend.forward(call, False, out, direction.packed)
        return h_n, c_n
    return loop(call, direction.activations, direction.coupled, out)


def loop(call: Call, activations: tuple[Activation, ...], coupled: bool, out: np.ndarray) -> Ends:
    """Run every step, as `reference.forward` does, with what ONNX can ask for."""
    B, C = call.B, call.H if call.cell == "lstm" else 0
    act = [clipped(activation, call.clip) for activation in activations]
    steps = Steps(call)
    h, c = np.zeros((B + steps.N, call.H), call.dtype), np.zeros((B + steps.N, C), call.dtype)
    if call.h0 is not None:
        h[steps.start] = call.h0
    if call.c0 is not None:
        c[steps.start] = call.c0
    h_now, c_now = h[B:], c[B:]
    with np.errstate(all="ignore"):  # as silent about Inf and NaN as the compiled kernels
        z = inputs(call, steps.gather(call.x))
        for prev, now in steps.slices:
            if call.cell == "lstm":
                h_now[now], c_now[now] = lstm_step(call, act, coupled, z[now], h[prev], c[prev])
            else:
                step = gru_step if call.cell == "gru" else rnn_step
                h_now[now] = step(call, act, z[now], h[prev])
    steps.scatter(h_now, out)
    return h[steps.last], c[steps.last] if C else None


def clipped(activation: Activation, clip: float | None) -> Callable[[np.ndarray], np.ndarray]:
    """The activation, its input kept in -clip..clip."""
    return activation if clip is None else lambda z: activation(np.clip(z, -clip, clip))


def rnn_step(call, act, z_t, h_prev):
    """h = f(z)."""
    (f,) = act
    return f(z_t + h_prev @ call.w_hh.T)


def gru_step(call, act, z_t, h_prev):
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
    return (1 - u) * n + u * h_prev


def lstm_step(call, act, coupled, z_t, h_prev, c_prev):
    """c = f c_prev + i g(z_g), h = o h(c); i, f, o from f, each seeing the cell through its peephole."""
    (act_f, act_g, act_h), peephole = act, call.peephole
    i, f, g, o = blocks(z_t + h_prev @ call.w_hh.T, call.H)
    if peephole is None:
        i, f = act_f(i), act_f(f)
    else:
        i, f = act_f(i + peephole[0] * c_prev), act_f(f + peephole[1] * c_prev)
    if coupled:
        f = 1 - i
    c_t = f * c_prev + i * act_g(g)
    o = act_f(o if peephole is None else o + peephole[2] * c_t)
    return o * act_h(c_t), c_t
