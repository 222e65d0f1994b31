# SPDX-License-Identifier: MIT
"""from_onnx: the RNN, GRU and LSTM nodes of any ONNX model as fastrnn layers.

T time steps, B batch, H hidden size, L layers, D directions.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference

from .. import _check
from ..layers import GRU, LSTM, RNN
from .graphs import MOVES, Sources, depends, evaluate, shapes, uses, walk
from .nodes import DOMAINS, WEIGHTS, Direction, Node, directions, is_recurrent, operator, opset_of, read

KINDS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
PARAMETERS = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
MOST_BYTES = 2**31  # of a protobuf message, which shape inference makes of a model
MOST_TRIED = 2**27  # numbers to try a rearrangement with: half a gigabyte
SIZES = ((5, 3), (2, 7), (1, 1))  # of T and B, to try a rearrangement with


@dataclass(slots=True)
class Found:
    """A recurrent node of a model, and the layer that it would be alone."""

    name: str
    node: Node
    sources: Sources
    parts: list[Direction]
    options: dict[str, Any]

    def like(self, other: Found) -> bool:
        """Whether both may be layers of one stack."""
        lengths, others = (found.node.inputs.get("sequence_lens") for found in (self, other))
        return (self.node.cell, self.options, lengths) == (other.node.cell, other.options, others)


def from_onnx(path_or_model: str | os.PathLike[str] | onnx.ModelProto) -> dict[str, RNN | LSTM | GRU]:
    """Make layers of the RNN, GRU and LSTM nodes of an ONNX model, with their weights.

    Nodes in the branches of an If and in the bodies of Loop and Scan are found too. Nodes are put into one layer of L
    where each is fed with all of the output of the one before it, as exporters write a stacked layer, and nobody else
    is. Initial states and lengths are for the caller to give to a layer, as the graph gives them to its nodes.

    Parameters
    ----------
    path_or_model : path or onnx.ModelProto
        The weights are initializers, Constant nodes or what follows from such; external data is read at a path.

    Returns
    -------
    dict of str to RNN, LSTM or GRU
        New layers in the order of the graph, by the names of their (first) nodes. Those of float16 and bfloat16
        weights are of float32. Time first unless the nodes are not: PyTorch writes ``batch_first`` as a Transpose
        around them.

    Raises
    ------
    TypeError, ValueError
        If there are no such nodes (the message says what there is), or one has what no layer has: a clip, peepholes,
        coupled gates, other activations, the reverse direction alone, weights that are computed, or is not as its opset
        says. The message names it.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import numpy as np, onnx
    >>> weights = [np.zeros(shape, np.float32) for shape in ((1, 20, 3), (1, 20, 5))]
    >>> graph = onnx.helper.make_graph(
    ...     [onnx.helper.make_node("LSTM", ["X", "W", "R"], ["Y"], "encoder", hidden_size=5)],
    ...     "model",
    ...     [onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["T", "B", 3])],
    ...     [onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["T", 1, "B", 5])],
    ...     [onnx.numpy_helper.from_array(array, name) for array, name in zip(weights, "WR")],
    ... )
    >>> from_onnx(onnx.helper.make_model(graph))
    {'encoder': LSTM(3, 5, bias=False)}
    """
    model = loaded(path_or_model)
    opset, everything, known = opset_of(model), list(walk(model.graph)), shapes(model.graph)
    nodes = [found_in(proto, sources, opset, known) for proto, sources in everything if is_recurrent(proto)]
    if not nodes:
        others = ", ".join(sorted({operator(proto) for proto, _ in everything})) or "no operators"
        raise ValueError(f"path_or_model: needs an RNN, GRU or LSTM node, got {others}")
    counted = uses(model.graph)
    stacks: list[list[Found]] = []
    for found in nodes:
        for stack in stacks:
            if follows(found, stack, counted) and rearranged(found, stack[-1], known, opset):
                stack.append(found)
                break
        else:
            stacks.append([found])
    layers: dict[str, RNN | LSTM | GRU] = {}
    for stack in stacks:
        layers[unused(stack[0].name, layers)] = layer_of(stack)
    return layers


def loaded(path_or_model: Any) -> onnx.ModelProto:
    """The model, its functions inlined and its shapes inferred."""
    if isinstance(path_or_model, onnx.ModelProto):
        model = path_or_model
    elif isinstance(path_or_model, (str, os.PathLike)):
        try:
            model = onnx.load(os.fspath(path_or_model))
        except OSError:
            raise
        except Exception as problem:  # each format of ONNX's has its own
            raise ValueError(f"path_or_model: needs an ONNX model, got {path_or_model} ({problem})") from problem
    else:
        raise TypeError(f"path_or_model: needs a path or an onnx.ModelProto, got {_check.text(path_or_model)}")
    return inferred(inlined(model) if model.functions else model)


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes of its values, as far as onnx finds them."""
    try:
        return onnx.shape_inference.infer_shapes(model) if model.ByteSize() < MOST_BYTES else model
    except Exception:  # for a node that has nothing to do with ours, perhaps; shapes only help to find more
        return model


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own; those of another opset are converted on the way."""
    try:
        model = onnx.inliner.inline_local_functions(model)
    except Exception as problem:  # each of onnx's parts has its own
        raise ValueError(f"path_or_model: needs functions that can be opened, got {problem}") from problem
    if not model.functions:
        return model
    try:
        typed = inferred(model)
        for tensor in model.graph.initializer:  # which have no types until they are values
            typed.graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        return onnx.inliner.inline_local_functions(typed, convert_version=True)
    except Exception as problem:
        graphs = {function.name: onnx.helper.make_graph(function.node, "", [], []) for function in model.functions}
        names = [f"{name}" for name, graph in graphs.items() if any(is_recurrent(proto) for proto, _ in walk(graph))]
        if names:
            wanted = f"functions of the model's own opset, {opset_of(model)}, or such as onnx can convert to it"
            raise ValueError(f"path_or_model: needs {wanted}, got {', '.join(names)} ({problem})") from problem
        return model


def found_in(proto: onnx.NodeProto, sources: Sources, opset: int, known: Mapping[str, tuple[int, ...]]) -> Found:
    """A recurrent node with its weights, if a layer can have them."""
    node = read(proto, opset)
    arrays = {}
    for formal in WEIGHTS:
        if formal in node.inputs:
            name = node.inputs[formal]
            try:
                arrays[formal] = evaluate(name, sources, opset, {}, known)
            except ValueError as problem:
                raise ValueError(f"{node.where}, {formal}: {problem}") from problem
            if arrays[formal] is None:
                raise ValueError(f"{node.where}: needs {formal} to be a constant, got {name!r}, which is computed")
    parts = directions(node, **arrays)
    refuse(node, parts)
    call = parts[0].call
    options: dict[str, Any] = {
        "hidden_size": call.H,
        "bias": call.b_ih is not None,
        "batch_first": node.batch_first,
        "bidirectional": len(parts) == 2,
        "dtype": call.dtype,
    }
    if node.cell == "rnn":
        options["nonlinearity"] = call.variant
    elif node.cell == "gru":
        options["reset_after"] = node.reset_after
    return Found(proto.name or proto.op_type, node, sources, parts, options)


def refuse(node: Node, parts: list[Direction]) -> None:
    """Say what of a node no layer of fastrnn has."""
    names = [[activation.name for activation in part.activations] for part in parts]
    reasons = {
        "the reverse direction alone": node.reverse == (True,),
        f"clip={node.clip}": node.clip is not None,
        "peepholes": "P" in node.inputs,
        "input_forget=1": node.coupled,
        f"activations {names}": not all(part.usual for part in parts) or names[0] != names[-1],
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"{node.where}: needs what a layer of fastrnn has, got {', '.join(found)}")


# -- stacks ----------------------------------------------------------------------------------------------------------


def follows(after: Found, stack: list[Found], counted: Counter[str]) -> bool:
    """Whether a node reads what the last of a stack put out, moved about at most, and nobody else does.

    Nor may its initial state come from the stack, whose final state is not known before it has run.
    """
    before = stack[-1]
    I, H, D = after.parts[0].call.I, before.parts[0].call.H, len(before.parts)
    if after.sources is not before.sources or not after.like(before) or I != D * H:
        return False
    path, end = [after.node.inputs["X"]], before.node.outputs.get("Y")
    while path[-1] != end:
        source = after.sources.get(path[-1])
        if not isinstance(source, onnx.NodeProto) or source.op_type not in MOVES or source.domain not in DOMAINS:
            return False
        if not source.input or source.input[0] in path:
            return False
        path.append(source.input[0])
    if any(counted[name] != 1 for name in path):
        return False
    states = [name for formal, name in after.node.inputs.items() if formal.startswith("initial")]
    ends = [name for found in stack for name in found.node.outputs.values()]
    return not depends(states, ends, after.sources)


def rearranged(after: Found, before: Found, known: Mapping[str, tuple[int, ...]], opset: int) -> bool:
    """Whether X of a node is Y of another as the next layer of a stack reads it: tried with numbers.

    If the sizes of T and B are known, with these; else with several, so that a rearrangement right for one only shows.
    """
    y_name, batch_first = before.node.outputs["Y"], before.node.batch_first
    D, H = len(before.parts), before.parts[0].call.H
    stated = known.get(y_name, ())
    fixed = (stated[0], stated[1 if batch_first else 2]) if len(stated) == 4 else (0, 0)
    for first, second in {(fixed[0] or T, fixed[1] or B) for T, B in SIZES}:
        if first * second * D * H > MOST_TRIED:
            return False
        y: np.ndarray = np.arange(first * second * D * H, dtype=np.int32)
        y = y.reshape((first, second, D, H) if batch_first else (first, D, second, H))
        wanted = (y if batch_first else y.swapaxes(1, 2)).reshape(first, second, D * H)
        x = evaluate(after.node.inputs["X"], after.sources, opset, {y_name: y}, {})
        if x is None or not np.array_equal(x, wanted):
            return False
    return True


def layer_of(stack: list[Found]) -> RNN | LSTM | GRU:
    """One layer with the weights of all nodes of a stack."""
    first = stack[0]
    layer = KINDS[first.node.cell](first.parts[0].call.I, num_layers=len(stack), **first.options)
    state_dict = {}
    for l, found in enumerate(stack):
        for part, end in zip(found.parts, ("", "_reverse"), strict=False):
            for name, field in PARAMETERS.items():
                if (array := getattr(part.call, field)) is not None:
                    state_dict[f"{name}_l{l}{end}"] = array
    layer.load_state_dict(state_dict)
    return layer


def unused(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number if it is taken."""
    candidate, k = name, 1
    while candidate in taken:
        candidate, k = f"{name}_{k}", k + 1
    return candidate
