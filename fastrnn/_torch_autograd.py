# SPDX-License-Identifier: MIT
"""From PyTorch's tensors to the kernels and back: a stack of recurrent layers as one function of autograd.

T times, B batch, R rows of all times, I input size, H hidden size, P size of h, L layers, D directions.
Direction d of layer l is number k = l*D + d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils.dlpack import to_dlpack

from . import _check, _torch_plain, config
from ._records import WEIGHTS, Ragged, Tape
from ._stack import Stack, joined
from .parameters import PARTS

tracing = torch._C._get_tracing_state  # looked up once: these are asked in every call
autocast = torch._C._is_any_autocast_enabled
dispatch_modes = torch._C._len_torch_dispatch_stack
function_modes = torch._C._len_torch_function_stack
transform = torch._C._functorch.peek_interpreter_stack
frames_are_compiled = torch._C._dynamo.eval_frame.get_eval_frame_callback
hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)  # not before 2.8: none known
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph

EXACT = frozenset({Tensor, torch.nn.Parameter})  # a subclass may mean anything
FLOATS = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


# -- tensors as arrays -----------------------------------------------------------------------------------------------


class LentMemory:
    """A tensor's memory for NumPy to read. Unlike ``Tensor.numpy``, it leaves the storage as it is: resizable."""

    __slots__ = ("capsule",)

    def __init__(self, tensor: Tensor) -> None:
        self.capsule = to_dlpack(tensor)

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU


def lend(tensor: Tensor) -> np.ndarray:
    """A read-only array on a tensor's memory, which it keeps alive."""
    return np.from_dlpack(LentMemory(tensor))


def is_plain(tensor: Any, dtype: torch.dtype) -> bool:
    """Whether a tensor is just numbers in this process' memory, each where its like may stand."""
    if type(tensor) not in EXACT or not tensor.is_cpu or tensor.dtype is not dtype:
        return False
    try:
        at = tensor.data_ptr()  # 0 of a tensor without elements, of zeros that nobody wrote, of a storage given up
    except RuntimeError:  # it wraps others, or is sparse
        return False
    return at != 0 and at % dtype.itemsize == 0 and not tensor.is_neg() and not tensor.is_nested


def is_usual() -> bool:
    """Whether operations do what they say: nobody traces, transforms or watches them."""
    return not (
        tracing()
        or autocast()
        or dispatch_modes()
        or (function_modes() and is_watched())
        or transform() is not None
        or forward_ad._current_level >= 0
    )


def is_watched() -> bool:
    """Whether a mode of functions does more than to say where new tensors belong."""
    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work."""
    return transform() is not None or forward_ad._current_level >= 0


# -- what a pass is of -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Spec:
    """What a module is, but for its weights and dropout."""

    cell: str
    variant: str
    H: int
    P: int
    D: int
    parts: tuple[str, ...]  # of each k's weights

    def by_k(self, weights: Sequence[Any]) -> list[tuple]:
        """The weights of every k in the order of PARTS, None where there is none."""
        n = len(self.parts)
        where = [self.parts.index(part) if part in self.parts else None for part in PARTS]
        return [tuple(None if i is None else weights[first + i] for i in where) for first in range(0, len(weights), n)]

    def names(self) -> list[str]:
        """What a Call has them as, in the order of ``parts``."""
        return [WEIGHTS[PARTS.index(part)] for part in self.parts]

    def stack(self, weights: Sequence[np.ndarray]) -> Stack:
        """With weights that are arrays."""
        return Stack(self.cell, self.variant, self.H, self.P, self.D, self.by_k(weights))


class Weights:
    """A module's weights as arrays on their memory, and all else that seldom changes."""

    def __init__(self, tensors: Sequence[Tensor], spec: Spec, options: Any = None) -> None:
        self.spec, self.options, self.dtype = spec, options, tensors[0].dtype  # options: what the spec follows from
        self.tensors = [tensor.detach() for tensor in tensors]  # of the same memory, whatever becomes of a parameter
        self.at, self.shapes = self.places(), [tensor.shape for tensor in tensors]
        self.stack = spec.stack([lend(tensor) for tensor in self.tensors])
        self.calls = self.stack.blank()

    def places(self) -> list[int]:
        """Where they are."""
        return [tensor.data_ptr() for tensor in self.tensors]

    def are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors are the arrays."""
        return all(map(self._is, tensors, self.at, self.shapes))

    def _is(self, tensor: Tensor, at: int, shape: Sequence[int]) -> bool:
        if type(tensor) not in EXACT or tensor.layout is not torch.strided or tensor.data_ptr() != at:
            return False
        fits = tensor.shape == shape and tensor.dtype is self.dtype
        return fits and tensor.is_contiguous() and not tensor.is_neg()

    def now(self) -> Weights | None:
        """The same, even if their storage was given up and filled again elsewhere; None if there is nothing in it."""
        if self.places() == self.at:
            return self
        there = all(is_plain(tensor, self.dtype) for tensor in self.tensors)
        return Weights(self.tensors, self.spec) if there else None


class Layout:
    """How a caller lays sequences out: (T, B, ·), (B, T, ·) with batch_first, or (T, ·) unbatched."""

    ragged: Ragged | None = None

    def __init__(self, batched: bool, batch_first: bool) -> None:
        self.batched, self.batch_first = batched, batch_first and batched

    def inward(self, array: np.ndarray) -> np.ndarray:
        """Time-major."""
        if not self.batched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def outward(self, array: np.ndarray) -> np.ndarray:
        """The reverse."""
        if not self.batched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def sizes(self, x: Tensor) -> list[int]:
        """How many rows each time has."""
        T, B = (x.shape[0], 1) if x.dim() == 2 else (x.shape[self.batch_first], x.shape[not self.batch_first])
        return [B] * T

    def in_rows(self, x: Tensor) -> Tensor:
        """(R, ·), time by time."""
        return (x.transpose(0, 1) if self.batch_first else x).flatten(0, -2)

    def out_of_rows(self, rows: Tensor, T: int) -> Tensor:
        """The reverse."""
        if not self.batched:
            return rows
        out = rows.unflatten(0, (T, -1))
        return out.transpose(0, 1) if self.batch_first else out


class Packed(Layout):
    """The rows of a ``PackedSequence``, (R, ·): of each time those at work, the longest sequences first."""

    @classmethod
    def of(cls, sizes: Tensor, R: int) -> Packed | None:
        """From ``batch_sizes``, if they are those of R rows."""
        if not is_plain(sizes, torch.int64):
            return None
        counts = lend(sizes).copy()  # theirs may be changed before the way back
        fits = counts.ndim == 1 and counts[-1] > 0 and (counts[1:] <= counts[:-1]).all() and counts.sum() == R
        return cls(counts) if fits else None

    def __init__(self, sizes: np.ndarray) -> None:
        super().__init__(batched=True, batch_first=False)
        self.T, self.B, self.at_work = len(sizes), int(sizes[0]), sizes
        self.ragged = None if sizes[-1] == self.B else Ragged.packed(sizes)

    def inward(self, array: np.ndarray) -> np.ndarray:
        """As they are; (T, B, ·) where all have the same length."""
        return array if self.ragged is not None else array.reshape(self.T, self.B, -1)

    def outward(self, array: np.ndarray) -> np.ndarray:
        """The reverse."""
        return array if self.ragged is not None else array.reshape(self.T * self.B, -1)

    def sizes(self, x: Tensor) -> list[int]:
        """How many rows each time has."""
        return self.at_work.tolist()

    def in_rows(self, x: Tensor) -> Tensor:
        """They are."""
        return x

    def out_of_rows(self, rows: Tensor, T: int) -> Tensor:
        """They stay."""
        return rows


# -- a pass and its way back -----------------------------------------------------------------------------------------


class Pass:
    """One run of the kernels over a stack: forward, and, if it keeps a tape, back as often as wanted."""

    __slots__ = ("at", "dropout", "given", "layout", "noise", "spec", "tapes", "weights")

    def __init__(self, weights: Weights, layout: Layout, dropout: float) -> None:
        self.spec, self.weights, self.layout = weights.spec, weights, layout
        self.dropout = dropout  # between layers, 0 outside of training
        self.tapes: list[Tape] = []  # by k
        self.noise: list[Tensor] = []  # dropout's factors after layers 0..L-2, in rows (R, D*P)

    def forward(self, x: Tensor, h0: Tensor | None, c0: Tensor | None, taped: bool = False) -> list:
        """The outputs and final states as the caller lays them out; with a tape if there is a way back."""
        if taped:  # of the memory that the tape reads, whatever becomes of the caller's tensors
            self.given: list[Any] = [None if part is None else part.detach() for part in (x, h0, c0)]
            self.at = x.data_ptr()
        layout, backend = self.layout, config.backend()
        out, ends = self.weights.stack.forward(
            backend,
            _check.rows(layout.inward(lend(x))),
            self._states(h0),
            self._states(c0),
            layout.ragged,
            layout.batch_first,
            tapes=self.tapes if taped else None,
            drop=partial(self._dropped, backend) if self.dropout else None,
        )
        h, c = joined(ends, layout.batched)
        out = layout.outward(out)
        return [out, h] if c is None else [out, h, c]

    def ready(self, saved: Sequence[Any]) -> tuple[Pass, Weights | None]:
        """A pass with a tape, and the weights to go back by, or None if it cannot be.

        ``saved`` are x, h0, c0 and the weights as autograd kept them: they count where there is no tape yet.
        """
        if self.tapes:
            return self, self.weights.now() if self.given[0].data_ptr() == self.at else None
        x, h0, c0, *tensors = saved
        dtype = self.weights.dtype
        if not all(part is None or is_plain(part, dtype) for part in saved):
            return self, None
        again = Pass(Weights([tensor.contiguous() for tensor in tensors], self.spec), self.layout, self.dropout)
        again.noise = self.noise
        again.forward(x, h0, c0, taped=True)
        return again, again.weights

    def backward(self, weights: Weights, needed: Sequence[bool], grads: Sequence[Tensor | None]) -> list:
        """Gradients of x, h0, c0 and the weights in PyTorch's order, from those of the results, None for zeros.

        ``needed``: in the same order, those that are wanted; others may be None.
        """
        layout, tapes, names = self.layout, self.tapes, self.spec.names()
        grad_out, grad_h = grads[:2]
        grad_c = grads[2] if len(grads) > 2 else None
        wanted = [any(needed[first : first + len(names)]) for first in range(3, len(needed), len(names))]
        grad: Any = None if grad_out is None else _check.rows(layout.inward(lend(grad_out)))
        if weights is not self.weights:
            calls = [
                replace(tape.call, **dict(zip(WEIGHTS, parts, strict=True)))
                for tape, parts in zip(tapes, weights.stack.weights, strict=True)
            ]
            tapes = [replace(tape, call=call) for tape, call in zip(tapes, calls, strict=True)]
        drop = self._drop_back if self.noise else None
        dx, found = weights.stack.backward(
            tapes, grad, self._states(grad_h), self._states(grad_c), drop=drop, of_x=needed[0], of_weights=wanted
        )
        h, c = joined([(of_k.h0, of_k.c0) for of_k in found], layout.batched)
        parts = [getattr(of_k, name) for of_k in found for name in names]
        return [None if dx is None else layout.outward(dx), h, c, *parts]

    def _states(self, states: Tensor | None) -> np.ndarray | None:
        """(L*D, B, ·)."""
        if states is None:
            return None
        array = lend(states)
        return array if self.layout.batched else array[:, None]

    def _dropped(self, backend: Any, l: int, out: np.ndarray) -> np.ndarray:
        """The outputs of layer l after dropout, whose noise is drawn once, as torch.nn draws it."""
        p, width = self.dropout, out.shape[-1]
        if len(self.noise) == l:
            noise = torch.zeros(out.size // width, width, dtype=self.weights.dtype, device="cpu")
            self.noise.append(noise if p == 1 else noise.bernoulli_(1 - p).div_(1 - p))
        return np.multiply(out, self._spread(l, out), out=backend.new_array(out.shape, out.dtype))

    def _drop_back(self, l: int, grad: np.ndarray) -> None:
        grad *= self._spread(l, grad)

    def _spread(self, l: int, like: np.ndarray) -> np.ndarray:
        """The noise after layer l, like its outputs."""
        return self.noise[l].numpy().reshape(like.shape)

    def _drop(self, l: int, rows: Tensor) -> Tensor:
        """The same of tensors, in rows."""
        return rows * self.noise[l] if self.noise else rows

    def replay(self, saved: Sequence[Tensor | None], needed: Sequence[bool], grads: Sequence[Tensor | None]) -> list:
        """What ``backward`` gives, by PyTorch's own operations: to be differentiated again, or of batches of grads."""
        again = torch.is_grad_enabled()
        kept = [*self.given, *self.weights.tensors] if self.tapes else saved
        with torch.enable_grad():
            inputs = [
                None if part is None else as_it_was(part, memory, need)
                for part, memory, need in zip(saved, kept, needed, strict=True)
            ]
            results = plain_pass(self.spec, self.layout, inputs, self._drop)
            given = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
            wanted = [part for part, need in zip(inputs, needed, strict=True) if need]
            outs, grads = zip(*given, strict=True)
            found = iter(torch.autograd.grad(outs, wanted, grads, create_graph=again, allow_unused=True))
        return [next(found) if need else None for need in needed]


class OnMemory(torch.autograd.Function):
    """A tensor with the numbers in another's memory, those it had itself: (tensor, memory) -> the numbers."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, memory: Tensor) -> Tensor:
        """A view."""
        ctx.dtype = tensor.dtype
        return memory.view_as(memory)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:  # type: ignore[override]
        """The tensor's."""
        return grad.to(ctx.dtype), None


def as_it_was(tensor: Tensor, memory: Tensor, needed: bool) -> Tensor:
    """What forward was given, for the formulas: a caller may since have set its data or frozen it, and it may be there
    twice, so that each has a name of its own."""
    if needed and not tensor.requires_grad:
        return memory.detach().requires_grad_()
    if tensor.data_ptr() == memory.data_ptr() and tensor.dtype == memory.dtype:
        return tensor.view_as(tensor)
    return OnMemory.apply(tensor, memory)


def plain_pass(
    spec: Spec, layout: Layout, tensors: Sequence[Any], drop: Callable[[int, Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """A pass in PyTorch's elementary operations; ``tensors`` are x, h0, c0 and the weights."""
    x, h0, c0, *weights = tensors
    sizes, by_k = layout.sizes(x), spec.by_k(weights)
    if not layout.batched:
        h0, c0 = (None if part is None else part.unsqueeze(1) for part in (h0, c0))
    h0 = x.new_zeros(len(by_k), sizes[0], spec.P) if h0 is None else h0
    c0 = x.new_zeros(len(by_k), sizes[0], spec.H) if c0 is None and spec.cell == "lstm" else c0
    rows, *states = _torch_plain.stack(spec.cell, spec.variant, layout.in_rows(x), sizes, h0, c0, by_k, spec.D, drop)
    out = layout.out_of_rows(rows, len(sizes))
    return out, *(part if layout.batched else part.squeeze(1) for part in states)


class Recurrence(torch.autograd.Function):
    """A stack with a tape: (pass, x, h0, c0, *weights) -> (out, h_n) or, of an LSTM, (out, h_n, c_n)."""

    @staticmethod
    def forward(ctx: Any, run: Pass, x: Tensor, h0: Any, c0: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        """The kernels' forward pass."""
        ctx.run = run
        ctx.set_materialize_grads(False)
        taped = hooks(True) is None  # where saved tensors are to go elsewhere, or nowhere, nothing else must stay here
        results = run.forward(x, h0, c0, taped)
        if taped:
            ctx.save_for_backward(x, h0, c0, *weights)
        else:
            ctx.save_for_backward(x, h0, c0, *weights, *run.noise)
            run.noise = []
        return tuple(map(torch.from_numpy, results))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        """Backpropagation through time; what is not needed is None."""
        if torch.compiler.is_compiling() or frames_are_compiled():  # see Recurrent.forward
            return torch.compiler.disable(Recurrence.backward)(ctx, *grads)
        saved = ctx.saved_tensors  # says so if one of them was changed in place, or all are gone
        run, (_, *needed) = ctx.run, ctx.needs_input_grad
        if not keeps_graph():
            ctx.run = None
        if len(saved) > len(needed):
            run = Pass(run.weights, run.layout, run.dropout)
            saved, run.noise = saved[: len(needed)], list(saved[len(needed) :])
        given, weights = [grad for grad in grads if grad is not None], None
        if not given:
            return (None,) * (1 + len(needed))
        usual = not (torch.is_grad_enabled() or is_transformed())
        if usual and all(is_plain(grad, run.weights.dtype) for grad in given):
            run, weights = run.ready(saved)
        if weights is None:
            return None, *run.replay(saved, needed, grads)
        from_numpy, found = torch.from_numpy, run.backward(weights, needed, grads)
        return None, *[from_numpy(part) if need else None for part, need in zip(found, needed, strict=True)]


# What Function.apply adds is for the transforms of torch.func, which never come here.
recurrence = super(torch.autograd.Function, Recurrence).apply
