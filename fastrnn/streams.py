# SPDX-License-Identifier: MIT
"""Stream: a layer fed one time step at a time, its weights packed once.

B batch, I input size, H hidden size, P size of h (H, or proj_size), L layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from . import _check, config

if TYPE_CHECKING:
    from .layers import Layer


class Stream:
    """A layer of one direction, fed step by step; in the compiled kernels with the same bits as the whole at once.

    Made by ``layer.stream(batch_size)`` or ``frozen.stream(batch_size)``. A stream packs the weights once: it sees them
    as they were when it was made or last ``reset()``. It belongs to one thread at a time, and is neither copied nor
    pickled: a second one from the same layer takes its ``state``.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Not bidirectional.
    batch_size : int
        B >= 1, the number of sequences.

    Attributes
    ----------
    state : ndarray, shape (L, B, P), or for an LSTM (h, c) with c of shape (L, B, H); of the layer's dtype
        The state after the last step. Reading it makes new arrays. Assigning checks, then copies; None stands for
        zeros, and with a batch of one the axis B may be missing, as in the state of an unbatched call.
    batch_size : int
        As given.

    Raises
    ------
    TypeError, ValueError
        For a ``batch_size`` that is no integer >= 1 or beyond all memory, a bidirectional layer, or none at all.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn.layers import GRU
    >>> layer = GRU(3, 5, seed=0)
    >>> x = np.ones((7, 3), np.float32)
    >>> stream = layer.stream()
    >>> np.allclose(np.stack([stream(x_t) for x_t in x]), layer(x)[0])
    True
    """

    def __init__(self, layer: Layer, batch_size: int = 1) -> None:
        _check.one_direction(layer)
        row = (3 * layer.num_layers + 4) * layer.hidden_size * layer.dtype.itemsize  # h twice, c, and room for a step
        self._B = _check.batch_size(batch_size, row)
        self._layer = layer
        self._dtype, self._I, self._P = layer.dtype, layer.input_size, layer.output_size
        self.reset()

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Feed one time step.

        Parameters
        ----------
        x : ndarray of the layer's dtype, shape (B, I), or (I,) for a batch of one
        out : ndarray of the layer's dtype, shape (B, P), or (P,) where x is (I,); or None
            C-contiguous, to write the result into; may be ``x``.

        Returns
        -------
        ndarray of the layer's dtype, shape (B, P) or (P,)
            The last layer's hidden state after this step: ``out``, or a new array.

        Raises
        ------
        TypeError, ValueError
            For an argument of the wrong kind, dtype or shape; the state is then unchanged.
        """
        fed = self._stepper.feed(x, out)
        if fed is not None:  # plain arrays, just right: checked where that is fastest
            return fed
        x = _check.step(x, self._dtype, self.batch_size, self._I)
        shape = (*x.shape[:-1], self._P)
        array = np.empty(shape, self._dtype) if out is None else _check.room("out", out, self._dtype, shape)
        if x.ndim == 1:
            self._stepper(x[None], array[None])
        else:
            self._stepper(x, array)
        return array if out is None else out

    @property
    def batch_size(self) -> int:
        """B, as given."""
        return self._B

    @property
    def state(self) -> Any:
        """The state after the last step: see the class."""
        h, c = self._stepper.state()
        return h if c is None else (h, c)

    @state.setter
    def state(self, value: Any) -> None:
        self._stepper.assign(*self._checked(value))

    def reset(self, state: Any = None) -> None:
        """Start anew, with the layer's weights as they are now.

        Parameters
        ----------
        state : ndarray, shape (L, B, P), or for an LSTM (h, c) with c of shape (L, B, H); None for zeros
            Of the layer's dtype; copied. With a batch of one the axis B may be missing.

        Raises
        ------
        TypeError, ValueError
            For a state of the wrong kind, dtype or shape; the stream is then unchanged.
        """
        h, c = self._checked(state)
        layer = self._layer
        stepper = config.backend().Stepper(layer.cell, layer.variant, layer._stack.weights, self.batch_size)
        stepper.assign(h, c)
        self._stepper = stepper

    def _checked(self, state: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self._layer._state("state", state, self.batch_size, None)

    def __reduce__(self) -> NoReturn:
        again = f"other = layer.stream({self.batch_size}); other.state = stream.state"
        raise TypeError(f"stream: needs a second one in place of a copy or pickle: {again}")

    def __repr__(self) -> str:
        return f"Stream({self._layer!r}, batch_size={self.batch_size})"
