# SPDX-License-Identifier: MIT
"""The ONNX backend: models whose nodes are RNN, GRU and LSTM, on fastrnn.

T time steps, B batch, I input size, H hidden size, D directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from .. import _check
from .._records import GATES, Ragged
from .cells import run
from .graphs import array_of, constants_of
from .nodes import MOST_OPSET, WEIGHTS, Node, directions, floats, is_recurrent, operator, opset_of, read


class Ready:
    """A node made ready: its weights packed once, if they are constants."""

    def __init__(self, node: Node, constants: Mapping[str, np.ndarray]) -> None:
        self.node = node
        self._weights = {formal: name for formal, name in node.inputs.items() if formal in WEIGHTS}
        self._directions = None
        if all(name in constants for name in self._weights.values()):
            self._directions = directions(node, **{formal: constants[name] for formal, name in self._weights.items()})
            for direction in self._directions:
                direction.pack()

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The node's outputs by the model's names; new arrays of the dtype of X."""
        node = self.node
        given = {formal: values[name] for formal, name in node.inputs.items()}
        parts = self._directions
        if parts is None:
            parts = directions(node, **{formal: given[formal] for formal in self._weights})
        dtype = parts[0].dtype
        x = sequences(node, given["X"], parts[0].call.I, dtype)
        (T, B, _), D, H = x.shape, len(parts), parts[0].call.H
        _check.sizes(T, B, D * GATES[node.cell] * H, x.itemsize)
        ragged = lengths(node, given.get("sequence_lens"), T, B)
        h0, c0 = (states(node, name, given.get(name), (D, B, H), dtype) for name in ("initial_h", "initial_c"))
        Y = np.empty((B, T, D, H) if node.batch_first else (T, D, B, H), x.dtype)
        ends = []
        for d, part in enumerate(parts):
            out = Y[:, :, d].swapaxes(0, 1) if node.batch_first else Y[:, d]
            ends.append(run(part, x, ragged, h0[d], c0[d], out))
        h, c = zip(*ends, strict=True)
        results = {"Y": Y, "Y_h": joined(node, h)} | ({"Y_c": joined(node, c)} if node.cell == "lstm" else {})
        return {name: results[formal].astype(dtype, copy=False) for formal, name in node.outputs.items()}


def joined(node: Node, states: Sequence[np.ndarray]) -> np.ndarray:
    """The states (B, H) of the directions: (D, B, H), or (B, D, H)."""
    if len(states) == 1:
        return states[0][:, None] if node.batch_first else states[0][None]
    return np.stack(states, 1 if node.batch_first else 0)


def sequences(node: Node, value: Any, I: int, like: np.dtype) -> np.ndarray:
    """X, time-major and in rows that the kernels can read."""
    name = f"{node.where}, X"
    array = floats(name, value, like)
    if array.ndim != 3 or array.shape[2] != I:
        axes = "(B, T, I)" if node.batch_first else "(T, B, I)"
        raise ValueError(f"{name}: needs shape {axes} with I = {I}, got {array.shape}")
    return _check.rows(array.swapaxes(0, 1) if node.batch_first else array)


def lengths(node: Node, value: Any, T: int, B: int) -> Ragged | None:
    """How the rows run out, by sequence_lens."""
    try:
        return _check.lengths(value, T, B)
    except (TypeError, ValueError) as problem:  # in our words, about "lengths"
        raise type(problem)(f"{node.where}, sequence_lens{str(problem).removeprefix('lengths')}") from None


def states(node: Node, formal: str, value: Any, shape: tuple[int, int, int], like: np.dtype) -> list[np.ndarray | None]:
    """Of each direction, its initial state (B, H), or None."""
    D, B, H = shape
    if value is None:
        return [None] * D
    name = f"{node.where}, {formal}"
    array = floats(name, value, like)
    if node.batch_first:
        return list(_check.shaped(name, array, "(B, D, H)", (B, D, H)).swapaxes(0, 1).copy())
    return list(_check.shaped(name, array, "(D, B, H)", shape))


class Prepared(BackendRep):
    """A model, or a single node, ready to run any number of times, in any number of threads.

    Made by ``fastrnn.onnx.prepare``.
    """

    def __init__(
        self, nodes: Iterable[Node], constants: dict[str, np.ndarray], inputs: Iterable[str], outputs: Iterable[str]
    ) -> None:
        self._nodes = [Ready(node, constants) for node in nodes]
        self._constants, self._inputs, self._outputs = constants, list(inputs), list(outputs)
        self._named = namedtupledict("Outputs", self._outputs)
        made = {name for ready in self._nodes for name in ready.node.outputs.values()}
        for name in self._outputs:
            if name not in made:
                raise ValueError(f"model: needs outputs of its RNN, GRU and LSTM nodes, got {name!r}")

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence of array_like
            In the order of the model's inputs, without those that have an initializer. float16 and bfloat16 are
            computed in float32.
        **kwargs
            None is known.

        Returns
        -------
        tuple of ndarray
            New arrays, in the order of the model's outputs, whose names index them too.

        Raises
        ------
        TypeError, ValueError
            For inputs of the wrong number, dtype, shape or value, before the node that they belong to runs.
        """
        no_options("run", kwargs)
        if not isinstance(inputs, (list, tuple)):
            raise TypeError(f"inputs: needs a list of arrays, got {_check.text(inputs)}")
        if len(inputs) != len(self._inputs):
            raise ValueError(f"inputs: needs {len(self._inputs)} arrays, {self._inputs}, got {len(inputs)}")
        values = {**self._constants, **dict(zip(self._inputs, inputs, strict=True))}
        for ready in self._nodes:
            values |= ready(values)
        return self._named(*(values[name] for name in self._outputs))


def no_options(name: str, kwargs: dict[str, Any]) -> None:
    """Refuse what other backends may know."""
    if kwargs:
        raise TypeError(f"{name}: needs no {', '.join(map(repr, kwargs))}, an option that fastrnn does not have")


class FastrnnBackend(Backend):
    """ONNX's interface to fastrnn, for models whose nodes are RNN, GRU and LSTM: see ``onnx.backend.base.Backend``.

    Its methods are functions of ``fastrnn.onnx`` too.
    """

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether fastrnn runs on a device: on "CPU" it does."""
        return isinstance(device, str) and device.partition(":")[0] == "CPU"

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether ``prepare`` takes a model."""
        try:
            cls.prepare(model, device, **kwargs)
        except Exception:  # of any kind, as onnx's checker raises them
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Make a model ready to run: check it, read its constants, pack its weights.

        Parameters
        ----------
        model : onnx.ModelProto
            Of RNN, GRU and LSTM nodes, versions 7, 14 and 22, with any of their inputs, attributes and outputs.
        device : str
            "CPU".
        **kwargs
            None is known.

        Returns
        -------
        Prepared
            To ``run``.

        Raises
        ------
        TypeError, ValueError
            For a model with other operators, which are named, or with what fastrnn cannot run.
        onnx.checker.ValidationError
            For a model that is none.
        """
        no_options("prepare", kwargs)
        if not isinstance(model, onnx.ModelProto):
            raise TypeError(f"model: needs an onnx.ModelProto, got {_check.text(model)}")
        cls._needs_cpu(device)
        others = sorted({operator(proto) for proto in model.graph.node if not is_recurrent(proto)})
        if others or not model.graph.node:
            raise ValueError(
                f"model: needs RNN, GRU and LSTM nodes and no others, got {', '.join(others) or 'no nodes'}; "
                "fastrnn.onnx.from_onnx takes the layers out of such a model"
            )
        try:
            super().prepare(model, device)
        except (UnicodeDecodeError, onnx.checker.ValidationError) as problem:
            found = str(problem)
            if found and isinstance(problem, onnx.checker.ValidationError):
                raise
            # The checker's message quotes such a name: it cannot be decoded, or, now and then, is not there.
            raise ValueError(f"model: needs names in UTF-8, got {found or 'others'}") from problem
        graph, opset = model.graph, opset_of(model)
        constants = {name: array_of(constant) for name, constant in constants_of(graph)}
        inputs = [value.name for value in graph.input if value.name not in constants]
        nodes = [read(proto, opset) for proto in graph.node]
        return Prepared(nodes, constants, inputs, [value.name for value in graph.output])

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Sequence[Any], device: str = "CPU", **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """``prepare(model, device).run(inputs)``."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """Run a single node.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence of array_like
            One for each input that has a name.
        device : str
            "CPU".
        outputs_info : sequence of (dtype, shape), optional
            Not needed.
        **kwargs
            ``opset_version``, the newest that onnx knows by default.

        Returns
        -------
        tuple of ndarray
            One for each output that has a name, new.

        Raises
        ------
        TypeError, ValueError, onnx.checker.ValidationError
            As from ``prepare`` and ``Prepared.run``.
        """
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        opset = _check.integer("opset_version", opset, 1, MOST_OPSET)
        no_options("run_node", kwargs)
        cls._needs_cpu(device)
        if not isinstance(node, onnx.NodeProto):
            raise TypeError(f"node: needs an onnx.NodeProto, got {_check.text(node)}")
        if not is_recurrent(node):
            raise ValueError(f"node: needs an RNN, GRU or LSTM node, got {operator(node)}")
        super().run_node(node, inputs, device, outputs_info, opset_version=opset)
        names = [name for name in node.input if name]
        return Prepared([read(node, opset)], {}, names, [name for name in node.output if name]).run(inputs)

    @classmethod
    def _needs_cpu(cls, device: str) -> None:
        if not cls.supports_device(device):
            kind = ValueError if isinstance(device, str) else TypeError
            raise kind(f"device: needs 'CPU', got {_check.text(device)}")
