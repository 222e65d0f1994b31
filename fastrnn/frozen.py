# SPDX-License-Identifier: MIT
"""Frozen: a layer for serving, its weights copied and packed once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from .streams import Stream

if TYPE_CHECKING:
    from .layers import Layer


class Frozen:
    """A read-only snapshot of a layer for serving: its weights copied and packed once. Same bits as the layer's.

    Made by ``layer.freeze()``. What happens to the layer afterwards does not reach it.

    Attributes
    ----------
    params : mapping of str to ndarray
        The weights, not writeable.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = copy.deepcopy(layer)
        flat = self._layer.flat_params
        flat.flags.writeable = False
        self._layer._bind(flat)
        self.params = self._layer.params
        self._backend = config.backend()
        self._packed = [self._backend.pack(call) for call in self._layer._calls]

    def __call__(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[np.ndarray, Any]:
        """As a call of the layer: see ``Layer.__call__``."""
        return self._layer._run(x, state, lengths, self._backend, packed=self._packed)

    def stream(self, batch_size: int = 1) -> Stream:
        """One time step at a time, the state kept between steps: see ``Stream``."""
        return self._layer.stream(batch_size)

    def __reduce__(self) -> tuple:
        return Frozen, (self._layer,)

    def __repr__(self) -> str:
        return f"Frozen({self._layer!r})"
