# SPDX-License-Identifier: MIT
"""The ONNX backend against ONNX Runtime: random nodes that it can run, and long sequences of many units.

T time steps, B batch, I input size, H hidden size, D directions.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import REVERSE, model_of, values
from test_onnx import OPS, chosen, each_direction, run


def runtime(model, fed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, fed)


BOUNDED = ("Sigmoid", "Tanh", "HardSigmoid", "ScaledTanh", "Softsign")  # others make a state explode, and roundings
SMOOTH = (*BOUNDED, "Relu", "Affine", "LeakyRelu", "Elu", "Softplus")  # at its jump ThresholdedRelu is anyone's guess


@st.composite
def nodes(draw):
    """A node that ONNX Runtime can run, and runs as the standard says: the operator, values and attributes.

    It does not clip what goes into h, so no cell may reach the clip: from c = 0, three steps add less than 3. It takes
    the state of a sequence of length 0 for 0. It has no layout 1, no float64, and not all defaults of alpha.
    """
    op, direction = draw(st.sampled_from(OPS)), draw(st.sampled_from(tuple(REVERSE)))
    T, B, D = draw(st.integers(1, 7)), draw(st.integers(1, 5)), len(REVERSE[direction])
    attributes = {"direction": direction}
    without = draw(st.sets(st.sampled_from(("B", "initial_h", "initial_c"))))
    lengths = draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B).filter(any))
    if draw(st.booleans()):
        attributes["clip"], T, lengths = 3.0, min(T, 3), lengths and [min(length, 3) for length in lengths]
        without |= {"initial_c"}
    elif draw(st.booleans()):
        gates = [] if op == "RNN" else [st.sampled_from(BOUNDED)]
        others = [st.sampled_from(SMOOTH)] * (2 if op == "LSTM" else 1)
        attributes |= chosen(draw(st.tuples(*(gates + others) * D)))[0]
    if lengths is not None and 0 in lengths:
        without |= {"initial_h", "initial_c"}
    if op != "RNN":
        attributes["input_forget" if op == "LSTM" else "linear_before_reset"] = draw(st.integers(0, 1))
    fed = values(
        op,
        T,
        B,
        I=draw(st.sampled_from((1, 3, 8))),
        H=draw(st.sampled_from((1, 2, 7, 16))),
        D=D,
        without=without,
        peepholes=op == "LSTM" and draw(st.booleans()),
        lengths=lengths,
        scale=3.0 if "clip" in attributes else 0.5,
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    fed["X"] = np.nan_to_num(fed["X"])  # it multiplies the padding too
    return op, fed, attributes


def test_onnx_runtime_does_not_clip_what_goes_into_h():
    """The standard has it, and so have we: then h = o tanh(c), with another c."""
    fed = values("LSTM", T=1, scale=5)
    ours, theirs = run("LSTM", fed, {"clip": 0.5}), runtime(model_of("LSTM", fed, {"clip": 0.5}), fed)
    c = ours[2]
    np.testing.assert_allclose(c, theirs[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[1] * np.tanh(c), theirs[1] * np.tanh(c.clip(-0.5, 0.5)), rtol=1e-5, atol=1e-5)
    assert np.abs(c).max() > 1 and not np.allclose(ours[1], theirs[1], atol=0.1)


LONG = {  # coupled gates keep c in -1..1, below the clip, which ONNX Runtime does not have there: see `nodes`
    "RNN": ("RNN", {"clip": 1.0}, False),
    "GRU": ("GRU", {"clip": 1.0}, False),
    "GRU, linear before reset": ("GRU", {"clip": 1.0, "linear_before_reset": 1}, False),
    "LSTM": ("LSTM", {"clip": 1.0, "input_forget": 1}, False),
    "LSTM, peepholes": ("LSTM", {}, True),
    "LSTM, both": ("LSTM", {"clip": 1.0, "input_forget": 1}, True),
}


@each_direction
@pytest.mark.parametrize("kind", LONG)
def test_onnx_runtime_agrees_on_long_sequences_of_many_units(kind, direction):
    (op, attributes, peepholes), D = LONG[kind], len(REVERSE[direction])
    attributes = attributes | {"direction": direction}
    fed = values(op, 40, 7, 24, 70, D, lengths=[40, 1, 33, 17, 40, 2, 39], peepholes=peepholes)
    fed["X"] = np.nan_to_num(fed["X"])
    if "initial_c" in fed:
        fed["initial_c"].clip(-1, 1, out=fed["initial_c"])
    for ours, theirs in zip(run(op, fed, attributes), runtime(model_of(op, fed, attributes), fed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(nodes(), st.integers(0, 1))
def test_onnx_runtime_agrees(node, layout):
    op, fed, attributes = node
    expected = runtime(model_of(op, fed, attributes), fed)
    for ours, theirs in zip(run(op, fed, attributes | {"layout": layout}), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
