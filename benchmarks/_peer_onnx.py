# SPDX-License-Identifier: MIT
"""ONNX Runtime and OpenVINO on the same ONNX model; inputs, outputs and a stream's two states bound once.

The state of a stream goes to and fro between two buffers: even calls read the one and write the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from _peer_task import Run, Task
from onnx import ValueInfoProto, helper, numpy_helper

ORDER = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}  # of the gates in ONNX
OPSET, IR_VERSION = 14, 9

Arrays = dict[str, np.ndarray]


def reordered(task: Task) -> Arrays:
    """W, R and B as ONNX has them."""
    w_ih, w_hh, b_ih, b_hh = (
        np.concatenate([np.split(array, len(ORDER[task.cell]))[gate] for gate in ORDER[task.cell]])[None]
        for array in task.weights
    )
    return {"W": w_ih, "R": w_hh, "B": np.concatenate([b_ih, b_hh], axis=1)}


def inputs(task: Task) -> Arrays:
    """What a call reads, by name, the states last."""
    lengths = {} if task.lengths is None else {"sequence_lens": task.lengths.astype(np.int32)}
    return {"X": task.x, **lengths, **{f"initial_{name}": part for name, part in zip("hc", task.state, strict=False)}}


def outputs(task: Task) -> Arrays:
    """Room for what a call writes, the states last."""
    T, B, H = task.grad_out.shape
    states = {f"Y_{name}": part.copy() for name, part in zip("hc", task.state, strict=False)}
    return {"Y": np.zeros((T, 1, B, H), task.x.dtype), **states}


def described_as(name: str, array: np.ndarray) -> ValueInfoProto:
    """An input or output like this array."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def model(task: Task) -> bytes:
    """A graph of one node."""
    read, written = inputs(task), outputs(task)
    names = ["X", "W", "R", "B", "" if task.lengths is None else "sequence_lens", *list(read)[-len(task.state) :]]
    options = {"linear_before_reset": 1} if task.cell == "gru" else {}
    node = helper.make_node(task.cell.upper(), names, list(written), hidden_size=task.sizes[1], **options)
    described = [[described_as(name, array) for name, array in ends.items()] for ends in (read, written)]
    weights = [numpy_helper.from_array(array, name) for name, array in reordered(task).items()]
    graph = helper.make_graph([node], "layer", *described, weights)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def onnxruntime(task: Task) -> Run:
    """ONNX Runtime; its values share the arrays' memory."""
    import onnxruntime as ort

    task.refuse("training", "float64")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = task.threads, 1
    session = ort.InferenceSession(model(task), options, providers=["CPUExecutionProvider"])

    def bound(read: Arrays, written: Arrays) -> Run:
        binding = session.io_binding()
        for name, array in read.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in written.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return Bound(partial(session.run_with_iobinding, binding), read, tuple(written.values()))

    return to_and_fro(task, bound)


def openvino(task: Task) -> Run:
    """OpenVINO, in float32 even where the processor has less to offer faster."""
    import openvino as ov

    task.refuse("training", "float64")
    settings = {"INFERENCE_NUM_THREADS": task.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model(task)), "CPU", settings)

    def bound(read: Arrays, written: Arrays) -> Run:
        request = compiled.create_infer_request()
        for name, array in (read | written).items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        return Bound(partial(request.infer, share_outputs=True), read, tuple(written.values()))

    return to_and_fro(task, bound)


@dataclass(slots=True)
class Bound:
    """A call, and the arrays in whose memory it reads and writes: they live as long as it does."""

    call: Callable[[], object]
    read: Arrays
    written: tuple[np.ndarray, ...]

    def __call__(self) -> tuple[np.ndarray, ...]:
        self.call()
        return self.written


def to_and_fro(task: Task, bound: Callable[[Arrays, Arrays], Run]) -> Run:
    """A call, or for a stream two in turns, the second from the first one's state to where that began."""
    read, written = inputs(task), outputs(task)
    if task.mode != "step":
        return bound(read, written)
    begun = {f"initial_{name}": written[f"Y_{name}"] for name in "hc"[: len(task.state)]}
    ended = {f"Y_{name}": read[f"initial_{name}"] for name in "hc"[: len(task.state)]}
    turns = cycle((bound(read, written), bound(read | begun, written | ended)))
    return lambda: next(turns)()[0]
