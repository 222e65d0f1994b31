# SPDX-License-Identifier: MIT
"""RNN, LSTM and GRU layers on CPUs, forward and by backpropagation through time, from NumPy arrays."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import optim, reference
from ._records import Grads, Tape
from .config import __version__, get_num_threads, set_num_threads, show_config
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

if TYPE_CHECKING:
    from .diagnostics import gradient_flow
    from .files import load

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

# On first use: two would double the time of the import, and the bridges import their frameworks, so that
# `from fastrnn import *` leaves these out.
_SUBMODULES = ("diagnostics", "files", "keras", "onnx", "sklearn", "torch")
_ON_FIRST_USE = {"gradient_flow": "diagnostics", "load": "files"}
_ON_FIRST_USE |= {"from_keras": "keras", "from_onnx": "onnx", "from_torch": "torch"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_ON_FIRST_USE[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """What can be had without other packages: who asks for each, as ``help`` does, has them all imported."""
    return sorted({*globals(), *__all__, "diagnostics", "files"})
