# SPDX-License-Identifier: MIT
"""Frozen: a layer for serving, its weights copied and packed once. Letters as in `layers`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from .streams import Stream

if TYPE_CHECKING:
    from .layers import Layer
    from .parameters import Views


class Frozen:
    """A read-only snapshot of a layer for serving: its weights copied and packed once. Same bits as the layer's.

    Made by ``layer.freeze()``. What happens to the layer afterwards does not reach it.

    Attributes
    ----------
    params : mapping of str to ndarray of the layer's dtype
        The weights, not writeable.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = copy.deepcopy(layer)
        flat = self._layer.flat_params
        flat.flags.writeable = False
        self._layer._bind(flat)
        self._backend = config.backend()
        self._packed = [self._backend.pack(call) for call in self._layer._calls]

    @property
    def params(self) -> Views:
        """The weights by PyTorch's names, not writeable."""
        return self._layer.params

    def __call__(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[np.ndarray, Any]:
        """Run the stack over a batch of sequences, as ``Layer.__call__`` does.

        T time steps, B batch, I input size, H hidden size, P size of h, L layers, D directions.

        Parameters
        ----------
        x : ndarray of the layer's dtype, shape (T, B, I), (B, T, I) with batch_first, or (T, I) unbatched
        state : ndarray, shape (L*D, B, P), or for an LSTM (h, c) with c of shape (L*D, B, H); None for zeros
            The initial state, of the layer's dtype. Unbatched: without the axis B.
        lengths : array of int, shape (B,), unbatched (1,), or None
            In 0..T, in any order. Past its length a sequence's output is 0 and its state stays what it was.

        Returns
        -------
        out : ndarray of the layer's dtype, shape (T, B, D*P), (B, T, D*P) or (T, D*P)
            New: the last layer's hidden states, those of the reverse direction beside those of the forward one.
        state : ndarray or tuple of ndarray
            New: the final state, shaped as the initial one.

        Raises
        ------
        TypeError, ValueError
            For an argument of the wrong kind, dtype, shape or value, before any work is done.
        """
        return self._layer._run(x, state, lengths, self._backend, packed=self._packed)

    def stream(self, batch_size: int = 1) -> Stream:
        """One time step at a time, the state kept between steps.

        Parameters
        ----------
        batch_size : int
            B >= 1, the number of sequences.

        Returns
        -------
        Stream
            New, its state zeros, with the weights of this snapshot.

        Raises
        ------
        TypeError, ValueError
            For a ``batch_size`` that is no integer >= 1 or beyond all memory, or a bidirectional layer.
        """
        return self._layer.stream(batch_size)

    def __reduce__(self) -> tuple:
        return Frozen, (self._layer,)

    def __repr__(self) -> str:
        return f"Frozen({self._layer!r})"
