# SPDX-License-Identifier: MIT
"""The ONNX backend: ONNX's own tests, the text of the standard as scalar loops, and what is refused.

T time steps, B batch, I input size, H hidden size, D directions.
"""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.test import BackendTest
from onnx_models import (
    BAD_CONSTANTS,
    GATES,
    OUTPUTS,
    REVERSE,
    batch_first,
    model_of,
    says,
    sigmoid,
    sparse,
    typed,
    values,
)

import fastrnn
import fastrnn.onnx as backend
from fastrnn import config, native
from fastrnn.onnx import activations, cells

LENGTHS = [3, 5, 0, 1]
OPS = tuple(GATES)
OURS = re.compile(r"test_(simple_)?(rnn|gru|lstm)_\w+_cpu")

each_op = pytest.mark.parametrize("op", OPS)
each_direction = pytest.mark.parametrize("direction", REVERSE)
each_layout = pytest.mark.parametrize("layout", [0, 1])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


def close(actual, expected, dtype=np.float64):
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def run(op, fed, attributes=None, opset=22):
    """All outputs of a node, for values with layout 0, whatever its own layout."""
    layout = (attributes or {}).get("layout", 0)
    fed = batch_first(fed) if layout else fed
    outputs = backend.run_model(model_of(op, fed, attributes, opset=opset), list(fed.values()))
    if not layout:
        return outputs
    Y, *states = outputs
    return [Y.transpose(1, 2, 0, 3), *(state.swapaxes(0, 1) for state in states)]


# -- ONNX's own tests ------------------------------------------------------------------------------------------------

with warnings.catch_warnings():  # of the cases of other operators, which ONNX computes as it collects them
    warnings.simplefilter("ignore")
    NODE_TESTS = BackendTest(backend, __name__).test_cases["OnnxBackendNodeModelTest"]
STANDARD = {name: getattr(NODE_TESTS, name) for name in dir(NODE_TESTS) if OURS.fullmatch(name)}
del NODE_TESTS

TestOnnxBackendNode = type("TestOnnxBackendNode", (unittest.TestCase,), STANDARD)


@each_op
def test_onnx_has_tests_of_the_operator(op):
    assert sum(op.lower() in name for name in STANDARD) >= 6


# -- the standard ----------------------------------------------------------------------------------------------------


@each_op
@each_direction
@each_layout
@each_dtype
@each_lengths
def test_a_node_does_what_the_standard_says(op, direction, layout, dtype, lengths):
    fed = values(op, D=len(REVERSE[direction]), dtype=dtype, lengths=lengths)
    close(run(op, fed, {"direction": direction, "layout": layout}), says(op, fed, direction), dtype)


@each_op
@each_direction
@each_lengths
def test_clip_bounds_what_goes_into_activations(op, direction, lengths):
    fed = values(op, D=len(REVERSE[direction]), dtype=np.float64, lengths=lengths, scale=2)
    expected = says(op, fed, direction, clip=0.5)
    close(run(op, fed, {"direction": direction, "clip": 0.5}), expected)
    assert not np.allclose(expected[0], says(op, fed, direction)[0])


@each_direction
@each_dtype
@each_lengths
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("input_forget", [0, 1])
@pytest.mark.parametrize("peepholes", [False, True])
def test_peepholes_and_coupled_gates(direction, dtype, lengths, clip, input_forget, peepholes):
    fed = values("LSTM", D=len(REVERSE[direction]), dtype=dtype, lengths=lengths, peepholes=peepholes)
    attributes = {"direction": direction, "input_forget": input_forget} | ({} if clip is None else {"clip": clip})
    close(run("LSTM", fed, attributes), says("LSTM", fed, direction, None, clip, input_forget), dtype)


@each_direction
@each_dtype
@each_lengths
@pytest.mark.parametrize("clip", [None, 0.5])
def test_linear_before_reset(direction, dtype, lengths, clip):
    fed = values("GRU", D=len(REVERSE[direction]), dtype=dtype, lengths=lengths)
    attributes = {"direction": direction, "linear_before_reset": 1} | ({} if clip is None else {"clip": clip})
    close(run("GRU", fed, attributes), says("GRU", fed, direction, None, clip, 0, 1), dtype)


def relu(z):
    return np.maximum(z, 0)


ACTIVATIONS = {  # name -> alphas and betas given, and the function
    "Relu": ([], [], relu),
    "Tanh": ([], [], np.tanh),
    "Sigmoid": ([], [], sigmoid),
    "Affine": ([0.5], [0.25], lambda z: 0.5 * z + 0.25),
    "LeakyRelu": ([0.125], [], lambda z: z if z >= 0 else 0.125 * z),
    "LeakyRelu, as it comes": ([], [], lambda z: z if z >= 0 else 0.01 * z),
    "ThresholdedRelu": ([0.25], [], lambda z: z if z >= 0.25 else 0),
    "ThresholdedRelu, as it comes": ([], [], lambda z: z if z >= 1 else 0),
    "ScaledTanh": ([0.75], [0.5], lambda z: 0.75 * np.tanh(0.5 * z)),
    "HardSigmoid": ([0.25], [0.375], lambda z: min(max(0.25 * z + 0.375, 0), 1)),
    "HardSigmoid, as it comes": ([], [], lambda z: min(max(0.2 * z + 0.5, 0), 1)),
    "Elu": ([0.5], [], lambda z: z if z >= 0 else 0.5 * (np.exp(z) - 1)),
    "Elu, as it comes": ([], [], lambda z: z if z >= 0 else np.exp(z) - 1),
    "Softsign": ([], [], lambda z: z / (1 + abs(z))),
    "Softplus": ([], [], lambda z: np.log(1 + np.exp(z))),
}


def chosen(names):
    """Attributes and functions for these keys of ACTIVATIONS."""
    rows = [ACTIVATIONS[name] for name in names]
    attributes = {"activations": [name.partition(",")[0] for name in names]}
    for name, k in (("activation_alpha", 0), ("activation_beta", 1)):
        if given_values := [value for row in rows for value in row[k]]:
            attributes[name] = given_values
    return attributes, [np.vectorize(row[2], otypes=[np.float64]) for row in rows]


@each_op
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_in_each_place(op, name):
    usual = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[op]
    for k in range(len(usual)):
        names = [*usual[:k], name, *usual[k + 1 :], *usual]
        attributes, functions = chosen(names)
        fed = values(op, D=2, dtype=np.float64, lengths=LENGTHS, seed=k)
        close(run(op, fed, attributes | {"direction": "bidirectional"}), says(op, fed, "bidirectional", functions))


def test_alpha_and_beta_go_to_those_that_take_them():
    names = ["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "ScaledTanh", "Affine"]
    attributes, functions = chosen(names)
    assert attributes["activation_alpha"] == [0.25, 0.125, 0.75, 0.5]
    fed = values("LSTM", D=2, dtype=np.float64)
    close(run("LSTM", fed, attributes | {"direction": "bidirectional"}), says("LSTM", fed, "bidirectional", functions))


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_coupled_gates_of_another_activation(peepholes, clip):
    attributes, functions = chosen(["HardSigmoid", "Tanh", "Tanh"])
    attributes |= {"input_forget": 1} | ({} if clip is None else {"clip": clip})
    fed = values("LSTM", dtype=np.float64, lengths=LENGTHS, peepholes=peepholes)
    close(run("LSTM", fed, attributes), says("LSTM", fed, "forward", functions, clip, 1))


@each_op
@pytest.mark.parametrize("opset", [7, 8, 13, 14, 21, 22, onnx.defs.onnx_opset_version()])
def test_each_version_of_the_operators(op, opset):
    fed = values(op, lengths=LENGTHS)
    close(run(op, fed, opset=opset), says(op, fed), np.float32)


@each_op
@pytest.mark.parametrize("without", ["B", "initial_h", "initial_c", "B initial_h initial_c"])
def test_inputs_may_be_absent(op, without):
    fed = values(op, dtype=np.float64, without=without.split())
    close(run(op, fed), says(op, fed))


@each_op
@each_layout
def test_outputs_may_be_absent(op, layout):
    fed = values(op, D=2)
    fed = batch_first(fed) if layout else fed
    attributes = {"direction": "bidirectional", "layout": layout}
    whole = backend.run_model(model_of(op, fed, attributes), list(fed.values()))
    for k, name in enumerate(OUTPUTS[op]):
        outputs = ("",) * k + (name,)
        (alone,) = backend.run_model(model_of(op, fed, attributes, outputs), list(fed.values()))
        np.testing.assert_array_equal(alone, whole[k])


@each_op
def test_hidden_size_may_be_absent(op):
    fed = values(op)
    model = model_of(op, fed)
    del model.graph.node[0].attribute[:]
    close(backend.run_model(model, list(fed.values())), says(op, fed), np.float32)


@each_op
@each_layout
@each_direction
@pytest.mark.parametrize("sizes", [{"T": 1}, {"B": 1}, {"H": 1}, {"I": 1}, {"T": 0}, {"B": 0}], ids=str)
def test_sizes_of_one_and_none(op, layout, direction, sizes):
    fed = values(op, D=len(REVERSE[direction]), dtype=np.float64, **sizes)
    close(run(op, fed, {"direction": direction, "layout": layout}), says(op, fed, direction))
    if "B" not in sizes:
        fed["sequence_lens"] = np.full(4, 0, np.int32)
        close(run(op, fed, {"direction": direction, "layout": layout}), says(op, fed, direction))
        close(run(op, fed, {"direction": direction, "layout": layout, "clip": 1.0}), says(op, fed, direction))


@each_op
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_computed_in_float32(op, half):
    fed = {name: array.astype(half) for name, array in values(op).items()}
    outputs = run(op, fed)
    wide = run(op, {name: array.astype(np.float32) for name, array in fed.items()})
    for ours, theirs in zip(outputs, wide, strict=True):
        assert ours.dtype == half
        np.testing.assert_array_equal(ours, theirs.astype(half))


def test_the_default_of_the_schema_may_be_written_out():
    fed = values("RNN")
    close(run("RNN", fed, {"activations": ["Tanh", "Tanh"]}), says("RNN", fed), np.float32)


# -- as a backend ----------------------------------------------------------------------------------------------------

KERNELS = {
    "RNN": ({}, {"activations": ["Relu"]}),
    "GRU": ({}, {"linear_before_reset": 1}),
    "LSTM": ({}, {"input_forget": 1}, {"activations": ["Sigmoid", "Tanh", "Tanh"]}),
}


@each_op
@each_layout
@pytest.mark.parametrize("more", [{}, {"clip": 0.5}], ids=str)
@pytest.mark.parametrize("peepholes", [False, True])
def test_the_usual_ones_run_on_the_kernels(op, layout, more, peepholes, monkeypatch):
    monkeypatch.delattr(cells, "forward")
    fed = values(op, lengths=LENGTHS, peepholes=peepholes and op == "LSTM")
    for attributes in KERNELS[op]:
        assert len(run(op, fed, attributes | more | {"layout": layout})) == len(OUTPUTS[op])


@each_op
@each_direction
@each_dtype
def test_a_clipped_sequence_has_the_same_bits_alone_and_in_a_batch(op, direction, dtype, monkeypatch):
    monkeypatch.setattr(config, "_backend", native)  # NumPy promises no bits
    lengths = [9, 3, 0, 7, 9, 1]
    fed = values(op, 9, 6, 5, 33, len(REVERSE[direction]), dtype, lengths=lengths, peepholes=op == "LSTM")
    rows_at = {"X": 1, "initial_h": 1, "initial_c": 1, "sequence_lens": 0}
    attributes = {"direction": direction, "clip": 0.5}
    together = run(op, fed, attributes)
    for row in range(6):
        alone = {name: a.take([row], rows_at[name]) if name in rows_at else a for name, a in fed.items()}
        for ours, all_rows in zip(run(op, alone, attributes), together, strict=True):
            np.testing.assert_array_equal(ours, all_rows[..., [row], :])


def test_a_node_is_a_call_of_fastrnn():
    fed = values("LSTM", lengths=LENGTHS)
    i, o, f, c = (slice(6 * k, 6 * k + 6) for k in range(4))
    ours = np.r_[i, f, c, o]
    W, R, (b_ih, b_hh) = fed["W"][0], fed["R"][0], np.split(fed["B"][0], 2)
    state = fed["initial_h"][0], fed["initial_c"][0]
    out, ends = fastrnn.lstm(fed["X"], W[ours], R[ours], b_ih[ours], b_hh[ours], state, lengths=LENGTHS)
    for part, expected in zip(run("LSTM", fed), (out, *ends), strict=True):
        np.testing.assert_array_equal(part.squeeze(), expected)


@each_op
@each_layout
@pytest.mark.parametrize("clip", [None, 0.5])
def test_constants_are_read_once_and_give_the_same_bits(op, layout, clip):
    fed = values(op, D=2, lengths=LENGTHS)
    fed = batch_first(fed) if layout else fed
    attributes = {"direction": "bidirectional", "layout": layout} | ({} if clip is None else {"clip": clip})
    whole = backend.run_model(model_of(op, fed, attributes), list(fed.values()))
    for constants in ("WRB", ("W", "initial_h"), ("R", "sequence_lens")):
        model = model_of(op, fed, attributes, constants=constants)
        prepared = backend.prepare(model)
        del model
        inputs = [array for name, array in fed.items() if name not in constants]
        with ThreadPoolExecutor(4) as pool:
            for outputs in pool.map(prepared.run, [inputs] * 8):
                for part, expected in zip(outputs, whole, strict=True):
                    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("by_axis", [False, True])
def test_sparse_constants(by_axis):
    fed = values("RNN")
    model = model_of("RNN", fed, constants="W")
    del model.graph.initializer[:]
    model.graph.sparse_initializer.append(sparse(fed["W"], "W", by_axis))
    assert backend.is_compatible(model)
    inputs = [array for name, array in fed.items() if name != "W"]
    close(backend.run_model(model, inputs), says("RNN", fed), np.float32)


def test_outputs_have_names():
    fed = values("GRU")
    outputs = backend.run_model(model_of("GRU", fed, outputs=("", "last")), list(fed.values()))
    assert outputs["last"] is outputs[0] is outputs.last


def test_nodes_may_feed_each_other():
    """An encoder whose last state starts a decoder."""
    encoder, decoder = values("GRU", without=["initial_h"]), values("GRU", seed=1, without=["initial_h"])
    first, second = model_of("GRU", encoder).graph, model_of("GRU", decoder).graph
    node = second.node[0]
    node.input[:] = ["X2", "W2", "R2", "B2", "", "Y_h"]
    node.output[:] = ["out", "end"]
    inputs = [*first.input, *(typed(f"{value.name}2", None) for value in second.input)]
    for value, like in zip(inputs[4:], second.input, strict=True):
        value.type.CopyFrom(like.type)
    outputs = [typed("out", [None] * 4), typed("Y", [None] * 4)]
    graph = helper.make_graph([*first.node, node], "two", inputs, outputs)
    out, Y = backend.run_model(helper.make_model(graph), [*encoder.values(), *decoder.values()])
    expected_Y, last = says("GRU", encoder)
    close([out, Y], [says("GRU", decoder | {"initial_h": last})[0], expected_Y], np.float32)


@each_op
def test_run_node(op):
    fed = values(op, lengths=LENGTHS)
    node = model_of(op, fed, outputs=("", "Y_h")).graph.node[0]
    inputs = [fed[name] for name in node.input if name]
    (Y_h,) = backend.run_node(node, inputs)
    np.testing.assert_array_equal(Y_h, backend.run_node(node, inputs, opset_version=7)[0])
    close([Y_h], [says(op, fed)[1]], np.float32)


def test_the_cpu_is_the_only_device():
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA:1")
    fed = values("RNN")
    model = model_of("RNN", fed)
    assert backend.is_compatible(model) and backend.is_compatible(model, "CPU:0")
    assert not backend.is_compatible(model, "CUDA")
    for call in (backend.prepare, lambda *args: backend.run_model(model, [], args[1])):
        with pytest.raises(ValueError, match="device: needs 'CPU', got 'CUDA'"):
            call(model, "CUDA")
    with pytest.raises(ValueError, match="device: needs 'CPU', got 'TPU'"):
        backend.run_node(model.graph.node[0], list(fed.values()), "TPU")


@pytest.mark.parametrize("device", [None, 0, b"CPU"])
def test_what_is_no_device(device):
    fed = values("RNN")
    model = model_of("RNN", fed)
    assert not backend.supports_device(device) and not backend.is_compatible(model, device)
    for call in (backend.prepare, lambda model, device: backend.run_node(model.graph.node[0], [*fed.values()], device)):
        with pytest.raises(TypeError, match=f"^device: needs 'CPU', got {device!r}"):
            call(model, device)


@pytest.mark.parametrize(
    ("opset", "error", "message"),
    [
        ("22", TypeError, "an integer, got '22'"),
        (None, TypeError, "an integer, got None"),
        (22.0, TypeError, "an integer, got 22.0"),
        (-1, ValueError, r"an integer in 1..\d+, got -1"),
        (2**40, ValueError, rf"an integer in 1..\d+, got {2**40}"),
    ],
)
def test_what_is_no_opset(opset, error, message):
    fed = values("RNN")
    with pytest.raises(error, match=f"^opset_version: needs {message}"):
        backend.run_node(model_of("RNN", fed).graph.node[0], list(fed.values()), opset_version=opset)


# -- what is refused -------------------------------------------------------------------------------------------------

LSTM = "LSTM node 'cell'"
BAD_ATTRIBUTES = {
    "no clip": ({"clip": 0.0}, f"{LSTM}, clip: needs a finite number > 0, got 0"),
    "clip below 0": ({"clip": -1.0}, f"{LSTM}, clip: needs a finite number > 0, got -1"),
    "clip NaN": ({"clip": float("nan")}, f"{LSTM}, clip: needs a finite number > 0, got nan"),
    "direction": ({"direction": "up"}, f"{LSTM}, direction: needs one of 'forward', 'reverse', 'bidirectional', got"),
    "layout": ({"layout": 2}, f"{LSTM}, layout: needs an integer in 0..1, got 2"),
    "input_forget": ({"input_forget": 2}, f"{LSTM}, input_forget: needs an integer in 0..1, got 2"),
    "hidden_size 0": ({"hidden_size": 0}, f"{LSTM}, hidden_size: needs an integer >= 1, got 0"),
    "hidden_size": ({"hidden_size": 5}, rf"{LSTM}, W: needs shape \(D, 4\*H, I\) = \(1, 20, 3\), got \(1, 24, 3\)"),
    "too few activations": ({"activations": ["Tanh"]}, f"{LSTM}, activations: needs 3 for each of 1 directions, got"),
    "activation": ({"activations": ["Tanh", "Tanh", "Swish"]}, f"{LSTM}, activations: needs one of 'Relu', 'Tanh', "),
    "no alpha": (
        {"activations": ["Sigmoid", "Affine", "Tanh"], "activation_beta": [1.0]},
        f"{LSTM}: needs activation_alpha and activation_beta for Affine, got too few values",
    ),
    "alpha for nobody": ({"activation_alpha": [1.0]}, f"{LSTM}, activation_alpha: needs one value per activation that"),
    "beta for nobody": ({"activation_beta": [1.0]}, f"{LSTM}, activation_beta: needs one value per activation that"),
}


@pytest.mark.parametrize("case", BAD_ATTRIBUTES)
def test_bad_attributes(case):
    attributes, message = BAD_ATTRIBUTES[case]
    fed = values("LSTM")
    model = model_of("LSTM", fed, attributes, constants="WRB")
    with pytest.raises(ValueError, match=f"^{message}"):
        backend.prepare(model)
    assert not backend.is_compatible(model)


def changed(**arrays):
    return lambda fed: fed | arrays


WRONG = np.zeros((2, 2, 2), np.float32)
BAD_INPUTS = {
    "X of another dtype": (lambda fed: fed | {"X": fed["X"].astype(np.float64)}, TypeError, "X: needs dtype float32"),
    "X of half": (
        lambda fed: fed | {"X": fed["X"].astype(np.float16)},
        TypeError,
        "X: needs dtype float32 like W, got",
    ),
    "R of half": (
        lambda fed: fed | {"R": fed["R"].astype(np.float16)},
        TypeError,
        "R: needs dtype float32 like W, got",
    ),
    "X of integers": (lambda fed: fed | {"X": np.ones((5, 4, 3), int)}, TypeError, "X: needs dtype float32 or float64"),
    "X masked": (lambda fed: fed | {"X": np.ma.array(fed["X"])}, TypeError, "X: needs a plain array, got a masked"),
    "X flat": (lambda fed: fed | {"X": fed["X"][0]}, ValueError, r"X: needs shape \(T, B, I\) with I = 3, got \(4, 3"),
    "X of other features": (changed(X=WRONG), ValueError, r"X: needs shape \(T, B, I\) with I = 3, got \(2, 2, 2\)"),
    "W flat": (lambda fed: fed | {"W": fed["W"][0]}, ValueError, r"W and R: need shapes \(D, 4\*H, I\) and"),
    "W of two directions": (lambda fed: fed | {"W": np.r_[fed["W"], fed["W"]]}, ValueError, r"W: needs shape \(D, 4"),
    "R": (changed(R=WRONG), ValueError, r"R: needs shape \(D, 4\*H, H\) = \(1, 24, 6\), got \(2, 2, 2\)"),
    "B": (changed(B=WRONG), ValueError, r"B: needs shape \(D, 8\*H\) = \(1, 48\), got \(2, 2, 2\)"),
    "P": (changed(P=WRONG), ValueError, r"P: needs shape \(D, 3\*H\) = \(1, 18\), got \(2, 2, 2\)"),
    "P of another dtype": (lambda fed: fed | {"P": fed["P"].astype(np.float64)}, TypeError, "P: needs dtype float32"),
    "initial_h": (changed(initial_h=WRONG), ValueError, r"initial_h: needs shape \(D, B, H\) = \(1, 4, 6\), got"),
    "initial_c": (changed(initial_c=WRONG), ValueError, r"initial_c: needs shape \(D, B, H\) = \(1, 4, 6\), got"),
    "lengths of floats": (
        changed(sequence_lens=np.ones(4)),
        TypeError,
        "sequence_lens: needs integers, got dtype float64",
    ),
    "too many lengths": (
        changed(sequence_lens=np.ones(5, int)),
        ValueError,
        r"sequence_lens: needs shape \(B,\) = \(4,\), got \(5,\)",
    ),
    "lengths below 0": (
        changed(sequence_lens=np.array([1, -1, 2, 3])),
        ValueError,
        r"sequence_lens: needs values in 0..T = 0..5, got -1..3",
    ),
    "lengths beyond T": (
        changed(sequence_lens=np.array([1, 6, 2, 3])),
        ValueError,
        r"sequence_lens: needs values in 0..T = 0..5, got 1..6",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(case):
    change, error, message = BAD_INPUTS[case]
    fed = values("LSTM", lengths=LENGTHS, peepholes=True)
    model = model_of("LSTM", fed)
    prepared = backend.prepare(model)
    with pytest.raises(error, match=f"^{LSTM}, {message}"):
        prepared.run([change(fed)[value.name] for value in model.graph.input])
    close(prepared.run(list(fed.values())), says("LSTM", fed), np.float32)


def test_layout_1_names_its_axes():
    fed = batch_first(values("GRU"))
    model = model_of("GRU", fed, {"layout": 1})
    with pytest.raises(ValueError, match=r"^GRU node 'cell', X: needs shape \(B, T, I\) with I = 3, got \(2, 2, 2\)"):
        backend.run_model(model, list((fed | {"X": WRONG}).values()))
    with pytest.raises(
        ValueError, match=r"^GRU node 'cell', initial_h: needs shape \(B, D, H\) = \(4, 1, 6\), got \(2, 2, 2\)"
    ):
        backend.run_model(model, list((fed | {"initial_h": WRONG}).values()))


def test_other_operators_are_named():
    nodes = [helper.make_node("Softmax", ["X"], ["a"]), helper.make_node("RNN", ["a", "W", "R"], ["b"], hidden_size=1)]
    nodes.append(helper.make_node("Abs", ["b"], ["Y"]))
    graph = helper.make_graph(nodes, "mixed", [typed(name, [1, 1, 1]) for name in "XWR"], [typed("Y")])
    message = "^model: needs RNN, GRU and LSTM nodes and no others, got Abs, Softmax; fastrnn.onnx.from_onnx takes"
    with pytest.raises(ValueError, match=message):
        backend.prepare(helper.make_model(graph))
    with pytest.raises(ValueError, match=r"^model: needs RNN, GRU and LSTM nodes and no others, got no nodes"):
        backend.prepare(onnx.ModelProto())
    with pytest.raises(ValueError, match=r"^node: needs an RNN, GRU or LSTM node, got Softmax"):
        backend.run_node(nodes[0], [WRONG])
    elsewhere = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], domain="com.example", hidden_size=1)
    with pytest.raises(ValueError, match=r"^node: needs an RNN, GRU or LSTM node, got com.example.LSTM"):
        backend.run_node(elsewhere, [WRONG] * 3)


def test_old_operators_are_refused():
    model = model_of("RNN", values("RNN"), opset=6)
    with pytest.raises(ValueError, match=r"^RNN node 'cell': needs version 7, 14, 22 of its operator, got opset 6"):
        backend.prepare(model)


def test_the_checker_sees_a_model_first():
    model = model_of("RNN", values("RNN"), {"layout": 1}, opset=7)
    with pytest.raises(onnx.checker.ValidationError, match="layout"):
        backend.prepare(model)
    assert not backend.is_compatible(model)


@pytest.mark.parametrize("change", BAD_CONSTANTS)
def test_constants_that_cannot_be_read(change):
    model = model_of("RNN", values("RNN"), constants="W")
    BAD_CONSTANTS[change](model.graph.initializer[0])
    with pytest.raises((ValueError, onnx.checker.ValidationError), match="W"):
        backend.prepare(model)
    assert not backend.is_compatible(model)


def test_names_that_are_no_text():
    for name in (b"RNN", b"hidden_size", b"cell"):
        data = model_of("RNN", values("RNN")).SerializeToString()
        model = onnx.load_from_string(data.replace(name, name[:-1] + b"\xff"))
        if name == b"cell":
            assert backend.is_compatible(model)
            continue
        with pytest.raises(ValueError, match=r"^model: needs (RNN, GRU and LSTM nodes .* b'RN\\xff'|names in UTF-8)"):
            backend.prepare(model)
        assert not backend.is_compatible(model)


def test_names_that_the_checker_cannot_say(monkeypatch):
    """As it happened, once in many runs, with such a name in its message."""

    def check_model(*_):
        raise onnx.checker.ValidationError

    monkeypatch.setattr(onnx.checker, "check_model", check_model)
    with pytest.raises(ValueError, match=r"^model: needs names in UTF-8, got others"):
        backend.prepare(model_of("RNN", values("RNN")))


def test_outputs_must_be_made():
    model = model_of("RNN", values("RNN"))
    model.graph.output[0].name = "X"
    with pytest.raises(ValueError, match=r"^model: needs outputs of its RNN, GRU and LSTM nodes, got 'X'"):
        backend.prepare(model)


def test_what_is_no_model():
    for nothing in (None, "model.onnx", b"", model_of("RNN", values("RNN")).graph):
        with pytest.raises(TypeError, match=r"^model: needs an onnx.ModelProto, got"):
            backend.prepare(nothing)
        assert not backend.is_compatible(nothing)
    with pytest.raises(TypeError, match=r"^node: needs an onnx.NodeProto, got None"):
        backend.run_node(None, [])


def test_inputs_and_options_are_counted():
    fed = values("RNN")
    model = model_of("RNN", fed, constants="W")
    prepared = backend.prepare(model)
    with pytest.raises(ValueError, match=r"^inputs: needs 4 arrays, \['X', 'R', 'B', 'initial_h'\], got 5"):
        prepared.run(list(fed.values()))
    with pytest.raises(TypeError, match=r"^inputs: needs a list of arrays, got ndarray"):
        prepared.run(fed["X"])
    for call in (
        lambda: prepared.run([], threads=2),
        lambda: backend.prepare(model, threads=2),
        lambda: backend.run_node(model.graph.node[0], list(fed.values()), threads=2),
    ):
        with pytest.raises(TypeError, match="needs no 'threads', an option that fastrnn does not have"):
            call()


def test_without_onnx_the_import_says_what_to_install():
    code = "import sys; sys.modules['onnx'] = None; import fastrnn.onnx"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "fastrnn[onnx]"' in done.stderr.splitlines()[-1]


def test_a_thresholded_relu_keeps_its_threshold():
    """Of a real value few units meet it: x for x >= alpha, 0 otherwise, in the words of ONNX."""
    assert activations.ACTIVATIONS["ThresholdedRelu"][0](np.array([0.5, 1, 2]), 1.0).tolist() == [0, 1, 2]
