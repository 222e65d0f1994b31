# SPDX-License-Identifier: MIT
"""A layer's parameters: their names and shapes, their place in one flat array, and what they start from.

I input size, H hidden size, P size of h (H, or proj_size), G gates, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check
from ._records import GATES

if TYPE_CHECKING:
    from .layers import Layer

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # in PyTorch's order; a Call's WEIGHTS
Shapes = Iterable[tuple[str, tuple[int, ...]]]
Places = list[tuple[str, slice, tuple[int, ...]]]
FIXED = {"cell", "input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", "dtype"}
FIXED |= {"nonlinearity", "reset_after", "batch_first", "init", "seed"}  # what parameters and layouts follow from


def weight_shapes(
    cell: str, input_size: int, hidden_size: int, num_layers: int, bias: bool, bidirectional: bool, proj_size: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """PyTorch's names and shapes of a layer's parameters, in PyTorch's order."""
    GH, P = GATES[cell] * hidden_size, proj_size or hidden_size
    ends = ("", "_reverse") if bidirectional else ("",)
    for l in range(num_layers):
        I = len(ends) * P if l else input_size
        for end in ends:
            yield f"weight_ih_l{l}{end}", (GH, I)
            yield f"weight_hh_l{l}{end}", (GH, P)
            if bias:
                yield f"bias_ih_l{l}{end}", (GH,)
                yield f"bias_hh_l{l}{end}", (GH,)
            if proj_size:
                yield f"weight_hr_l{l}{end}", (P, hidden_size)


def places(shapes: Shapes) -> Places:
    """Name, place in the flat array and shape of each parameter."""
    found, stop = [], 0
    for name, shape in shapes:
        start, stop = stop, stop + math.prod(shape)
        found.append((name, slice(start, stop), shape))
    return found


def cells(num_layers: int, bidirectional: bool) -> list[tuple[str, ...]]:
    """The names of W_ih, W_hh, b_ih, b_hh and W_hr of every layer and direction, whether it has them all or not."""
    ends = [f"_l{l}{end}" for l in range(num_layers) for end in ("", "_reverse")[: 1 + bidirectional]]
    return [tuple(part + end for part in PARTS) for end in ends]


class Views(Mapping[str, np.ndarray]):
    """Names of views into one flat array. Assigning to a name writes the values into that array."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # a Mapping's would ask arrays whether they are true

    def __init__(self, flat: np.ndarray, places: Places) -> None:
        self._made_of = flat, places
        self._views = {name: flat[place].reshape(shape) for name, place, shape in places}

    def of(self, cells: list[tuple[str, ...]]) -> list[tuple]:
        """The views with these names, None where there is none."""
        return [tuple(map(self._views.get, names)) for names in cells]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __setitem__(self, name: str, value: Any) -> None:
        view = self._views[name]
        view[...] = _check.filling(f"params[{name!r}]", value, view)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __reduce__(self) -> tuple:
        return Views, self._made_of  # made anew: views would be copied to arrays of their own

    def __repr__(self) -> str:
        return f"Views({', '.join(f'{name} {view.shape}' for name, view in self.items())})"


def uniform(layer: Layer) -> None:
    """U(-1/sqrt(H), 1/sqrt(H)) for every parameter, as PyTorch does."""
    bound = 1 / math.sqrt(layer.hidden_size)
    for array in layer.params.values():
        array[...] = layer.rng.uniform(-bound, bound, array.shape)


def orthogonal(layer: Layer) -> None:
    """Glorot-uniform inputs, orthogonal recurrent matrices, gate by gate; biases 0, the LSTM's forget gate 1.

    Glorot and Bengio 2010; Saxe, McClelland and Ganguli 2014; Jozefowicz, Zaremba and Sutskever 2015.
    """
    H, rng = layer.hidden_size, layer.rng
    for name, array in layer.params.items():
        if name.startswith("bias"):
            array[...] = 0
            if layer.cell == "lstm" and name.startswith("bias_ih"):
                array[H : 2 * H] = 1
        elif name.startswith("weight_hr"):
            array[...] = orthogonal_matrix(rng, *array.shape)
        else:
            for gate in array.reshape(-1, H, array.shape[1]):
                bound = math.sqrt(6 / sum(gate.shape))
                inputs = name.startswith("weight_ih")
                gate[...] = rng.uniform(-bound, bound, gate.shape) if inputs else orthogonal_matrix(rng, *gate.shape)


def orthogonal_matrix(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Uniform among the matrices with orthonormal rows or columns, whichever are fewer: Mezzadri 2007."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1, 1)
    return q if rows >= columns else q.T


INITS = {"uniform": uniform, "orthogonal": orthogonal}
