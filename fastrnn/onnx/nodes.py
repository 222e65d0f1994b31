# SPDX-License-Identifier: MIT
"""An RNN, GRU or LSTM node of ONNX: what its attributes say, and its weights, one direction after the other.

Everything is put into fastrnn's order of gates here, once. ONNX has i o f c and z r h where fastrnn has i f g o and
r z n, and peepholes i o f where `Call` has i f o.

T time steps, B batch, I input size, H hidden size, G gates, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .. import _check, config
from .._records import GATES, Call
from .activations import Activation, parsed

CELLS = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
VERSIONS = (7, 14, 22)  # of the three operators: the opsets that define them
DOMAINS = ("", "ai.onnx")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
WEIGHTS = ("W", "R", "B", "P")
REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 3, 1)}  # where ONNX has our gates
PEEPHOLE_ORDER = (0, 2, 1)
DEFAULTS = {"rnn": ("Tanh",), "gru": ("Sigmoid", "Tanh"), "lstm": ("Sigmoid", "Tanh", "Tanh")}
USUAL = {  # the activations that the kernels know, by the variants of `Call`
    "tanh": ("Tanh",),
    "relu": ("Relu",),
    "reset_after": DEFAULTS["gru"],
    "reset_before": DEFAULTS["gru"],
    "": DEFAULTS["lstm"],
}
HALVES = ("float16", "bfloat16")
MOST_OPSET = 2**31 - 1  # that onnx can be asked for


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says, but for its weights."""

    where: str  # it stands, for messages
    cell: str  # "rnn", "lstm" or "gru"
    inputs: dict[str, str]  # ONNX's name of an input -> the model's name of the value; only those given
    outputs: dict[str, str]
    reverse: tuple[bool, ...]  # of each direction
    activations: tuple[tuple[Activation, ...], ...]  # of each direction: f, then g and h if the cell has them
    hidden_size: int | None
    batch_first: bool
    clip: float | None
    coupled: bool  # f = 1 - i
    reset_after: bool


@dataclass(slots=True)
class Direction:
    """One direction of a node with its weights, ready to run."""

    call: Call  # the weights, without x, lengths and states
    activations: tuple[Activation, ...]
    usual: bool  # the kernels know these
    coupled: bool
    dtype: np.dtype  # of the weights as they were given, which those of half the width are no more
    backend: Any  # the module that computes, and what it packed
    packed: Any = None

    def pack(self) -> None:
        """Pack the weights for many calls, if it is the kernels that run it."""
        if self.usual:
            self.packed = self.backend.pack(self.call)


def is_recurrent(proto: onnx.NodeProto) -> bool:
    """Whether a node is one of the three operators."""
    return proto.op_type in CELLS and proto.domain in DOMAINS


def operator(proto: onnx.NodeProto) -> str:
    """What a node does, for messages."""
    return f"{proto.op_type}" if proto.domain in DOMAINS else f"{proto.domain}.{proto.op_type}"  # bytes if no UTF-8


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's operators that a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in DOMAINS), 1)


# -- attributes ------------------------------------------------------------------------------------------------------


def read(proto: onnx.NodeProto, opset: int) -> Node:
    """What a node's attributes say.

    Raises
    ------
    TypeError, ValueError
        Naming the node and the attribute that has a wrong value, or that nobody knows.
    """
    where, cell = f"{proto.op_type} node {proto.name!r}", CELLS[proto.op_type]
    schema = onnx.defs.get_schema(proto.op_type, opset) if min(VERSIONS) <= opset <= MOST_OPSET else None
    if schema is None or schema.since_version not in VERSIONS:
        raise ValueError(f"{where}: needs version {', '.join(map(str, VERSIONS))} of its operator, got opset {opset}")
    inputs = {formal: name for formal, name in zip(INPUTS, proto.input, strict=False) if name}
    if not {"X", "W", "R"} <= set(inputs):
        raise ValueError(f"{where}: needs inputs X, W and R, got {', '.join(inputs) or 'none'}")
    for what, names, most in (("inputs", proto.input, schema.max_input), ("outputs", proto.output, schema.max_output)):
        if len(names) > most:
            raise ValueError(f"{where}: needs at most {most} {what}, got {len(names)}")
    given = stated(where, proto, schema)

    def flag(name: str) -> bool:
        return bool(_check.integer(f"{where}, {name}", given.pop(name, 0), 0, 1))

    size, clip = given.pop("hidden_size", None), given.pop("clip", None)
    reverse = REVERSE[_check.choice(f"{where}, direction", given.pop("direction", "forward"), tuple(REVERSE))]
    return Node(
        where=where,
        cell=cell,
        inputs=inputs,
        outputs={formal: name for formal, name in zip(OUTPUTS, proto.output, strict=False) if name},
        reverse=reverse,
        activations=activations(where, cell, len(reverse), given),
        hidden_size=None if size is None else _check.integer(f"{where}, hidden_size", size, 1),
        batch_first=flag("layout"),
        clip=None if clip is None else _check.real(f"{where}, clip", clip, 0, open_low=True),
        coupled=cell == "lstm" and flag("input_forget"),
        reset_after=cell == "gru" and bool(given.pop("linear_before_reset", 0)),  # not 0, says ONNX
    )


def stated(where: str, proto: onnx.NodeProto, schema: onnx.defs.OpSchema) -> dict[str, Any]:
    """A node's attributes, if each is one that the schema has, of its type, and there once."""
    given: dict[str, Any] = {}
    for attribute in proto.attribute:
        name = attribute.name
        if name not in schema.attributes:
            raise ValueError(
                f"{where}: needs no attribute {name!r}, which is not ONNX's in opset {schema.since_version}"
            )
        if name in given:
            raise ValueError(f"{where}, {name}: needs to be there once, got it twice")
        wanted, found = (
            onnx.AttributeProto.AttributeType.Name(int(kind))
            for kind in (schema.attributes[name].type.value, attribute.type)
        )
        if wanted != found:
            raise TypeError(f"{where}, {name}: needs {wanted}, got {found}")
        try:
            given[name] = decoded(onnx.helper.get_attribute_value(attribute))
        except ValueError as problem:  # bytes that are no text, or a reference outside of a function
            raise ValueError(f"{where}, {name}: needs a value that can be read, got {problem}") from problem
    return given


def decoded(value: Any) -> Any:
    """An attribute's value, with str for bytes."""
    if isinstance(value, bytes):
        return value.decode()
    return [decoded(item) for item in value] if isinstance(value, list) else value


def activations(where: str, cell: str, D: int, given: dict[str, Any]) -> tuple[tuple[Activation, ...], ...]:
    """The activations of each direction, taken out of the attributes."""
    n = len(DEFAULTS[cell])
    names = given.pop("activations", DEFAULTS[cell] * D)
    if cell == "rnn" and D == 1 and names == ["Tanh", "Tanh"]:  # the schema's default, written out
        names = ["Tanh"]
    if len(names) != n * D:
        raise ValueError(f"{where}, activations: needs {n} for each of {D} directions, got {_check.text(names)}")
    found = parsed(where, names, given.pop("activation_alpha", ()), given.pop("activation_beta", ()))
    return tuple(tuple(found[d * n : (d + 1) * n]) for d in range(D))


# -- weights ---------------------------------------------------------------------------------------------------------


def is_half(dtype: np.dtype) -> bool:
    """Whether it is one of the floats of 16 bits; to ask for a name alone takes microseconds."""
    return dtype.itemsize == 2 and dtype.name in HALVES


def floats(name: str, value: Any, like: np.dtype | None = None) -> np.ndarray:
    """An array of float32 or float64; one of half that width is widened. ``like``: what it has to be before."""
    array = _check.plain(name, value, "an array of floats")
    wide = _check.floats(name, array.astype(np.float32) if is_half(array.dtype) else array)
    if like is not None and array.dtype != like and array.dtype.newbyteorder("=") != like:
        raise TypeError(f"{name}: needs dtype {like} like W, got {array.dtype}")
    return wide


def regrouped(array: np.ndarray, order: Sequence[int], coupled: bool) -> np.ndarray:
    """Blocks of rows in another order, in a new array; coupled: the second is the first with the other sign."""
    blocks = np.split(array, len(order))
    chosen = [blocks[k] for k in order]
    if coupled:
        chosen[1] = -chosen[0]
    return np.concatenate(chosen)


def directions(node: Node, W: Any, R: Any, B: Any = None, P: Any = None) -> list[Direction]:
    """The directions of a node with these weights.

    Parameters
    ----------
    W : array_like, shape (D, G*H, I)
    R : array_like, shape (D, G*H, H)
    B : array_like, shape (D, 2*G*H), or None
    P : array_like, shape (D, 3*H), or None
        All of one dtype, in ONNX's order.

    Returns
    -------
    list of Direction
        With new arrays, in fastrnn's order.

    Raises
    ------
    TypeError, ValueError
        Naming the node and the array of the wrong dtype or shape.
    """
    D, G = len(node.reverse), GATES[node.cell]
    W_, R_, B_, P_ = (f"{node.where}, {name}" for name in WEIGHTS)
    W = _check.plain(W_, W, "an array of floats")
    dtype = W.dtype.newbyteorder("=")
    W, R = floats(W_, W), floats(R_, R, dtype)
    if W.ndim != 3 or R.ndim != 3 or min(W.shape + R.shape) < 1:
        raise ValueError(f"{W_} and R: need shapes (D, {G}*H, I) and (D, {G}*H, H), got {W.shape} and {R.shape}")
    I, H = W.shape[2], node.hidden_size or R.shape[2]
    W = _check.shaped(W_, W, f"(D, {G}*H, I)", (D, G * H, I))
    R = _check.shaped(R_, R, f"(D, {G}*H, H)", (D, G * H, H))
    if B is not None:
        B = _check.shaped(B_, floats(B_, B, dtype), f"(D, {2 * G}*H)", (D, 2 * G * H))
    if P is not None:
        P = _check.shaped(P_, floats(P_, P, dtype), "(D, 3*H)", (D, 3 * H))
    rest = [[None] * D if array is None else array for array in (B, P)]
    return [direction(node, d, dtype, *arrays) for d, arrays in enumerate(zip(W, R, *rest, strict=True))]


def direction(
    node: Node, d: int, dtype: np.dtype, W: np.ndarray, R: np.ndarray, B: np.ndarray | None, P: np.ndarray | None
) -> Direction:
    """Direction d of a node, from its own weights in ONNX's order."""
    H, I = R.shape[1], W.shape[1]
    chosen = node.activations[d]
    names = tuple(activation.name for activation in chosen)
    variant = variant_of(node, names)
    negated = node.coupled and names[0] == "Sigmoid"  # f = 1 - i = 1 - sigmoid(z_i) = sigmoid(-z_i): a plain cell
    order, x = ORDER[node.cell], np.empty((0, 0, I), W.dtype)
    w_ih, w_hh = regrouped(W, order, negated), regrouped(R, order, negated)
    b_ih, b_hh = (None, None) if B is None else (regrouped(half, order, negated) for half in np.split(B, 2))
    call = Call(node.cell, variant, 0, 0, I, H, H, x, w_ih, w_hh, b_ih, b_hh, None, None, None, None, node.reverse[d])
    call.clip = node.clip
    call.peephole = None if P is None else regrouped(P, PEEPHOLE_ORDER, negated).reshape(3, H)
    return Direction(
        call,
        activations=chosen,
        usual=names == USUAL[variant],
        coupled=node.coupled and not negated,
        dtype=dtype,
        backend=config.backend(),
    )


def variant_of(node: Node, names: tuple[str, ...]) -> str:
    """Which of the cell's forms a direction with these activations is, in the words of `Call`."""
    if node.cell == "rnn":
        return "relu" if names == ("Relu",) else "tanh"
    if node.cell == "gru":
        return "reset_after" if node.reset_after else "reset_before"
    return ""
