# SPDX-License-Identifier: MIT
"""The functions: one layer, one direction, each in three steps: check the arguments, let the backend compute, return.

T time steps, B batch, I input size, H hidden size, P size of h (H, or that of the LSTM's projection).
All arrays are time-major and of one dtype, float32 or float64; results have it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _check, _run, config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from ._records import Grads, Tape

# -- inference -------------------------------------------------------------------------------------------------------


def rnn(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Run an Elman network over sequences: ``h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``.

    Parameters
    ----------
    x : array_like, shape (T, B, I), float32 or float64
        The sequences, B side by side.
    w_ih : array_like, shape (H, I), dtype of x
        Input weights.
    w_hh : array_like, shape (H, H), dtype of x
        Recurrent weights.
    b_ih, b_hh : array_like, shape (H,), dtype of x, optional
        Biases, added up; 0 by default.
    h0 : array_like, shape (B, H), dtype of x, optional
        Initial states; 0 by default.
    nonlinearity : {"tanh", "relu"}
        What stands for tanh in the formula.
    lengths : array_like, shape (B,), integer, optional
        How long each sequence is, in 0..T and any order; T by default. What x holds past a length is never read.
    reverse : bool
        Run each sequence from its own last valid step to its first.

    Returns
    -------
    out : ndarray, shape (T, B, H), dtype of x
        The states of every time, new; 0 past a length.
    h_n : ndarray, shape (B, H), dtype of x
        The states after the last step run, new; those of h0 where a length is 0.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If a shape or a value does not fit.

    References
    ----------
    J. L. Elman, "Finding structure in time", Cognitive Science 14, 1990.
    """
    return _run.infer(config.backend(), _check.rnn(x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths, reverse))


def lstm(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    state0: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    *,
    w_hr: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Run a long short-term memory over sequences.

    With ``i, f, o = sigmoid`` and ``g = tanh`` of their rows of ``W_ih x_t + b_ih + W_hh h_{t-1} + b_hh``,
    ``c_t = f * c_{t-1} + i * g`` and ``h_t = o * tanh(c_t)``, or ``W_hr (o * tanh(c_t))`` with a projection.

    Parameters
    ----------
    x : array_like, shape (T, B, I), float32 or float64
        The sequences, B side by side.
    w_ih : array_like, shape (4*H, I), dtype of x
        Input weights, those of i, f, g and o one below the other.
    w_hh : array_like, shape (4*H, P), dtype of x
        Recurrent weights, likewise.
    b_ih, b_hh : array_like, shape (4*H,), dtype of x, optional
        Biases, likewise, added up; 0 by default.
    state0 : pair of array_like, shapes (B, P) and (B, H), dtype of x, optional
        Initial states h and c, either of which may be None for zeros; by default both are.
    w_hr : array_like, shape (P, H), dtype of x, optional
        The projection; without it P is H.
    lengths : array_like, shape (B,), integer, optional
        How long each sequence is, in 0..T and any order; T by default. What x holds past a length is never read.
    reverse : bool
        Run each sequence from its own last valid step to its first.

    Returns
    -------
    out : ndarray, shape (T, B, P), dtype of x
        The states h of every time, new; 0 past a length.
    (h_n, c_n) : pair of ndarray, shapes (B, P) and (B, H), dtype of x
        The states after the last step run, new; those of state0 where a length is 0.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If a shape or a value does not fit.

    References
    ----------
    S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9, 1997.
    F. A. Gers, J. Schmidhuber and F. Cummins, "Learning to forget", Neural Computation 12, 2000 (the gate f).
    H. Sak, A. Senior and F. Beaufays, "Long short-term memory recurrent neural network architectures for large scale
    acoustic modeling", Interspeech 2014 (the projection).
    """
    return _run.infer(config.backend(), _check.lstm(x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths, reverse))


def gru(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    reset_after: bool = True,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Run gated recurrent units over sequences.

    With ``r, z = sigmoid`` of their rows of ``W_ih x_t + b_ih + W_hh h_{t-1} + b_hh``,
    ``h_t = n + z * (h_{t-1} - n)``, where ``n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))``,
    or, reset before, ``n = tanh(W_in x_t + b_in + W_hn (r * h_{t-1}) + b_hn)``.

    Parameters
    ----------
    x : array_like, shape (T, B, I), float32 or float64
        The sequences, B side by side.
    w_ih : array_like, shape (3*H, I), dtype of x
        Input weights, those of r, z and n one below the other.
    w_hh : array_like, shape (3*H, H), dtype of x
        Recurrent weights, likewise.
    b_ih, b_hh : array_like, shape (3*H,), dtype of x, optional
        Biases, likewise; 0 by default.
    h0 : array_like, shape (B, H), dtype of x, optional
        Initial states; 0 by default.
    reset_after : bool
        Apply the reset gate r after the recurrent product, as cuDNN, PyTorch and Keras do, or before it.
    lengths : array_like, shape (B,), integer, optional
        How long each sequence is, in 0..T and any order; T by default. What x holds past a length is never read.
    reverse : bool
        Run each sequence from its own last valid step to its first.

    Returns
    -------
    out : ndarray, shape (T, B, H), dtype of x
        The states of every time, new; 0 past a length.
    h_n : ndarray, shape (B, H), dtype of x
        The states after the last step run, new; those of h0 where a length is 0.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If a shape or a value does not fit.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
    EMNLP 2014 (reset before). NVIDIA, cuDNN API reference, CUDNN_GRU (reset after).
    """
    return _run.infer(config.backend(), _check.gru(x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths, reverse))


# -- training: forward -----------------------------------------------------------------------------------------------


def rnn_forward(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, Tape]:
    """Run `rnn` and keep what `rnn_backward` needs.

    Parameters
    ----------
    x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths, reverse : as for `rnn`

    Returns
    -------
    out : ndarray, shape (T, B, H), dtype of x
        As from `rnn`, new.
    h_n : ndarray, shape (B, H), dtype of x
        As from `rnn`, new.
    tape : Tape
        For `rnn_backward`. It refers to x and the weights: leave those unchanged until backward has run.

    Raises
    ------
    TypeError, ValueError
        As `rnn`.
    """
    return _run.forward(config.backend(), _check.rnn(x, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, lengths, reverse))


def lstm_forward(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    state0: tuple[ArrayLike | None, ArrayLike | None] | None = None,
    *,
    w_hr: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], Tape]:
    """Run `lstm` and keep what `lstm_backward` needs.

    Parameters
    ----------
    x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths, reverse : as for `lstm`

    Returns
    -------
    out : ndarray, shape (T, B, P), dtype of x
        As from `lstm`, new.
    (h_n, c_n) : pair of ndarray, shapes (B, P) and (B, H), dtype of x
        As from `lstm`, new.
    tape : Tape
        For `lstm_backward`. It refers to x and the weights: leave those unchanged until backward has run.

    Raises
    ------
    TypeError, ValueError
        As `lstm`.
    """
    return _run.forward(config.backend(), _check.lstm(x, w_ih, w_hh, b_ih, b_hh, state0, w_hr, lengths, reverse))


def gru_forward(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    reset_after: bool = True,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray, Tape]:
    """Run `gru` and keep what `gru_backward` needs.

    Parameters
    ----------
    x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths, reverse : as for `gru`

    Returns
    -------
    out : ndarray, shape (T, B, H), dtype of x
        As from `gru`, new.
    h_n : ndarray, shape (B, H), dtype of x
        As from `gru`, new.
    tape : Tape
        For `gru_backward`. It refers to x and the weights: leave those unchanged until backward has run.

    Raises
    ------
    TypeError, ValueError
        As `gru`.
    """
    return _run.forward(config.backend(), _check.gru(x, w_ih, w_hh, b_ih, b_hh, h0, reset_after, lengths, reverse))


# -- training: backpropagation through time --------------------------------------------------------------------------


def rnn_backward(tape: Tape, grad_out: ArrayLike | None = None, grad_h_n: ArrayLike | None = None) -> Grads:
    """Backpropagate a loss through the time steps of `rnn_forward`.

    Parameters
    ----------
    tape : Tape
        From `rnn_forward`; only read, so it may be used again.
    grad_out : array_like, shape (T, B, H), dtype of x, optional
        The gradient of the loss with respect to out; 0 by default. What it holds past a length is never read.
    grad_h_n : array_like, shape (B, H), dtype of x, optional
        The gradient of the loss with respect to h_n; 0 by default.

    Returns
    -------
    Grads
        x, w_ih, w_hh, b_ih, b_hh and h0, each new and shaped like the argument; x is 0 past a length,
        a bias not given is None, h0 is always there.

    Raises
    ------
    TypeError
        If tape is no tape, or a gradient of the wrong kind or dtype.
    ValueError
        If the tape is another cell's, or a shape does not fit.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78, 1990.
    """
    return _run.backward("rnn", tape, grad_out, grad_h_n)


def lstm_backward(
    tape: Tape,
    grad_out: ArrayLike | None = None,
    grad_h_n: ArrayLike | None = None,
    grad_c_n: ArrayLike | None = None,
) -> Grads:
    """Backpropagate a loss through the time steps of `lstm_forward`.

    Parameters
    ----------
    tape : Tape
        From `lstm_forward`; only read, so it may be used again.
    grad_out : array_like, shape (T, B, P), dtype of x, optional
        The gradient of the loss with respect to out; 0 by default. What it holds past a length is never read.
    grad_h_n : array_like, shape (B, P), dtype of x, optional
        The gradient of the loss with respect to h_n; 0 by default.
    grad_c_n : array_like, shape (B, H), dtype of x, optional
        The gradient of the loss with respect to c_n; 0 by default.

    Returns
    -------
    Grads
        x, w_ih, w_hh, b_ih, b_hh, h0, c0 and w_hr, each new and shaped like the argument; x is 0 past a length,
        a bias or projection not given is None, h0 and c0 are always there.

    Raises
    ------
    TypeError
        If tape is no tape, or a gradient of the wrong kind or dtype.
    ValueError
        If the tape is another cell's, or a shape does not fit.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78, 1990.
    """
    return _run.backward("lstm", tape, grad_out, grad_h_n, grad_c_n)


def gru_backward(tape: Tape, grad_out: ArrayLike | None = None, grad_h_n: ArrayLike | None = None) -> Grads:
    """Backpropagate a loss through the time steps of `gru_forward`.

    Parameters
    ----------
    tape : Tape
        From `gru_forward`; only read, so it may be used again.
    grad_out : array_like, shape (T, B, H), dtype of x, optional
        The gradient of the loss with respect to out; 0 by default. What it holds past a length is never read.
    grad_h_n : array_like, shape (B, H), dtype of x, optional
        The gradient of the loss with respect to h_n; 0 by default.

    Returns
    -------
    Grads
        x, w_ih, w_hh, b_ih, b_hh and h0, each new and shaped like the argument; x is 0 past a length,
        a bias not given is None, h0 is always there.

    Raises
    ------
    TypeError
        If tape is no tape, or a gradient of the wrong kind or dtype.
    ValueError
        If the tape is another cell's, or a shape does not fit.

    References
    ----------
    P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78, 1990.
    """
    return _run.backward("gru", tape, grad_out, grad_h_n)
