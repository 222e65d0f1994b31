# SPDX-License-Identifier: MIT
"""RNN, LSTM and GRU layers on CPUs, forward and by backpropagation through time, from NumPy arrays."""

from . import optim, reference
from ._records import Grads, Tape
from .config import __version__, get_num_threads, set_num_threads, show_config
from .diagnostics import gradient_flow
from .files import load
from .functional import (
    gru,
    gru_backward,
    gru_forward,
    lstm,
    lstm_backward,
    lstm_forward,
    rnn,
    rnn_backward,
    rnn_forward,
)
from .layers import GRU, LSTM, RNN
from .streams import Stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Grads",
    "Stream",
    "Tape",
    "__version__",
    "get_num_threads",
    "gradient_flow",
    "gru",
    "gru_backward",
    "gru_forward",
    "load",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "optim",
    "reference",
    "rnn",
    "rnn_backward",
    "rnn_forward",
    "set_num_threads",
    "show_config",
]
