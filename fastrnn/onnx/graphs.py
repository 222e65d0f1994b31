# SPDX-License-Identifier: MIT
"""Where the values of an ONNX model come from: graphs within graphs, constants, and arithmetic on shapes."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, cast

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .nodes import DOMAINS

Source: TypeAlias = onnx.NodeProto | onnx.TensorProto | None  # what makes a value; None: an input of its graph
Sources = ChainMap[str, Source]  # of all values that a graph sees: its own, then those of the graphs around it

MOVES = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}  # every number of the first input, once
FOLDED = MOVES | {
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Expand",
    "Gather",
    "Mul",
    "ReduceProd",
    "Shape",
    "Slice",
    "Split",
}


def walk(graph: onnx.GraphProto, outer: Sources | None = None) -> Iterator[tuple[onnx.NodeProto, Sources]]:
    """Every node of a graph and of the graphs in its nodes, in order, with the values that it sees."""
    own: dict[str, Source] = {value.name: None for value in graph.input}
    own |= {tensor.name: tensor for tensor in graph.initializer}
    own |= {name: node for node in graph.node for name in node.output if name}
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
            shape = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
            found[value.name] = shape if found.get(value.name, shape) == shape else ()
    return found


def evaluate(
    name: str, sources: Sources, opset: int, given: Mapping[str, np.ndarray] | None = None
) -> np.ndarray | None:
    """A value's array, from constants and ``given`` alone; None if it takes more, or other operators than FOLDED."""
    given = given or {}
    nodes: dict[str, onnx.NodeProto] = {}  # by their first outputs, in an order to run them in
    values: dict[str, np.ndarray] = dict(given)
    known = dict.fromkeys(given, True)

    def collect(name: str) -> bool:
        if name not in known:
            known[name] = False  # so that a circle of nodes comes to an end
            known[name] = collected(sources.get(name), name)
        return known[name]

    def collected(source: Source, name: str) -> bool:
        if isinstance(source, onnx.TensorProto):
            values[name] = array_of(source)
            return True
        if source is None or source.op_type not in FOLDED or source.domain not in DOMAINS:
            return False
        if not all(collect(argument) for argument in source.input if argument):
            return False
        nodes[source.output[0]] = source
        return True

    if not collect(name):
        return None
    return values[name] if name in values else computed(name, list(nodes.values()), values, opset)


def computed(
    name: str, nodes: Sequence[onnx.NodeProto], values: dict[str, np.ndarray], opset: int
) -> np.ndarray | None:
    """What nodes make of values, by ONNX's own evaluator; None if they cannot be run on them."""
    inputs = [onnx.helper.make_value_info(given, onnx.TypeProto()) for given in values]
    graph = onnx.helper.make_graph(nodes, "part", inputs, [onnx.helper.make_value_info(name, onnx.TypeProto())])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        (array,) = cast(list, ReferenceEvaluator(model).run(None, values))
        return array
    except Exception:  # of any kind: a Reshape to a fixed size, tried with another, an attribute of the wrong type
        return None


def array_of(tensor: onnx.TensorProto) -> np.ndarray:
    """A constant's array."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"path_or_model: needs the data of {tensor.name!r}, kept in another file: give the path")
    return onnx.numpy_helper.to_array(tensor)
