# SPDX-License-Identifier: MIT
"""RNN, LSTM and GRU in plain NumPy, forward and backward through time: the fallback, and the text to read first.

T time steps, B batch, I input size, H hidden size, P size of h, R rows of all steps.
z pre-activations, then what the gates made of them; h hidden state; c cell state; dz, dh, dc gradients of the loss.
_t this step, _prev the step before. Gates: LSTM i f g o; GRU r u n, u being the API's z, and m what csrc
calls q (reset after) or rh (reset before).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import _check, _run
from ._records import GATES, WEIGHTS, Call, Grads, Ragged, Tape

# -- where rows are --------------------------------------------------------------------------------------------------


class Steps:
    """The rows of every step, one step after another in one array, and only those at work: padding has no place here.

    States have B rows more, in front, for the initial ones::

        h, c:  | initial, B rows | step 0, alive[0] rows | step 1, alive[1] rows | ...
        x, z:                    | step 0, alive[0] rows | step 1, alive[1] rows | ...
    """

    R: int  # rows at work in all steps together
    slices: list[tuple[slice, slice]]  # of each step, the states before it and its own rows
    prev: np.ndarray  # (R,) of each row, where the state before it is
    start: np.ndarray  # (B,) of each sequence, where its initial state is
    last: np.ndarray  # (B,) of each sequence, where its final state is
    where: tuple  # the rows as an index into (T, B), or into (R,) of packed ones ...
    shape: tuple[int, ...]  # ... and what such an index selects

    def __init__(self, call: Call) -> None:
        T, B = call.T if call.B else 0, call.B  # an empty batch may have any number of steps
        ragged = Ragged.of(np.full(B, T), T) if call.ragged is None else call.ragged
        alive = ragged.alive
        sizes = np.concatenate(([B], alive))
        first = np.cumsum(sizes) - sizes  # where the states after 0, 1, ... T steps begin
        step = np.repeat(np.arange(T), alive)
        self.R = len(step)
        rank = np.arange(B, B + self.R) - first[step + 1]
        self.slices = [
            (slice(p, p + n), slice(q - B, q - B + n))
            for p, q, n in zip(first[:-1].tolist(), first[1:].tolist(), alive.tolist(), strict=True)
            if n
        ]
        self.prev = first[step] + rank
        self.start = np.argsort(ragged.order)
        self.last = first[ragged.lengths[self.start]] + self.start
        if call.ragged is None:
            self.where, self.shape = (slice(None, None, -1 if call.reverse else 1),), (call.T, B)
        else:
            time = ragged.lengths[rank] - 1 - step if call.reverse else step
            packed = call.x.ndim == 2
            self.where = (ragged.start[time] + rank,) if packed else (time, ragged.order[rank])
            self.shape = (self.R,)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The rows at work, (R, ·), out of (T, B, ·)."""
        return array[self.where].reshape(self.R, array.shape[-1])

    def scatter(self, rows: np.ndarray, array: np.ndarray) -> np.ndarray:
        """(T, B, ·), filled from the rows at work, (R, ·), and with 0 past the lengths."""
        array[...] = 0
        array[self.where] = rows.reshape(*self.shape, rows.shape[1])
        return array


# -- the cells -------------------------------------------------------------------------------------------------------
#
# A step turns z_t, which comes as x_t W_ih^T + b, into the gates' values, in place, and writes h_t and c_t.
# A step backward reads the gates, h_prev and c, writes dz_t, and returns dh_prev and dc_prev.
# RNN and GRU have no c: theirs has no columns.


def sigmoid(a: np.ndarray) -> None:
    """1 / (1 + e^-a), in place; e^-a may become Inf, the result is then the 0 it should be."""
    np.exp(-a, out=a)  # NumPy 2.4.6: np.negative(a, out=a) errs at strides of 4 floats or 8 doubles
    a += 1
    np.reciprocal(a, out=a)


def blocks(z: np.ndarray, H: int) -> list[np.ndarray]:
    """The gates side by side in z, as views."""
    return [z[:, k : k + H] for k in range(0, z.shape[1], H)]


def clipped(call: Call, z: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """What goes into an activation, kept in -clip..clip."""
    return z if call.clip is None else np.clip(z, -call.clip, call.clip, out=out)


def rnn_step(call, z_t, h_prev, c_prev, h_t, c_t):
    """h = tanh(W_ih x + W_hh h_prev + b): Elman 1990; relu in place of tanh: Le, Jaitly and Hinton 2015."""
    z_t += h_prev @ call.w_hh.T
    clipped(call, z_t, out=z_t)
    if call.variant == "tanh":
        np.tanh(z_t, out=z_t)
    else:
        np.maximum(z_t, 0, out=z_t)
    h_t[...] = z_t


def rnn_step_backward(call, z_t, h_prev, c_prev, c_t, dh_t, dc_t, dz_t):
    """dz = dh f'(z), where tanh' = 1 - h^2 and relu' = [h > 0], or 1 where h is NaN."""
    dz_t[...] = dh_t * (1 - z_t * z_t) if call.variant == "tanh" else np.where(z_t <= 0, 0, dh_t)
    return dz_t @ call.w_hh, dc_t


def lstm_step(call, z_t, h_prev, c_prev, h_t, c_t):
    """c = f c_prev + i g, h = o tanh(c): Hochreiter and Schmidhuber 1997, the forget gate by Gers et al. 2000.

    i, f, o = sigmoid and g = tanh of their rows of W_ih x + W_hh h_prev + b.
    With a projection, h = W_hr (o tanh(c)): Sak, Senior and Beaufays 2014.
    With peepholes, i and f see c_prev and o sees c: Gers and Schmidhuber 2000.
    """
    z_t += h_prev @ call.w_hh.T
    i, f, g, o = blocks(z_t, call.H)
    if call.peephole is not None:
        i += call.peephole[0] * c_prev
        f += call.peephole[1] * c_prev
    clipped(call, z_t[:, : 3 * call.H], out=z_t[:, : 3 * call.H])
    sigmoid(z_t[:, : 2 * call.H])  # i and f at once
    np.tanh(g, out=g)
    c_t[...] = f * c_prev + i * g
    if call.peephole is not None:
        o += call.peephole[2] * c_t
    clipped(call, o, out=o)
    sigmoid(o)
    a = o * np.tanh(clipped(call, c_t))
    h_t[...] = a if call.w_hr is None else a @ call.w_hr.T


def lstm_step_backward(call, z_t, h_prev, c_prev, c_t, dh_t, dc_t, dz_t):
    """dc = dc_t + dh o (1 - tanh(c)^2), and from it the gates; sigmoid' = s (1 - s)."""
    i, f, g, o = blocks(z_t, call.H)
    dz_i, dz_f, dz_g, dz_o = blocks(dz_t, call.H)
    tanh_c = np.tanh(c_t)
    dh = dh_t if call.w_hr is None else dh_t @ call.w_hr
    dc = dc_t + dh * o * (1 - tanh_c * tanh_c)
    dz_i[...] = dc * g * i * (1 - i)
    dz_f[...] = dc * c_prev * f * (1 - f)
    dz_g[...] = dc * i * (1 - g * g)
    dz_o[...] = dh * tanh_c * o * (1 - o)
    return dz_t @ call.w_hh, dc * f


def gru_step(call, z_t, h_prev, c_prev, h_t, c_t):
    """h = n + u (h_prev - n): Cho et al. 2014; r and u = sigmoid of their rows of W_ih x + W_hh h_prev + b.

    Reset after, as in cuDNN: n = tanh(W_in x + b_in + r m), m = W_hn h_prev + b_hn.
    Reset before, as in Cho et al.: n = tanh(W_in x + b_in + W_hn m + b_hn), m = r h_prev.
    """
    H = call.H
    r, u, n, m = blocks(z_t, H)
    ru = z_t[:, : 2 * H]
    if call.variant == "reset_after":
        a = h_prev @ call.w_hh.T
        ru += a[:, : 2 * H]
        sigmoid(clipped(call, ru, out=ru))
        m[...] = a[:, 2 * H :] if call.b_hh is None else a[:, 2 * H :] + call.b_hh[2 * H :]
        n += r * m
    else:
        ru += h_prev @ call.w_hh[: 2 * H].T
        sigmoid(clipped(call, ru, out=ru))
        m[...] = r * h_prev
        n += m @ call.w_hh[2 * H :].T
    np.tanh(clipped(call, n), out=n)
    h_t[...] = n + u * (h_prev - n)


def gru_step_backward(call, z_t, h_prev, c_prev, c_t, dh_t, dc_t, dz_t):
    """dn = dh (1 - u), du = dh (h_prev - n), then back through m to r; dz_m is the gradient of W_hn's product."""
    H = call.H
    r, u, n, m = blocks(z_t, H)
    dz_r, dz_u, dz_n, dz_m = blocks(dz_t, H)
    w_hn = call.w_hh[2 * H :]
    dz_n[...] = dh_t * (1 - u) * (1 - n * n)
    dz_u[...] = dh_t * (h_prev - n) * u * (1 - u)
    dh_prev = dh_t * u
    if call.variant == "reset_after":
        dz_m[...] = dz_n * r
        dz_r[...] = dz_n * m * r * (1 - r)
        dh_prev += dz_m @ w_hn
    else:
        dz_m[...] = dz_n
        dm = dz_n @ w_hn
        dz_r[...] = dm * h_prev * r * (1 - r)
        dh_prev += dm * r
    dh_prev += dz_t[:, : 2 * H] @ call.w_hh[: 2 * H]
    return dh_prev, dc_t


STEP = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}
STEP_BACKWARD = {"rnn": rnn_step_backward, "lstm": lstm_step_backward, "gru": gru_step_backward}


# -- all steps -------------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """What a forward pass keeps: every row of every step, and where each is."""

    steps: Steps
    x: np.ndarray  # (R, I)
    z: np.ndarray  # (R, gates*H), the gates' values
    h: np.ndarray  # (B + R, P)
    c: np.ndarray  # (B + R, H), or no columns


def inputs(call: Call, x: np.ndarray) -> np.ndarray:
    """z = x W_ih^T + b of all rows at once, both biases in it but for b_hn where that belongs inside r (...)."""
    H = call.H
    z = np.empty((len(x), 4 * H if call.cell == "gru" else len(call.w_ih)), call.dtype)
    gates = z[:, : len(call.w_ih)]
    np.matmul(x, call.w_ih.T, out=gates)
    if call.b_ih is not None:
        gates += call.b_ih
    if call.b_hh is not None:
        outside = 2 * H if call.variant == "reset_after" else len(call.b_hh)
        gates[:, :outside] += call.b_hh[:outside]
    return z


def forward(
    call: Call, training: bool, out: np.ndarray | None = None, packed: None = None, step: Callable | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Saved | None]:
    """Run every step, the cell's own or ``step``: (out, h_n, c_n or None, what backward needs if training)."""
    B, C = call.B, call.H if call.cell == "lstm" else 0
    steps, step = Steps(call), step or STEP[call.cell]
    h, c = np.zeros((B + steps.R, call.P), call.dtype), np.zeros((B + steps.R, C), call.dtype)
    if call.h0 is not None:
        h[steps.start] = call.h0
    if call.c0 is not None:
        c[steps.start] = call.c0
    h_now, c_now = h[B:], c[B:]
    x = steps.gather(call.x)
    with np.errstate(all="ignore"):  # as silent about Inf and NaN as the compiled kernels
        z = inputs(call, x)
        for prev, now in steps.slices:
            step(call, z[now], h[prev], c[prev], h_now[now], c_now[now])
    out = steps.scatter(h_now, np.empty((*call.x.shape[:-1], call.P), call.dtype) if out is None else out)
    return out, h[steps.last], c[steps.last] if C else None, Saved(steps, x, z, h, c) if training else None


def backward(
    tape: Tape,
    grad_out: np.ndarray | None,
    grad_h_n: np.ndarray | None,
    grad_c_n: np.ndarray | None,
    into: Grads | None = None,
    of_x: bool = True,
    of_weights: bool = True,
    watch: Callable[[Tape, np.ndarray, np.ndarray], None] | None = None,
) -> Grads:
    """Backpropagation through time (Werbos 1990): dh and dc hold, where h and c do, the gradient of every state.

    An LSTM's dc_t lacks what reaches c_t from h_t. ``watch(tape, dh, dc)`` is shown them: see ``fastrnn.diagnostics``.
    Gradients of x, or of the weights, that are not wanted are None.
    """
    call, B = tape.call, tape.call.B
    steps, _, z, h, c = tape.saved
    step_backward = STEP_BACKWARD[call.cell]
    dz, dh, dc = np.empty_like(z), np.zeros_like(h), np.zeros_like(c)
    dh_now, dc_now, c_now = dh[B:], dc[B:], c[B:]
    if grad_out is not None:
        dh_now[...] = steps.gather(grad_out)
    with np.errstate(all="ignore"):
        if grad_h_n is not None:
            dh[steps.last] += grad_h_n
        if grad_c_n is not None:
            dc[steps.last] += grad_c_n
        for prev, now in reversed(steps.slices):
            dh_prev, dc_prev = step_backward(
                call, z[now], h[prev], c[prev], c_now[now], dh_now[now], dc_now[now], dz[now]
            )
            dh[prev] += dh_prev
            dc[prev] += dc_prev
        grads = gradients(call, tape.saved, dz, dh, of_x, of_weights)
    if call.cell == "lstm":
        grads.c0 = dc[steps.start]
    if watch is not None:
        watch(tape, dh, dc)
    return grads if into is None or not of_weights else written(grads, into)


def gradients(call: Call, saved: Saved, dz: np.ndarray, dh: np.ndarray, of_x: bool, of_weights: bool) -> Grads:
    """What dz and dh of all steps add up to: the gradients of x, h0 and the weights, one product each."""
    steps, x, z, h, c = saved
    H, B = call.H, call.B
    dz_x = dz_h = dz[:, : len(call.w_ih)]
    dx: Any = steps.scatter(dz_x @ call.w_ih, np.empty(call.x.shape, call.dtype)) if of_x else None
    nothing: Any = None
    if not of_weights:
        return Grads(dx, nothing, nothing, None, None, h0=dh[steps.start])
    h_prev = h[steps.prev]
    w_hh = dz_h.T @ h_prev
    if call.cell == "gru":  # behind the n gate, W_hn saw other rows and other gradients than W_in
        dz_m = dz[:, 3 * H :]
        w_hh[2 * H :] = dz_m.T @ (h_prev if call.variant == "reset_after" else z[:, 3 * H :])
        dz_h = np.concatenate((dz[:, : 2 * H], dz_m), axis=1)
    w_hr = None if call.w_hr is None else dh[B:].T @ (z[:, 3 * H :] * np.tanh(c[B:]))
    return Grads(
        x=dx,
        w_ih=dz_x.T @ x,
        w_hh=w_hh,
        b_ih=None if call.b_ih is None else dz_x.sum(axis=0),
        b_hh=None if call.b_hh is None else dz_h.sum(axis=0),
        h0=dh[steps.start],
        w_hr=w_hr,
    )


def written(grads: Grads, into: Grads) -> Grads:
    """The same gradients, those of the weights in the arrays of ``into``."""
    for name in WEIGHTS:
        value, target = getattr(grads, name), getattr(into, name)
        if value is not None:
            target[...] = value
            setattr(grads, name, target)
    return grads


new_array = np.empty  # the compiled kernels' takes memory that earlier results left


def pack(call: Call) -> None:
    """The compiled kernels reorder the weights; NumPy takes them as they are."""


def serve(call: Call, packed: None, x: Any, state: Any, batch_first: bool) -> None:
    """The compiled kernels' short way through a layer: None sends calls the way of all others."""


class Stepper:
    """One time step at a time through L layers of one direction, the states kept between calls."""

    def __init__(self, cell: str, variant: str, weights: list[tuple], B: int) -> None:
        self.calls = []
        for w_ih, w_hh, b_ih, b_hh, w_hr in copy.deepcopy(weights):  # as they are now
            I, H, P = w_ih.shape[1], len(w_hh) // GATES[cell], w_hh.shape[1]
            x = np.empty((0, B, I), w_ih.dtype)
            call = Call(cell, variant, 0, B, I, H, P, x, w_ih, w_hh, b_ih, b_hh, w_hr, None, None, None, False)
            self.calls.append(call)
        self.step = STEP[cell]
        self.assign(None, None)

    def __call__(self, x: np.ndarray, out: np.ndarray) -> None:
        """One step: x (B, I) in, the last layer's h into out (B, P)."""
        with np.errstate(all="ignore"):
            for call, h, c in zip(self.calls, self.h, self.c, strict=True):
                self.step(call, inputs(call, x), h, c, h, c)
                x = h
        out[...] = x

    def feed(self, x: Any, out: Any = None) -> None:
        """The compiled stepper's way to check and take arrays in one go: None sends them the way of all others."""

    def state(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Copies of h (L, B, P) and of c (L, B, H), which is None for RNN and GRU."""
        return self.h.copy(), self.c.copy() if self.c.shape[2] else None

    def assign(self, h: np.ndarray | None, c: np.ndarray | None) -> None:
        """Copy h and c in; None for zeros."""
        first, L = self.calls[0], len(self.calls)
        C = first.H if first.cell == "lstm" else 0
        self.h, self.c = np.zeros((L, first.B, first.P), first.dtype), np.zeros((L, first.B, C), first.dtype)
        if h is not None:
            self.h[...] = h
        if c is not None:
            self.c[...] = c


# -- the public functions: check, compute, result; documented in fastrnn.functional ----------------------------------

_this = sys.modules[__name__]


def rnn(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, nonlinearity="tanh", lengths=None, reverse=False):
    """``fastrnn.rnn`` in NumPy."""
    return _run.infer(_this, _check.rnn(x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths, reverse))


def lstm(x, w_ih, w_hh, b_ih=None, b_hh=None, state0=None, *, w_hr=None, lengths=None, reverse=False):
    """``fastrnn.lstm`` in NumPy."""
    return _run.infer(_this, _check.lstm(x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths, reverse))


def gru(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, reset_after=True, lengths=None, reverse=False):
    """``fastrnn.gru`` in NumPy."""
    return _run.infer(_this, _check.gru(x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths, reverse))


def rnn_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, nonlinearity="tanh", lengths=None, reverse=False):
    """``fastrnn.rnn_forward`` in NumPy."""
    return _run.forward(_this, _check.rnn(x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths, reverse))


def lstm_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, state0=None, *, w_hr=None, lengths=None, reverse=False):
    """``fastrnn.lstm_forward`` in NumPy."""
    return _run.forward(_this, _check.lstm(x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths, reverse))


def gru_forward(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, *, reset_after=True, lengths=None, reverse=False):
    """``fastrnn.gru_forward`` in NumPy."""
    return _run.forward(_this, _check.gru(x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths, reverse))


def rnn_backward(tape, grad_out=None, grad_h_n=None):
    """``fastrnn.rnn_backward``."""
    return _run.backward("rnn", tape, grad_out, grad_h_n)


def lstm_backward(tape, grad_out=None, grad_h_n=None, grad_c_n=None):
    """``fastrnn.lstm_backward``."""
    return _run.backward("lstm", tape, grad_out, grad_h_n, grad_c_n)


def gru_backward(tape, grad_out=None, grad_h_n=None):
    """``fastrnn.gru_backward``."""
    return _run.backward("gru", tape, grad_out, grad_h_n)
