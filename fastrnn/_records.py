# SPDX-License-Identifier: MIT
"""What travels between the rooms of the house: Call in, Tape across, Grads out.

T time steps, B batch, I input size, H hidden size, P size of h (H, or proj_size), G gates; R rows of all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .layers import Layer

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")  # of a Call, and of Grads
ALTERED = "tape: needs its fields as forward left them, got others"


@dataclass(slots=True)
class Call:
    """One layer in one direction, its arguments checked: every array of one native dtype.

    Weights, biases and initial states are C-contiguous; ``x`` has only its last axis contiguous,
    so that batch-first and one half of a bidirectional pair need no copy. It may be packed, as in PyTorch's
    ``PackedSequence``, if ``ragged`` is in order: of each time the rows of the sequences that have it. Whatever is
    shaped like (T, B, ·) elsewhere is then packed, too.
    """

    cell: str  # "rnn", "lstm" or "gru"
    variant: str  # "tanh" or "relu"; "reset_after" or "reset_before"; "" for the LSTM
    T: int
    B: int
    I: int
    H: int
    P: int
    x: np.ndarray  # (T, B, I), or (R, I) packed
    w_ih: np.ndarray  # (G*H, I)
    w_hh: np.ndarray  # (G*H, P)
    b_ih: np.ndarray | None  # (G*H,)
    b_hh: np.ndarray | None  # (G*H,)
    w_hr: np.ndarray | None  # (P, H)
    h0: np.ndarray | None  # (B, P), None for zeros
    c0: np.ndarray | None  # (B, H), None for zeros
    ragged: Ragged | None
    reverse: bool
    clip: float | None = None  # keeps what goes into every activation in -clip..clip; this and the next not in training
    peephole: np.ndarray | None = None  # (3, H), C-contiguous: from c_prev to i and to f, from c to o

    @property
    def dtype(self) -> np.dtype:
        return self.w_ih.dtype

    def own_weights(self) -> None:
        """Take views of the weights, which a caller may give other shapes in place."""
        self.w_ih, self.w_hh = self.w_ih[...], self.w_hh[...]
        self.b_ih = None if self.b_ih is None else self.b_ih[...]
        self.b_hh = None if self.b_hh is None else self.b_hh[...]
        self.w_hr = None if self.w_hr is None else self.w_hr[...]


@dataclass(slots=True)
class Ragged:
    """Sequences of several lengths. A *rank* is a row's place when the longest come first.

    Step s of rank r is time s, or lengths[r]-1-s in reverse, so rows only ever leave:
    the rows at work in step s are the ranks 0..alive[s]-1.
    """

    order: np.ndarray  # (B,) intp, the caller's row at each rank
    lengths: np.ndarray  # (B,) intp by rank, descending
    alive: np.ndarray  # (T,) intp
    start: np.ndarray  # (T + 1,) intp, rows of all steps before each step
    in_order: bool  # the caller's rows came longest first

    @classmethod
    def of(cls, lengths: np.ndarray, T: int) -> Ragged:
        order = np.argsort(-lengths, kind="stable")
        by_rank = lengths[order]
        alive = np.searchsorted(-by_rank, -np.arange(T), side="left").astype(np.intp, copy=False)
        return cls(order, by_rank, alive, _before(alive), bool((order[1:] > order[:-1]).all())).locked()

    @classmethod
    def packed(cls, alive: np.ndarray) -> Ragged:
        """Of rows that come longest first; ``alive``, at least one, how many there are of each time."""
        order = np.arange(alive[0])
        lengths = np.searchsorted(-alive, -order, side="left").astype(np.intp, copy=False)
        alive = np.ascontiguousarray(alive, np.intp)
        return cls(order, lengths, alive, _before(alive), in_order=True).locked()

    def locked(self) -> Ragged:
        """Itself, its arrays not to be written to any more: they say where the kernels read."""
        for array in (self.order, self.lengths, self.alive, self.start):
            array.flags.writeable = False
        return self

    def fits(self, T: int, B: int) -> bool:
        """Whether the arrays, which can be assigned, are of T steps and B rows; what they hold is not looked at."""
        sizes = ((self.alive, T), (self.start, T + 1), (self.lengths, B), (self.order, B))
        arrays = all(type(array) is np.ndarray and array.dtype == np.intp for array, _ in sizes)
        return arrays and all(array.shape == (n,) and array.flags.c_contiguous for array, n in sizes)


def _before(alive: np.ndarray) -> np.ndarray:
    start = np.zeros(len(alive) + 1, np.intp)
    np.cumsum(alive, out=start[1:])
    return start


@dataclass(slots=True)
class Tape:
    """What a forward pass keeps for backpropagation through time.

    It refers to ``x`` and the weights without copying them: leave those arrays unchanged until backward has run.
    Backward only reads the tape and may run any number of times. What it holds is no part of the API.
    """

    call: Call
    saved: Any  # the backend's own arrays
    backend: Any  # the module that made the tape and can read it

    @classmethod
    def of(cls, call: Call, saved: Any, backend: Any) -> Tape:
        """With a view of its own of x, whose shape a caller may change in place until backward."""
        call.x = call.x[...]
        return cls(call, saved, backend)


@dataclass(slots=True)
class Grads:
    """Gradients of one layer in one direction: new arrays of the dtype of x, each shaped like its argument.

    T time steps, B batch, I input size, H hidden size, P size of h, G gates (RNN 1, LSTM 4, GRU 3).

    Attributes
    ----------
    x : ndarray, shape (T, B, I)
        0 past a length.
    w_ih : ndarray, shape (G*H, I)
    w_hh : ndarray, shape (G*H, P)
    b_ih, b_hh : ndarray, shape (G*H,), or None
        None for a bias that was not given.
    h0 : ndarray, shape (B, P)
        Always there, as is c0 for an LSTM.
    c0 : ndarray, shape (B, H), or None
    w_hr : ndarray, shape (P, H), or None
    """

    x: np.ndarray
    w_ih: np.ndarray
    w_hh: np.ndarray
    b_ih: np.ndarray | None
    b_hh: np.ndarray | None
    h0: np.ndarray
    c0: np.ndarray | None = None
    w_hr: np.ndarray | None = None


@dataclass(slots=True)
class LayerTape:
    """What ``forward`` keeps for ``backward``, which only reads it and may run any number of times.

    It refers to ``x`` and the layer's parameters without copying them: leave those arrays unchanged until ``backward``
    has run. What it holds is no part of the API.
    """

    layer: Layer
    scale: float  # of what dropout kept
    shape: tuple[int, ...] = ()  # of out, as the caller saw it
    tapes: list[Tape] = field(default_factory=list)  # by k
    kept: list[np.ndarray] = field(default_factory=list)  # dropout's masks, after layers 0..L-2; empty without dropout

    def fits(self) -> bool:
        """Whether its fields, which can be assigned, are of a pass of its layer: by these, gradients are looked at."""
        layer, calls = self.layer, [tape.call for tape in self.tapes if type(tape) is Tape and tape.call]
        D, H, P = layer.num_directions, layer.hidden_size, layer.output_size
        if len(calls) != layer.num_layers * D:
            return False
        T, B, cell = calls[0].T, calls[0].B, layer.cell
        for k, call in enumerate(calls):
            I = layer.input_size if k < D else D * P
            if (call.cell, call.T, call.B, call.I, call.H, call.P) != (cell, T, B, I, H, P):
                return False
        batch = (B, T, D * P) if layer.batch_first else (T, B, D * P)
        return self.shape == batch or (B == 1 and self.shape == (T, D * P))


@dataclass(slots=True)
class LayerGrads:
    """Gradients of a layer: new arrays of its dtype.

    Attributes
    ----------
    x : ndarray, shape of the layer's x
    flat : ndarray, shape (n,)
        Those of ``layer.flat_params``, number by number.
    params : mapping of str to ndarray
        Views into ``flat``, under the names and in the shapes of ``layer.params``.
    state : ndarray, shape of the initial state, for an LSTM a pair (h, c)
    """

    x: np.ndarray
    flat: np.ndarray
    params: Mapping[str, np.ndarray]
    state: Any
