# SPDX-License-Identifier: MIT
"""The root of all trust: each cell as scalar loops over Python floats, straight from its paper.

Shares no code with fastrnn, and is slow on purpose. Works on complex numbers too, so that derivatives can be had by
complex step, exact to rounding.
T time steps, B batch, I input size, H hidden size, P size of h. W, U weights of x and h, b, d their biases.
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


def dot(row, vector):
    return sum(a * b for a, b in zip(row, vector, strict=True))


# -- one step of one sequence ----------------------------------------------------------------------------------------


def rnn_step(x, h, c, W, U, b, d, activation):
    """Elman 1990: h_j = f([W x]_j + b_j + [U h]_j + d_j)."""
    return [activation(dot(W[j], x) + b[j] + dot(U[j], h) + d[j]) for j in range(len(U))], c


def lstm_step(x, h, c, W, U, b, d, projection):
    """Hochreiter and Schmidhuber 1997, the forget gate by Gers et al. 2000, the projection by Sak et al. 2014."""
    H = len(c)
    m, c_new = [], []
    for j in range(H):
        z_i, z_f, z_g, z_o = (dot(W[k], x) + b[k] + dot(U[k], h) + d[k] for k in (j, H + j, 2 * H + j, 3 * H + j))
        c_j = sigmoid(z_f) * c[j] + sigmoid(z_i) * tanh(z_g)
        c_new.append(c_j)
        m.append(sigmoid(z_o) * tanh(c_j))
    return (m if projection is None else [dot(row, m) for row in projection]), c_new


def gru_step(x, h, c, W, U, b, d, reset_after):
    """Cho et al. 2014, equations 5 to 8, or with the reset gate after the recurrent product, as in cuDNN."""
    H = len(h)
    r = [sigmoid(dot(W[j], x) + b[j] + dot(U[j], h) + d[j]) for j in range(H)]
    z = [sigmoid(dot(W[H + j], x) + b[H + j] + dot(U[H + j], h) + d[H + j]) for j in range(H)]
    reset_h = [r[j] * h[j] for j in range(H)]
    h_new = []
    for j in range(H):
        k = 2 * H + j
        recurrent = r[j] * (dot(U[k], h) + d[k]) if reset_after else dot(U[k], reset_h) + d[k]
        candidate = tanh(dot(W[k], x) + b[k] + recurrent)
        h_new.append(z[j] * h[j] + (1 - z[j]) * candidate)
    return h_new, c


# -- sequences -------------------------------------------------------------------------------------------------------


def run(step, option, x, w_ih, w_hh, b_ih, b_hh, h0, c0, P, H, lengths, reverse):
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
            h, c = step(x[t, row].tolist(), h, c, W, U, b, d, option)
            out[t, row] = h
        h_n[row], c_n[row] = h, c
    return out, h_n, c_n


def rnn(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, nonlinearity="tanh", lengths=None, reverse=False):
    H = w_hh.shape[1]
    activation = {"tanh": tanh, "relu": relu}[nonlinearity]
    return run(rnn_step, activation, x, w_ih, w_hh, b_ih, b_hh, h0, None, H, H, lengths, reverse)[:2]


def lstm(x, w_ih, w_hh, b_ih=None, b_hh=None, state0=None, w_hr=None, lengths=None, reverse=False):
    P, H = w_hh.shape[1], w_hh.shape[0] // 4
    h0, c0 = (None, None) if state0 is None else state0
    projection = None if w_hr is None else w_hr.tolist()
    return run(lstm_step, projection, x, w_ih, w_hh, b_ih, b_hh, h0, c0, P, H, lengths, reverse)


def gru(x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, reset_after=True, lengths=None, reverse=False):
    H = w_hh.shape[1]
    return run(gru_step, reset_after, x, w_ih, w_hh, b_ih, b_hh, h0, None, H, H, lengths, reverse)[:2]


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
