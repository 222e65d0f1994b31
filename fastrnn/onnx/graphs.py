# SPDX-License-Identifier: MIT
"""Where the values of an ONNX model come from: graphs within graphs, constants, and arithmetic on shapes."""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TypeAlias, cast

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .nodes import DOMAINS

Constant: TypeAlias = onnx.TensorProto | onnx.SparseTensorProto
Source: TypeAlias = onnx.NodeProto | Constant | None  # what makes a value; None: an input of its graph
Sources = ChainMap[str, Source]  # of all values that a graph sees: its own, then those of the graphs around it

MOVES = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # every number of the first input, once
BROADCAST = {"Add", "Div", "Mul", "Pow", "Sub"}
FOLDED = MOVES | BROADCAST
FOLDED |= {"Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "Gather", "Neg"}
FOLDED |= {"ReduceL2", "ReduceProd", "ReduceSum", "Shape", "Slice", "Split", "Sqrt"}
MOST_MADE = 2**24  # numbers made of nothing: many a layer's biases, and no more than 128 MB
MOST_EXPANSION = 100  # numbers made of each that is stored: exporters move weights about in a dozen steps


def walk(graph: onnx.GraphProto, outer: Sources | None = None) -> Iterator[tuple[onnx.NodeProto, Sources]]:
    """Every node of a graph and of the graphs in its nodes, in order, with the values that it sees."""
    made: list[tuple[str, Source]] = list(constants_of(graph))
    made += [(name, node) for node in graph.node for name in node.output if name]
    for name, count in Counter(name for name, _ in made).items():
        if count > 1:
            raise ValueError(f"path_or_model: needs values of different names, got {name!r} {count} times in one graph")
    own = dict.fromkeys((value.name for value in graph.input), None) | dict(made)
    sources = ChainMap(own, *(outer.maps if outer else ()))
    for node in graph.node:
        yield node, sources
        for inner in graphs_in(node):
            yield from walk(inner, sources)


def graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches of an If, the bodies of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in it."""
    yield graph
    for node in graph.node:
        for inner in graphs_in(node):
            yield from all_graphs(inner)


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often the numbers of each value are used, in a graph and those in it; to ask for a shape is no use."""
    counted: Counter[str] = Counter()
    for inner in all_graphs(graph):
        counted.update(value.name for value in inner.output)
        for node in inner.node:
            if node.op_type != "Shape":
                counted.update(node.input)
    return counted


def depends(names: Iterable[str], on: Collection[str], sources: Sources) -> bool:
    """Whether values come, by any way but their shapes, from some others."""
    seen, left = set(), list(names)
    while left:
        name = left.pop()
        source = sources.get(name)
        if name in on:
            return True
        if name not in seen and isinstance(source, onnx.NodeProto) and source.op_type != "Shape":
            left += source.input
            left += (used for inner in graphs_in(source) for used in uses(inner))
        seen.add(name)
    return False


def shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes that a model states, 0 for an axis of any size; () where two graphs have a name for two things."""
    found: dict[str, tuple[int, ...]] = {}
    for inner in all_graphs(graph):
        for value in (*inner.input, *inner.value_info, *inner.output):
            shape = tuple(max(axis.dim_value, 0) for axis in value.type.tensor_type.shape.dim)
            found[value.name] = shape if found.get(value.name, shape) == shape else ()
    return found


def evaluate(
    name: str, sources: Sources, opset: int, given: Mapping[str, np.ndarray], known: Mapping[str, tuple[int, ...]]
) -> np.ndarray | None:
    """A value's array, from constants and ``given`` alone; None if it takes more, or other operators than FOLDED.

    A Shape is answered from ``known`` where this has all sizes asked for.

    Raises
    ------
    ValueError
        Naming a constant that cannot be read, or a value if much more would be made than the model holds.
    """
    values, left, opened = dict(given), [name], set[str]()
    stored, made = sum(array.size for array in values.values()), 0
    while left:
        last = left[-1]
        source = sources.get(last)
        if last in values:
            left.pop()
        elif isinstance(source, Constant):
            values[last] = array_of(within(source))
            stored += values[last].size
        elif source is None or source.op_type not in FOLDED or source.domain not in DOMAINS:
            return None
        elif (shape := shape_known(source, known)) is not None:
            values[last] = shape
        elif missing := [argument for argument in source.input if argument and argument not in values]:
            if last in opened:  # a circle of nodes
                return None
            opened.add(last)
            left += missing
        else:
            made += size_made(source, values)
            if made > MOST_MADE + MOST_EXPANSION * stored:
                wanted = f"at most {MOST_MADE + MOST_EXPANSION * stored} numbers made of the model's constants"
                raise ValueError(f"value {last!r}: needs {wanted}, got {made} with {source.op_type}")
            values |= computed(source, values, opset)
            if last not in values:
                return None
            stored += values[last].size if source.op_type == "Constant" else 0
    return values[name]


def shape_known(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]]) -> np.ndarray | None:
    """What a Shape puts out, if all sizes that it asks for are known."""
    if node.op_type != "Shape" or not node.input:
        return None
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    shape = known.get(node.input[0], ())[ends.get("start") : ends.get("end")]
    return np.array(shape, np.int64) if min(shape, default=0) > 0 else None


def size_made(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> int:
    """How many numbers a node makes at most; of Python's integers, which cannot overflow."""
    arrays, op = [values[name] for name in node.input if name], node.op_type
    if op == "Identity":
        return 0
    if op in ("ConstantOfShape", "Expand") and arrays and arrays[-1].dtype.kind in "iu":
        asked = [int(size) for size in arrays[-1].flat]
        return math.prod(asked) if op == "ConstantOfShape" else broadcast_size(arrays[0].shape, asked)
    if op in BROADCAST and len(arrays) == 2:
        return broadcast_size(arrays[0].shape, arrays[1].shape)
    if op == "Gather" and len(arrays) == 2:
        sizes = [attribute.i for attribute in node.attribute if attribute.name == "axis"] or [0]
        sizes = [arrays[0].shape[axis] for axis in sizes if axis in range(-arrays[0].ndim, arrays[0].ndim)]
        return arrays[1].size * max((arrays[0].size // max(size, 1) for size in sizes), default=0)
    return sum(array.size for array in arrays)


def broadcast_size(first: Sequence[int], second: Sequence[int]) -> int:
    """How many numbers two shapes have together, at most."""
    return math.prod(map(max, zip_longest(reversed(first), reversed(second), fillvalue=1)))


def computed(node: onnx.NodeProto, values: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray]:
    """What a node makes of values, by ONNX's own evaluator; nothing if it cannot be run on them."""
    given = {name: values[name] for name in node.input if name}
    if node.op_type == "Identity" and len(given) == 1:  # which the evaluator copies
        return dict.fromkeys(node.output, *given.values())
    inputs, outputs = (
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in dict.fromkeys(names) if name]
        for names in (node.input, node.output)
    )
    graph = onnx.helper.make_graph([node], "part", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        arrays = map(np.asarray, cast(list, ReferenceEvaluator(model).run(None, given)))
        return dict(zip((value.name for value in outputs), arrays, strict=True))
    except Exception:  # of any kind: a Reshape to a fixed size, tried with another, an attribute of the wrong type
        return {}


# -- constants -------------------------------------------------------------------------------------------------------


def constants_of(graph: onnx.GraphProto) -> Iterator[tuple[str, Constant]]:
    """The initializers of a graph by their names, dense and sparse ones."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((sparse.values.name, sparse) for sparse in graph.sparse_initializer)


def within(constant: Constant) -> Constant:
    """A constant, if its data is in the model."""
    for tensor in (constant.values, constant.indices) if isinstance(constant, onnx.SparseTensorProto) else (constant,):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"initializer {tensor.name!r}: needs its data, kept in another file: give the path")
    return constant


def array_of(constant: Constant) -> np.ndarray:
    """A constant's array."""
    name = constant.values.name if isinstance(constant, onnx.SparseTensorProto) else constant.name
    try:
        if min(constant.dims, default=0) < 0:
            raise ValueError(f"dimensions {list(constant.dims)}")
        return dense(constant) if isinstance(constant, onnx.SparseTensorProto) else onnx.numpy_helper.to_array(constant)
    except Exception as problem:  # of any kind: a KeyError for an unknown type, a TypeError for none
        raise ValueError(f"initializer {name!r}: needs data of its type and shape, got {problem}") from problem


def dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse constant's array: zeros but for its values, whose indices are of the flat array or one for each axis."""
    values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    if math.prod(shape) > MOST_MADE + MOST_EXPANSION * values.size:
        raise ValueError(f"{values.size} values for shape {shape}")
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    if flat.shape != values.shape or (flat.size and flat.min() < 0):
        raise ValueError(f"indices of shape {indices.shape} for values of {values.shape}, or below 0")
    array = np.zeros(math.prod(shape), values.dtype)
    array[flat] = values
    return array.reshape(shape)
