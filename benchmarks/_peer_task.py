# SPDX-License-Identifier: MIT
"""What `peers.py` and its processes say to each other: tasks there, results, times and peaks of memory back.

T time steps, B batch, I input size, H hidden size, G gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], Any]  # gives arrays, in tuples and lists: out, the state, the gradients


class UnableError(Exception):
    """A peer cannot do a task; says why."""


@dataclass(frozen=True)
class Task:
    """A case with its arrays: all that a peer has to know."""

    cell: str  # "rnn", "lstm" or "gru"
    mode: str  # "step", "inference" or "training"
    threads: int
    x: np.ndarray  # (T, B, I)
    weights: tuple[np.ndarray, ...]  # w_ih (G*H, I), w_hh (G*H, H), b_ih (G*H,), b_hh (G*H,)
    state: tuple[np.ndarray, ...]  # h0 and the LSTM's c0, (1, B, H)
    lengths: np.ndarray | None  # (B,)
    grad_out: np.ndarray  # (T, B, H)

    @property
    def sizes(self) -> tuple[int, int]:
        """I and H."""
        return self.x.shape[-1], self.grad_out.shape[-1]

    def refuse(self, *words: str) -> None:
        """Raise UnableError if one of these is the mode or the dtype."""
        for word in words:
            if word in (self.mode, self.x.dtype.name):
                raise UnableError(f"no {word}")


class Peak(NamedTuple):
    """Asks for the peak memory of a task; the tiny one of the same kind warms the library up."""

    tiny: Task
    task: Task


def one_or_pair(state: tuple) -> Any:
    """A state as most libraries take it: h, or the LSTM's (h, c)."""
    return state if len(state) == 2 else state[0]
