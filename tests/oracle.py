# SPDX-License-Identifier: MIT
"""The root of all trust: each cell as scalar loops over Python floats, straight from its paper.

Shares no code with fastrnn, and is slow on purpose. Works on complex numbers too, so that derivatives can be had by
complex step, exact to rounding.
T time steps, B batch, I input size, H hidden size, P size of h. W, U weights of x and h, b, d their biases.
A clip, of real numbers only, bounds what goes into each activation, as ONNX has it.
"""

from __future__ import annotations

import cmath
import math

import numpy as np

# -- scalars and sums ------------------------------------------------------------------------------------------------


def exp(a):
    return cmath.exp(a) if isinstance(a, complex) else math.exp(a)


def tanh(a):
    return cmath.tanh(a) if isinstance(a, complex) else math.tanh(a)


def relu(a):
    return a if a.real > 0 else 0.0


def sigmoid(a):
    return 1 / (1 + exp(-a)) if a.real >= 0 else exp(a) / (1 + exp(a))  # neither side overflows


def clipped(a, clip):
    return a if clip is None or -clip <= a <= clip else math.copysign(clip, a)


def dot(row, vector):
    return sum(a * b for a, b in zip(row, vector, strict=True))


# -- one step of one sequence ----------------------------------------------------------------------------------------


def rnn_step(x, h, c, W, U, b, d, clip, activation):
    """Elman 1990: h_j = f([W x]_j + b_j + [U h]_j + d_j)."""
    return [activation(clipped(dot(W[j], x) + b[j] + dot(U[j], h) + d[j], clip)) for j in range(len(U))], c


def lstm_step(x, h, c, W, U, b, d, clip, projection, peephole):
    """Hochreiter and Schmidhuber 1997, the forget gate by Gers et al. 2000, the projection by Sak et al. 2014.

    Peepholes by Gers and Schmidhuber 2000: of i, f and o, the last one's to the new c.
    """
    H = len(c)
    p_i, p_f, p_o = peephole or [[0.0] * H] * 3
    m, c_new = [], []
    for j in range(H):
        z_i, z_f, z_g, z_o = (dot(W[k], x) + b[k] + dot(U[k], h) + d[k] for k in (j, H + j, 2 * H + j, 3 * H + j))
        i, f = sigmoid(clipped(z_i + p_i[j] * c[j], clip)), sigmoid(clipped(z_f + p_f[j] * c[j], clip))
        c_j = f * c[j] + i * tanh(clipped(z_g, clip))
        c_new.append(c_j)
        m.append(sigmoid(clipped(z_o + p_o[j] * c_j, clip)) * tanh(clipped(c_j, clip)))
    return (m if projection is None else [dot(row, m) for row in projection]), c_new


def gru_step(x, h, c, W, U, b, d, clip, reset_after):
    """Cho et al. 2014, equations 5 to 8, or with the reset gate after the recurrent product, as in cuDNN."""
    H = len(h)
    r = [sigmoid(clipped(dot(W[j], x) + b[j] + dot(U[j], h) + d[j], clip)) for j in range(H)]
    z = [sigmoid(clipped(dot(W[H + j], x) + b[H + j] + dot(U[H + j], h) + d[H + j], clip)) for j in range(H)]
    reset_h = [r[j] * h[j] for j in range(H)]
    h_new = []
    for j in range(H):
        k = 2 * H + j
        recurrent = r[j] * (dot(U[k], h) + d[k]) if reset_after else dot(U[k], reset_h) + d[k]
        candidate = tanh(clipped(dot(W[k], x) + b[k] + recurrent, clip))
        h_new.append(z[j] * h[j] + (1 - z[j]) * candidate)
    return h_new, c


# -- sequences -------------------------------------------------------------------------------------------------------


def run(step, options, x, w_ih, w_hh, b_ih, b_hh, h0, c0, P, H, lengths, reverse):
    """Every sequence on its own: out (T, B, P), h_n (B, P), c_n (B, H)."""
    T, B, _ = x.shape
    kind = np.result_type(x, w_ih, np.float64)
    out, h_n, c_n = np.zeros((T, B, P), kind), np.zeros((B, P), kind), np.zeros((B, H), kind)
    W, U = w_ih.tolist(), w_hh.tolist()
    b = [0.0] * len(W) if b_ih is None else b_ih.tolist()
    d = [0.0] * len(W) if b_hh is None else b_hh.tolist()
    for row in range(B):
        h = [0.0] * P if h0 is None else h0[row].tolist()
        c = [0.0] * H if c0 is None else c0[row].tolist()
        times = range(T if lengths is None else lengths[row])
        for t in reversed(times) if reverse else times:
            h, c = step(x[t, row].tolist(), h, c, W, U, b, d, *options)
            out[t, row] = h
        h_n[row], c_n[row] = h, c
    return out, h_n, c_n


def rnn(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, nonlinearity="tanh", lengths=None, reverse=False, clip=None):
    H = w_hh.shape[1]
    activation = {"tanh": tanh, "relu": relu}[nonlinearity]
    return run(rnn_step, (clip, activation), x, w_ih, w_hh, b_ih, b_hh, h0, None, H, H, lengths, reverse)[:2]


def lstm(
    x, w_ih, w_hh, b_ih=None, b_hh=None, state0=None, w_hr=None, lengths=None, reverse=False, clip=None, peephole=None
):
    P, H = w_hh.shape[1], w_hh.shape[0] // 4
    h0, c0 = (None, None) if state0 is None else state0
    options = clip, *(None if a is None else a.tolist() for a in (w_hr, peephole))
    return run(lstm_step, options, x, w_ih, w_hh, b_ih, b_hh, h0, c0, P, H, lengths, reverse)


def gru(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, reset_after=True, lengths=None, reverse=False, clip=None):
    H = w_hh.shape[1]
    return run(gru_step, (clip, reset_after), x, w_ih, w_hh, b_ih, b_hh, h0, None, H, H, lengths, reverse)[:2]


CELLS = {"rnn": rnn, "lstm": lstm, "gru": gru}


# -- derivatives -----------------------------------------------------------------------------------------------------


def numerical_gradient(f, arrays):
    """The gradient of ``f(arrays)`` by every element of every array, by complex step: df/da = Im f(a + ie) / e.

    No difference is taken, so e can be tiny and nothing cancels; f has to be analytic (no abs, no conjugate).
    Squire and Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40, 1998.

    Parameters
    ----------
    f : callable
        Takes a dict like arrays, of complex128, and returns a number.
    arrays : dict of str to ndarray

    Returns
    -------
    dict of str to ndarray, float64
        Each shaped like its array.
    """
    e = 1e-100
    arrays = {name: array.astype(np.complex128) for name, array in arrays.items()}
    grads = {name: np.zeros(array.shape) for name, array in arrays.items()}
    for name, array in arrays.items():
        for place in np.ndindex(array.shape):
            value = array[place]
            array[place] = value + 1j * e
            grads[name][place] = f(arrays).imag / e
            array[place] = value
    return grads
