# SPDX-License-Identifier: MIT
"""A stack of layers in one or two directions, over whole sequences: forward, and back through time.

T time steps, B batch, R rows of all steps, H hidden size, P size of h, L layers, D directions. Direction d of layer l
is number k = l*D + d: weights, states, tapes and gradients are found at k. Sequences are time-major, (T, B, ·), or
packed, (R, ·).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._records import Call, Grads, Ragged, Tape

NOTHING = np.empty(0)


@dataclass(slots=True)
class Stack:
    """What a stack is, dropout and its caller's layout aside."""

    cell: str  # as in a Call
    variant: str
    H: int
    P: int
    D: int
    weights: list[tuple]  # W_ih, W_hh, b_ih, b_hh and W_hr by k, None for those it has not

    def call(
        self, k: int, x: np.ndarray, h0: np.ndarray | None = None, c0: np.ndarray | None = None, ragged: Any = None
    ) -> Call:
        """That of one layer in one direction, out of the initial states of all."""
        T, B = x.shape[:2] if x.ndim == 3 else (len(ragged.alive), len(ragged.order))
        I, H, P = x.shape[-1], self.H, self.P
        h, c = None if h0 is None else h0[k], None if c0 is None else c0[k]
        w_ih, w_hh, b_ih, b_hh, w_hr = self.weights[k]
        return Call(
            self.cell, self.variant, T, B, I, H, P, x, w_ih, w_hh, b_ih, b_hh, w_hr, h, c, ragged, k % self.D == 1
        )

    def blank(self) -> list[Call]:
        """Calls of no sequence, which have the weights."""
        return [self.call(k, np.empty((0, 0, w_ih.shape[1]), w_ih.dtype)) for k, (w_ih, *_) in enumerate(self.weights)]

    def forward(
        self,
        backend: Any,
        x: np.ndarray,
        h0: np.ndarray | None,
        c0: np.ndarray | None,
        ragged: Ragged | None,
        batch_first: bool,
        *,
        tapes: list[Tape] | None = None,
        drop: Callable[[int, np.ndarray], np.ndarray] | None = None,
        packed: Sequence[Any] | None = None,
    ) -> tuple[np.ndarray, list[tuple]]:
        """The last layer's outputs (T, B, D*P) or (R, D*P), and the final states (h, c) by k.

        batch_first: seen as (B, T, D*P), the outputs are C-contiguous. tapes: filled, if there is a way back.
        drop(l, out): what layer l + 1 is given in place of layer l's outputs. packed: the backend's weights by k.
        """
        last, ends = len(self.weights) // self.D - 1, []
        for l in range(last + 1):
            out = self._room(x, l == last and batch_first, backend)
            for k, half in self._halves(l, out):
                call = self.call(k, x, h0, c0, ragged)
                _, h, c, saved = backend.forward(call, tapes is not None, half, packed and packed[k])
                ends.append((h, c))
                if tapes is not None:
                    tapes.append(Tape.of(call, saved, backend))
            x = out if l == last or drop is None else drop(l, out)
        return out, ends

    def backward(
        self,
        tapes: Sequence[Tape],
        grad_out: np.ndarray | None,
        dh: np.ndarray | None,
        dc: np.ndarray | None,
        *,
        drop: Callable[[int, np.ndarray], None] | None = None,
        into: Sequence[tuple] | None = None,
        of_x: bool = True,
        of_weights: Sequence[bool] | None = None,
    ) -> tuple[Any, list[Grads]]:
        """The gradients of x, new, and of all else by k; None comes in for zeros.

        of_x, of_weights: whether those of x, and of which k's weights, are wanted: all, unless said; else None.
        drop(l, grad): in place, takes the gradient through the dropout after layer l. into: arrays for those of the
        weights, as in ``weights``.
        """
        found: list[Any] = [None] * len(tapes)
        for l in reversed(range(len(tapes) // self.D)):
            dx: list[Any] = []
            for k, half in self._halves(l, grad_out):
                dh_k, dc_k = None if dh is None else dh[k], None if dc is None else dc[k]
                place = None if into is None else _place(*into[k])
                these = of_weights is None or of_weights[k]
                found[k] = tapes[k].backend.backward(tapes[k], half, dh_k, dc_k, place, l > 0 or of_x, these)
                dx.append(found[k].x)
            with np.errstate(all="ignore"):  # as silent as the kernels
                grad_out = dx[0] if len(dx) == 1 or dx[0] is None else np.add(dx[0], dx[1], out=dx[0])
                if l and drop is not None:
                    drop(l - 1, dx[0])
        return grad_out, found

    def _room(self, x: np.ndarray, batch_first: bool, backend: Any) -> np.ndarray:
        """A new array for the outputs, its rows where those of x are."""
        *rows, width = *x.shape[:-1], self.D * self.P
        if batch_first:
            return backend.new_array((rows[1], rows[0], width), x.dtype).swapaxes(0, 1)
        return backend.new_array((*rows, width), x.dtype)

    def _halves(self, l: int, array: Any) -> list[tuple[int, Any]]:
        """Layer l's directions k, each with its columns of an array (..., D*P) or with None."""
        if self.D == 1:
            return [(l, array)]
        P = self.P
        return [(2 * l + d, None if array is None else array[..., d * P : (d + 1) * P]) for d in (0, 1)]


def _place(w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any) -> Grads:
    """Where the gradients of these are to be; those of all else are new."""
    return Grads(NOTHING, w_ih, w_hh, b_ih, b_hh, NOTHING, None, w_hr)


def joined(ends: Sequence[tuple], batched: bool) -> tuple[Any, Any]:
    """The states (h, c) of all k as one h and one c, (L*D, B, ·), or (L*D, ·) unbatched; c None where there is none."""
    h, c = (None if parts[0] is None else _stacked(parts, batched) for parts in zip(*ends, strict=True))
    return h, c


def _stacked(parts: tuple[np.ndarray, ...], batched: bool) -> np.ndarray:
    array = parts[0][None] if len(parts) == 1 else np.stack(parts)
    return array if batched else array[:, 0]
