# SPDX-License-Identifier: MIT
"""RNN, LSTM and GRU layers: stacks, directions, dropout between layers, and parameters in one flat array.

T time steps, B batch, I input size, H hidden size, P size of h (H, or proj_size), G gates, L layers, D directions.
Direction d of layer l is number k = l*D + d: its states, weights and tapes are found at k.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from functools import partial
from typing import IO, Any

import numpy as np

from . import _check, config
from ._records import LayerGrads, LayerTape, Ragged
from ._stack import Stack, joined
from .frozen import Frozen
from .parameters import FIXED, INITS, Shapes, Views, cells, places, weight_shapes
from .streams import Stream

BOUND = {"_own", "_places", "_cells", "_params", "_stack", "_calls"}  # what follows from the sizes and the flat array


# -- layers ----------------------------------------------------------------------------------------------------------


class Layer:
    """A stack of recurrent layers in one or two directions: what RNN, LSTM and GRU have in common.

    Parameters
    ----------
    input_size : int
        I, features of the input.
    hidden_size : int
        H, units of each layer and direction.
    num_layers : int
        L; each layer reads the one before it.
    bias : bool
        Whether there are biases ``b_ih`` and ``b_hh``.
    batch_first : bool
        Sequences are (B, T, ·) instead of (T, B, ·). States are (L*D, B, ·) either way.
    dropout : float
        Probability, in 0..1, of zeroing an output of any layer but the last; in ``forward`` only (Srivastava et al.
        2014; what is kept is scaled by 1/(1 - dropout)).
    bidirectional : bool
        D = 2: a second set of weights reads each sequence from its end (Schuster and Paliwal 1997).
    dtype : float32 or float64
        Of the parameters; arguments must have it too.
    init : {"uniform", "orthogonal"}
        PyTorch's U(-1/sqrt(H), 1/sqrt(H)); or Glorot-uniform inputs, orthogonal recurrent matrices, zero biases and 1
        for the LSTM's forget gate.
    seed : int, Generator or None
        For ``rng``: ``numpy.random.default_rng(seed)``.

    Attributes
    ----------
    flat_params : ndarray, shape (n,), of the layer's dtype
        All parameters in one contiguous array, for an optimizer to update in place. Assigning writes into it.
    params : mapping of str to ndarray of the layer's dtype
        PyTorch's names, in PyTorch's order, of views into ``flat_params``. Assigning to a name writes into them.
    rng : numpy.random.Generator
        Draws the initial parameters, then the dropout masks. Assigning takes what ``seed`` does.

    Of the constructor's arguments only ``dropout`` may be set later; another raises AttributeError.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range.
    MemoryError
        Where the parameters find no room.
    """

    cell: str
    proj_size = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__ != __name__ and not vars(cls).keys().isdisjoint(("cell", "variant")):
            raise TypeError(f"{cls.__name__}: needs the cell and the variant of its base, got others")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: Any,
        init: str,
        seed: Any,
    ) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.num_layers = _check.integer("num_layers", num_layers, 1)
        self.bias = _check.flag("bias", bias)
        self.batch_first = _check.flag("batch_first", batch_first)
        self.dropout = dropout
        self.bidirectional = _check.flag("bidirectional", bidirectional)
        self.dtype = _check.dtype("dtype", dtype)
        self.rng = _check.generator("seed", seed)
        fill = INITS[_check.choice("init", init, tuple(INITS))]
        first, next_ = (sum(math.prod(shape) for _, shape in self._shapes(L)) for L in (1, 2))
        count = first + (next_ - first) * (self.num_layers - 1)
        self._bind(np.empty(_check.parameters(count, self.dtype.itemsize), self.dtype))
        fill(self)

    # -- parameters --

    def _shapes(self, num_layers: int) -> Shapes:
        sizes = self.input_size, self.hidden_size, num_layers
        return weight_shapes(self.cell, *sizes, self.bias, self.bidirectional, self.proj_size)

    def _bind(self, flat: np.ndarray) -> None:
        self._flat = flat  # handed out: a caller may give it another shape in place, but not the layer's own view
        self._own = flat = flat.view(self.dtype).reshape(-1)
        self._places = places(self._shapes(self.num_layers))
        self._cells = cells(self.num_layers, self.bidirectional)
        self._params = Views(flat, self._places)
        weights = Views(flat, self._places).of(self._cells)  # arrays that no caller can give other shapes
        H, P, D = self.hidden_size, self.output_size, self.num_directions
        self._stack = Stack(self.cell, self.variant, H, P, D, weights)
        self._calls = self._stack.blank()

    @property
    def flat_params(self) -> np.ndarray:
        """All parameters, one contiguous array, shape (n,); assigning writes into it."""
        return self._flat

    @flat_params.setter
    def flat_params(self, values: np.ndarray) -> None:
        self._own[...] = _check.filling("flat_params", values, self._own)

    @property
    def params(self) -> Views:
        """The parameters by PyTorch's names, views into ``flat_params``; assigning to a name writes into it."""
        return self._params

    @property
    def variant(self) -> str:
        """Which of the cell's forms this is, in the words of ``_records.Call``."""
        return ""

    @property
    def num_directions(self) -> int:
        """D, 1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """P, the size of one direction's output and hidden state."""
        return self.proj_size or self.hidden_size

    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make a layer like this one: a new dict of all but ``init`` and ``seed``."""
        return {name: getattr(self, name) for name in self._arguments() if name not in ("init", "seed")}

    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        """Those of the class in this module: a user's subclass may take others."""
        return inspect.signature(next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)).parameters

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters under PyTorch's names: a new dict of new arrays, shaped as in ``params``."""
        return {name: self._own[place].reshape(shape).copy() for name, place, shape in self._places}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the parameters of another layer, of fastrnn or of PyTorch.

        Parameters
        ----------
        state_dict : mapping of str to ndarray or torch.Tensor
            One array of floats of any width, of the shape in ``params``, for each name there and no other; tensors may
            be on any device. Values are cast to the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            Naming the entry that is missing, unknown, of the wrong shape or kind; the layer is then unchanged.
        """
        self._own[...] = _check.entries("state_dict", state_dict, self._shapes(self.num_layers), self.dtype)

    # -- forward --

    def __call__(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[np.ndarray, Any]:
        """Run the stack over a batch of sequences, for inference: no dropout, nothing kept.

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
            New: the final state, of that dtype, shaped as the initial one.

        Raises
        ------
        TypeError, ValueError
            For an argument of the wrong kind, dtype, shape or value, before any work is done.
        """
        return self._run(x, state, lengths, config.backend())

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[np.ndarray, Any, LayerTape]:
        """Run the stack for training: as a call, and with dropout between layers and a tape for ``backward``.

        Parameters
        ----------
        x, state, lengths
            As for a call.

        Returns
        -------
        out, state
            As from a call.
        tape : LayerTape
            Refers to ``x`` and the parameters: leave their values unchanged until ``backward`` has run.

        Raises
        ------
        TypeError, ValueError
            As a call.
        """
        return self._record(x, state, lengths, config.backend())

    def _record(self, x: Any, state: Any, lengths: Any, backend: Any) -> tuple[np.ndarray, Any, LayerTape]:
        tape = LayerTape(self, scale=0.0 if self.dropout == 1 else 1 / (1 - self.dropout))
        out, state = self._run(x, state, lengths, backend, tape)
        tape.shape = out.shape
        return out, state, tape

    def _run(
        self, x: Any, state: Any, lengths: Any, backend: Any, tape: LayerTape | None = None, packed: list | None = None
    ) -> tuple[np.ndarray, Any]:
        """One pass through the stack; fills ``tape`` if there is one. One layer in one direction has a shorter way."""
        if tape is None and lengths is None and len(self._calls) == 1:
            served = backend.serve(self._calls[0], packed and packed[0], x, state, self.batch_first)
            if served is not None:
                return served
        x, batched, (h0, c0), ragged = self._checked(x, state, lengths)
        tapes = drop = None
        if tape is not None:
            tapes, drop = tape.tapes, partial(self._drop, tape, backend) if self.dropout else None
        out, ends = self._stack.forward(
            backend, x, h0, c0, ragged, self.batch_first, tapes=tapes, drop=drop, packed=packed
        )
        return self._shown(out, batched), self._as_given(joined(ends, batched))

    def _checked(self, x: Any, state: Any, lengths: Any) -> tuple[np.ndarray, bool, tuple, Ragged | None]:
        """The arguments, x time-major, and whether the caller's x has a batch axis."""
        x, batched = _check.sequence("x", x, self.dtype, self.input_size, self.batch_first)
        T, B, _ = x.shape
        _check.sizes(T, B, max(len(self._stack.weights[0][0]), self.input_size, 2 * self.output_size), x.itemsize)
        return x, batched, self._state("state", state, B, batched), _check.lengths(lengths, T, B)

    def _state(
        self, name: str, value: Any, B: int, batched: bool | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        shape = (len(self._calls), B, self.output_size)
        return _check.layer_state(name, value, self.cell, self.dtype, shape, self.hidden_size, batched)

    def _drop(self, tape: LayerTape, backend: Any, l: int, out: np.ndarray) -> np.ndarray:
        """Dropout after layer l: a new array."""
        keep = self.rng.random(out.shape, np.float32) >= self.dropout
        tape.kept.append(keep)
        with np.errstate(all="ignore"):  # as silent as the kernels
            dropped = np.multiply(out, keep, out=backend.new_array(out.shape, self.dtype))
            dropped *= tape.scale
            return dropped

    def _shown(self, array: np.ndarray, batched: bool) -> np.ndarray:
        """A time-major array as the caller lays sequences out: a view."""
        if not batched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _as_given(self, states: tuple) -> Any:
        """The states h and c as a caller has them: h, or for an LSTM (h, c)."""
        return states if self.cell == "lstm" else states[0]

    # -- backward --

    def backward(self, tape: LayerTape, grad_out: Any = None, grad_state: Any = None) -> LayerGrads:
        """Backpropagation through time, layer by layer from the last.

        Parameters
        ----------
        tape : LayerTape
            From this layer's ``forward``.
        grad_out : ndarray, shape and dtype of ``out``, or None for zeros
        grad_state : ndarray or tuple of ndarray, shapes and dtype of the final state, or None for zeros

        Returns
        -------
        LayerGrads
            New arrays: ``flat`` and ``params`` of the parameters, ``x``, and ``state`` of the initial state.

        Raises
        ------
        TypeError, ValueError
            For an argument of the wrong kind, dtype or shape, before any work is done.
        """
        _check.layer_tape(tape, LayerTape, self)
        batched = len(tape.shape) == 3
        grad_out = _check.same_sequence("grad_out", grad_out, self.dtype, tape.shape, self.batch_first)
        dh, dc = self._state("grad_state", grad_state, tape.tapes[0].call.B, batched)
        params = Views(flat := tape.tapes[0].backend.new_array(self._own.shape, self.dtype), self._places)
        drop = partial(_drop_back, tape) if tape.kept else None
        dx, found = self._stack.backward(tape.tapes, grad_out, dh, dc, drop=drop, into=params.of(self._cells))
        ends = joined([(grads.h0, grads.c0) for grads in found], batched)
        return LayerGrads(self._shown(dx, batched), flat, params, self._as_given(ends))

    # -- serving and keeping --

    def stream(self, batch_size: int = 1) -> Stream:
        """One time step at a time, the state kept between steps.

        Parameters
        ----------
        batch_size : int
            B >= 1, the number of sequences.

        Returns
        -------
        Stream
            New, its state zeros. It has the weights as they are now, and takes later ones when it is reset.

        Raises
        ------
        TypeError, ValueError
            For a ``batch_size`` that is no integer >= 1 or beyond all memory, or a bidirectional layer.
        """
        return Stream(self, batch_size)

    def freeze(self) -> Frozen:
        """A read-only copy for serving, its weights packed once.

        Returns
        -------
        Frozen
            New; what happens to the layer later does not reach it.
        """
        return Frozen(self)

    def save(self, path: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the layer to one file, for ``fastrnn.load``.

        Parameters
        ----------
        path : str, path or binary file
            As for ``fastrnn.files.save``.

        Raises
        ------
        TypeError, OSError
            As ``fastrnn.files.save``.
        """
        from .files import save  # files stands on layers: only this method looks up

        save(self, path)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and "_flat" in self.__dict__:  # the kernels rely on the shapes that follow from it
            raise AttributeError(f"{name}: fixed when the layer is made, got {_check.text(value)}")
        if name == "dropout":
            value = _check.real(name, value, 0, 1)
        elif name == "rng":
            value = _check.generator(name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in FIXED | {"dropout", "rng"}:
            raise AttributeError(f"{name}: needs to stay, got deleted")
        super().__delattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, dtype=_check.dtype("dtype", state["dtype"]))  # pickle makes others of the same kind
        self._bind(self._flat)

    def __repr__(self) -> str:
        shown = [str(self.input_size), str(self.hidden_size)]
        defaults = self._arguments()
        for name, value in self.options().items():
            if name not in ("input_size", "hidden_size") and value != defaults[name].default:
                shown.append(f"{name}={value}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _drop_back(tape: LayerTape, l: int, grad: np.ndarray) -> None:
    grad *= tape.kept[l]
    grad *= tape.scale


class RNN(Layer):
    """Elman's recurrent network, h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh): Elman 1990.

    Parameters
    ----------
    nonlinearity : {"tanh", "relu"}
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        See ``fastrnn.layers.Layer``.

    Examples
    --------
    >>> import numpy as np
    >>> out, h = RNN(3, 5, seed=0)(np.zeros((7, 2, 3), np.float32))
    >>> out.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    cell = "rnn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = np.float32,
        init: str = "uniform",
        seed: Any = None,
    ) -> None:
        self.nonlinearity = _check.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        )

    @property
    def variant(self) -> str:
        """The nonlinearity."""
        return self.nonlinearity


class LSTM(Layer):
    """Long short-term memory, with a forget gate and, if wanted, a projection of the hidden state.

    Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000; Sak, Senior and Beaufays 2014.

    Parameters
    ----------
    proj_size : int
        P < H, the size of the projected hidden state; 0 for none.
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        See ``fastrnn.layers.Layer``.

    Examples
    --------
    >>> import numpy as np
    >>> out, (h, c) = LSTM(3, 5, num_layers=2, bidirectional=True, seed=0)(np.zeros((7, 2, 3), np.float32))
    >>> out.shape, h.shape, c.shape
    ((7, 2, 10), (4, 2, 5), (4, 2, 5))
    """

    cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = np.float32,
        init: str = "uniform",
        seed: Any = None,
    ) -> None:
        hidden_size = _check.integer("hidden_size", hidden_size, 1)
        self.proj_size = _check.integer("proj_size", proj_size, 0, hidden_size - 1)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        )


class GRU(Layer):
    """Gated recurrent unit: Cho et al. 2014.

    Parameters
    ----------
    reset_after : bool
        True: the reset gate acts on the recurrent product, as in cuDNN, PyTorch and Keras. False: before it, as in the
        paper.
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        See ``fastrnn.layers.Layer``.

    Examples
    --------
    >>> import numpy as np
    >>> out, h = GRU(3, 5, batch_first=True, seed=0)(np.zeros((2, 7, 3), np.float32), lengths=[7, 4])
    >>> out.shape, h.shape
    ((2, 7, 5), (1, 2, 5))
    """

    cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = np.float32,
        init: str = "uniform",
        seed: Any = None,
    ) -> None:
        self.reset_after = _check.flag("reset_after", reset_after)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed
        )

    @property
    def variant(self) -> str:
        """Where the reset gate acts."""
        return "reset_after" if self.reset_after else "reset_before"
