# SPDX-License-Identifier: MIT
"""PyTorch's recurrent modules on fastrnn's kernels: ``RNN``, ``LSTM`` and ``GRU``, ``accelerate`` and ``from_torch``.

A module of this kind is torch.nn's, but quicker. float32 and float64 tensors on the CPU run on the kernels, forward and
backward; anything else takes PyTorch's own way. Threads are those of ``fastrnn.set_num_threads``.

T times, B batch, I input size, H hidden size, P size of h, L layers, D directions.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

from . import _check, config, layers
from .parameters import weight_shapes

try:
    import torch
except ModuleNotFoundError as problem:
    raise ImportError('fastrnn.torch needs torch: pip install "fastrnn[torch]"') from problem

from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

try:
    from ._torch_autograd import (
        FLOATS,
        Layout,
        Packed,
        Pass,
        Spec,
        Weights,
        autocast,
        frames_are_compiled,
        hooks,
        is_plain,
        is_transformed,
        is_usual,
        lend,
        plain_pass,
        recurrence,
    )
except AttributeError as problem:  # it asks PyTorch's inner functions, which an old one lacks, and a new one may
    raise ImportError(f"fastrnn.torch needs torch 2.6 or newer, tested with 2.13, got {torch.__version__}") from problem

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "from_torch"]

CELLS = {"RNN_TANH": ("rnn", "tanh"), "RNN_RELU": ("rnn", "relu"), "GRU": ("gru", "reset_after"), "LSTM": ("lstm", "")}


def proxy_in(input: Any, hx: Any) -> Any:
    """What torch.fx traces with among the arguments of a call; None if it does not."""
    parts = (input, *hx) if isinstance(hx, (tuple, list)) else (input, hx)
    return next((part for part in parts if isinstance(part, torch.fx.Proxy)), None)


class Recurrent(nn.RNNBase):
    """What RNN, LSTM and GRU have in common: the choice between the kernels and PyTorch's own ways."""

    _original: type[nn.RNNBase]

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch.nn's, the errors included.

        Parameters
        ----------
        input : Tensor, shape (T, B, I), (B, T, I) with batch_first or (T, I) unbatched, or PackedSequence
        hx : Tensor, shape (L*D, B, P), for an LSTM (h, c) with c of shape (L*D, B, H), or None for zeros
            Unbatched: without the axis B.

        Returns
        -------
        output : Tensor or PackedSequence
            The last layer's hidden states, laid out as the input.
        hx : Tensor or tuple of Tensor
            The final state, shaped as the initial one.
        """
        if torch.compiler.is_compiling():
            return super().forward(input, hx)
        if frames_are_compiled():  # between two graphs: what runs here is not to become one
            return torch.compiler.disable(Recurrent.forward)(self, input, hx)
        found = None
        if is_usual():
            found = self._on_kernels(input, hx)
        elif is_transformed() and not autocast():
            found = self._transformed(input, hx)
        if found is None:
            proxy = proxy_in(input, hx)
            return super().forward(input, hx) if proxy is None else self._leaf(proxy.tracer, input, hx)
        out, *states = found
        state = tuple(states) if self.mode == "LSTM" else states[0]
        if type(input) is not PackedSequence:
            return out, state
        _, sizes, order, inverse = input
        return PackedSequence(out, sizes, order, inverse), self.permute_hidden(state, inverse)

    # -- ways --

    def _on_kernels(self, input: Any, hx: Any) -> tuple[Tensor, ...] | None:
        """Output and states; None where PyTorch has to find them, or to say what is wrong."""
        tensors = self._tensors()
        weights = None if tensors is None else self._weights(tensors)
        if tensors is None or weights is None:
            return None
        recording = torch.is_grad_enabled()
        if not recording and len(weights.calls) == 1:
            served = self._served(weights, input, hx)
            if served is not None:
                return served
        if not is_plain(input.data if type(input) is PackedSequence else input, weights.dtype):
            return None
        call = self._checked(input, hx)
        if call is None:
            return None
        layout, *given = call
        for state in given[1:]:
            if state is not None and not is_plain(state, weights.dtype):
                return None
        run = Pass(weights, layout, self._dropout())
        if recording:
            for part in (*tensors, *given):
                if part is not None and part.requires_grad:
                    if hooks(True) is not None:  # what a leaf is may change, of its views only the numbers
                        given = [None if part is None else part.view_as(part) for part in given]
                        tensors = [tensor.view_as(tensor) for tensor in tensors]
                    return recurrence(run, *given, *tensors)
        return tuple(map(torch.from_numpy, run.forward(*given)))

    def _served(self, weights: Weights, x: Any, hx: Any) -> tuple[Tensor, ...] | None:
        """The short way of one layer in one direction without a tape; None for all that is not just as it needs it."""
        lstm = self.mode == "LSTM"
        if lstm and hx is not None and type(hx) is not tuple:
            return None
        arrays = []
        for part in (x,) if hx is None else (x, *hx) if lstm else (x, hx):
            if not is_plain(part, weights.dtype):
                return None
            arrays.append(lend(part))
        state: Any = None if hx is None else tuple(arrays[1:]) if lstm else arrays[1]
        served = config.backend().serve(weights.calls[0], None, arrays[0], state, self.batch_first)
        if served is None:
            return None
        out, state = served
        return tuple(map(torch.from_numpy, (out, *state) if lstm else (out, state)))

    def _transformed(self, input: Any, hx: Any) -> tuple[Tensor, ...] | None:
        """In elementary operations: vmap and forward mode, which torch.nn's lack in part. None: see ``_on_kernels``."""
        call, tensors = self._checked(input, hx), self._tensors()
        if call is None or tensors is None or any(tensor is None for tensor in tensors):
            return None
        layout, *given = call
        spec = self._spec()
        if any(part is not None and part.dtype != tensors[0].dtype for part in given):
            return None
        return plain_pass(spec, layout, (*given, *tensors), lambda _, rows: dropout(rows, self._dropout()))

    def _leaf(self, tracer: Any, input: Any, hx: Any) -> Any:
        """A call in a graph of torch.fx, which knows torch.nn's own modules as such."""
        arguments = (input,) if hx is None else (input, hx)
        return tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, {})

    def __prepare_scriptable__(self) -> nn.RNNBase:
        if type(self) not in LAYERS:  # a subclass has methods of its own to be scripted
            return self
        twin = copy.copy(self)  # of the same parameters; PyTorch leaves it in the model that was scripted
        twin.__class__ = self._original
        return twin

    # -- what they need --

    def _tensors(self) -> list[Tensor] | None:
        """The weights, where they are parameters, not made from others, and what torch.nn would take."""
        parameters, names = self._parameters, self._flat_weights_names
        try:
            tensors = [parameters[name] for name in names]
        except KeyError:
            return None
        if not same(tensors, self._flat_weights) or not self.__dict__.keys().isdisjoint(names):
            self._update_flat_weights()  # as torch.nn's do before each pass
            if not same(tensors, self._flat_weights):
                return None
        return tensors

    def _weights(self, tensors: list[Tensor]) -> Weights | None:
        """Those as arrays, if the kernels can take them. Only where they are is kept: what they are may change."""
        options = (
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.bidirectional,
            self.proj_size,
            self.mode,
        )
        weights = self.__dict__.get("_lent")
        if weights is None or weights.options != options or not weights.are(tensors):
            self.__dict__.pop("_lent", None)  # or it would keep their old memory
            dtype, shapes = getattr(tensors[0], "dtype", None), list(weight_shapes(CELLS[self.mode][0], *options[:-1]))
            if dtype not in FLOATS or [name for name, _ in shapes] != self._flat_weights_names:
                return None
            for tensor, (_, shape) in zip(tensors, shapes, strict=True):
                if not is_plain(tensor, dtype) or tensor.shape != shape or not tensor.is_contiguous():
                    return None
            weights = Weights(tensors, self._spec(), options)
            if isinstance(tensors[0], nn.Parameter):  # others are here for a call: torch.func.functional_call
                self.__dict__["_lent"] = weights
        return weights

    def _apply(self, *arguments: Any, **options: Any) -> nn.Module:
        self.__dict__.pop("_lent", None)
        return super()._apply(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_lent", None)
        return state

    def _spec(self) -> Spec:
        cell, variant = CELLS[self.mode]
        P, D = self.proj_size or self.hidden_size, 2 if self.bidirectional else 1
        parts = tuple(name[: name.index("_l0")] for name in self._all_weights[0])
        return Spec(cell, variant, self.hidden_size, P, D, parts)

    def _dropout(self) -> float:
        """Between layers, now."""
        return self.dropout if self.training and self.num_layers > 1 else 0.0

    def _checked(self, input: Any, hx: Any) -> tuple[Layout, Tensor, Tensor | None, Tensor | None] | None:
        """(layout, x, h0, c0) of a call that torch.nn would take."""
        if type(input) is PackedSequence:
            x, sizes, order, _ = input
            packed = Packed.of(sizes, len(x))
            if packed is None or x.dim() != 2:
                return None
            hx = None if hx is None else self.permute_hidden(hx, order)
            layout: Layout = packed
            axes: tuple[int, ...] = (packed.B,)
        else:
            if not isinstance(input, Tensor) or (ndim := input.dim()) not in (2, 3):
                return None
            x, layout = input, Layout(ndim == 3, self.batch_first)
            axes = () if ndim == 2 else (x.shape[not self.batch_first],)
        if x.shape[-1] != self.input_size or x.numel() == 0:
            return None
        if hx is None:
            return layout, x, None, None
        h, c = (hx, None) if self.mode != "LSTM" else hx if type(hx) in (tuple, list) and len(hx) == 2 else (None, None)
        axes = (self.num_layers * (2 if self.bidirectional else 1), *axes)
        if not isinstance(h, Tensor) or h.shape != (*axes, self.proj_size or self.hidden_size):
            return None
        if self.mode == "LSTM" and (not isinstance(c, Tensor) or c.shape != (*axes, self.hidden_size)):
            return None
        return layout, x, h, c


class RNN(Recurrent, nn.RNN):
    """``torch.nn.RNN`` on fastrnn's kernels: the same arguments, parameters, results and errors."""

    _original = nn.RNN


class LSTM(Recurrent, nn.LSTM):
    """``torch.nn.LSTM`` on fastrnn's kernels: the same arguments, parameters, results and errors."""

    _original = nn.LSTM


class GRU(Recurrent, nn.GRU):
    """``torch.nn.GRU`` on fastrnn's kernels: the same arguments, parameters, results and errors."""

    _original = nn.GRU


OURS: dict[type, type] = {cls._original: cls for cls in (RNN, LSTM, GRU)}
LAYERS: dict[type, Any] = {RNN: layers.RNN, LSTM: layers.LSTM, GRU: layers.GRU}


def accelerate(model: nn.Module) -> nn.Module:
    """Turn every ``torch.nn.RNN``, ``LSTM`` and ``GRU`` of a model into ours, in place.

    Parameters, buffers, hooks, names and ties stay what they are, and so does ``state_dict``. Subclasses, which may
    mean something else, are left alone. ``torch.jit.script`` puts torch.nn's back into the model it is given.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or such a module itself.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: needs a torch.nn.Module, got {_check.text(model)}")
    for module in model.modules():
        if type(module) in OURS:
            module.__class__ = OURS[type(module)]
    return model


def from_torch(module: nn.Module) -> layers.Layer:
    """Make a layer of fastrnn, with the weights of a module of PyTorch.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM or GRU, or ours
        Of float32 or float64, on any device.

    Returns
    -------
    fastrnn.RNN, LSTM or GRU
        New, the weights copied, all options taken over. Its results are those of the module in ``eval`` mode;
        its ``forward`` drops out as in ``train`` mode, by its own generator.

    Raises
    ------
    TypeError, ValueError
        If it is another module, a subclass included, or its weights are something else than arrays of one such dtype,
        or made from others, as by ``weight_norm`` and ``prune``.
    """
    kind = OURS.get(type(module), type(module))
    if kind not in LAYERS:
        raise TypeError(f"module: needs torch.nn.RNN, LSTM or GRU, got {_check.text(type(module).__name__)}")
    for name in module._flat_weights_names:
        if name not in module._parameters:
            raise ValueError(f"module.{name}: needs a parameter, got something made from others: first undo that")
    state, names = module.state_dict(), ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout is not torch.strided:
            raise ValueError(f"module.{name}: needs numbers in a dense tensor, got one of {_kind(tensor)}")
        if tensor.dtype not in FLOATS or tensor.dtype != next(iter(state.values())).dtype:
            raise TypeError(f"module.{name}: needs float32 or float64, one for all weights, got {tensor.dtype}")
    options = {name: getattr(module, name) for name in (*names, "bidirectional")}
    if kind is RNN:
        options["nonlinearity"] = module.nonlinearity
    if kind is LSTM:
        options["proj_size"] = module.proj_size
    layer = LAYERS[kind](**options, dtype=FLOATS[next(iter(state.values())).dtype])
    layer.load_state_dict({name: tensor.cpu() for name, tensor in state.items()})
    return layer


def same(tensors: list[Any], others: list[Any]) -> bool:
    """Whether they are the same objects."""
    return len(tensors) == len(others) and all(map(operator.is_, tensors, others))


def _kind(tensor: Tensor) -> str:
    return f"device {tensor.device}, layout {tensor.layout}"
