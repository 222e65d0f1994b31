# SPDX-License-Identifier: MIT
"""Models of one recurrent node, values to feed them, and what ONNX says of such a node, as scalar loops over its text.

T time steps, B batch, I input size, H hidden size, G gates, D directions.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def values(op, T=5, B=4, I=3, H=6, D=1, dtype=np.float32, without=(), peepholes=False, lengths=None, scale=1.0, seed=0):
    """What to feed a node with layout 0, by ONNX's names; X holds NaN past the lengths, for nobody to read."""
    rng, G = np.random.default_rng(seed), GATES[op]
    shapes = {
        "X": (T, B, I),
        "W": (D, G * H, I),
        "R": (D, G * H, H),
        "B": (D, 2 * G * H),
        "initial_h": (D, B, H),
        "initial_c": (D, B, H),
        "P": (D, 3 * H),
    }
    if op != "LSTM":
        del shapes["initial_c"]
    if not peepholes:
        del shapes["P"]
    scales = {"X": scale, "W": scale * I**-0.5, "R": scale * H**-0.5, "B": 0.5 * scale}
    fed = {name: (scales.get(name, 1) * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    if lengths is not None:
        fed["sequence_lens"] = np.array(lengths, np.int32)
        for row, length in enumerate(lengths):
            fed["X"][length:, row] = np.nan
    return {name: array for name, array in fed.items() if name not in without}


def batch_first(fed):
    """The same values for layout 1, or back."""
    swapped = ("X", "initial_h", "initial_c")
    return {name: array.swapaxes(0, 1).copy() if name in swapped else array for name, array in fed.items()}


def model_of(op, fed, attributes=None, outputs=None, opset=22, constants=()):
    """A model of one node, fed with all of these values; those in ``constants`` are its own."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in fed.items()}
    names = [name if name in fed else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    outputs = OUTPUTS[op] if outputs is None else outputs
    hidden_size = {"hidden_size": fed["R"].shape[2]}
    node = helper.make_node(op, names, outputs, name="cell", **hidden_size | (attributes or {}))
    graph = helper.make_graph(
        [node],
        "model",
        [helper.make_tensor_value_info(name, kinds[name], fed[name].shape) for name in fed if name not in constants],
        [
            helper.make_tensor_value_info(name, kinds["X"], [None] * (4 if name == "Y" else 3))
            for name in outputs
            if name
        ],
        [numpy_helper.from_array(fed[name], name) for name in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def typed(name, shape=None, kind=TensorProto.FLOAT):
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def constant(array, name):
    """An initializer."""
    return onnx.numpy_helper.from_array(array, name)


def sparse(array, name, by_axis=False):
    """A sparse initializer of all values of an array, with an index each, or one for each axis."""
    indices = np.argwhere(np.full(array.shape, True)) if by_axis else np.arange(array.size)
    return helper.make_sparse_tensor(constant(array.ravel(), name), constant(indices, ""), array.shape)


def cut(tensor):
    tensor.raw_data = tensor.raw_data[:-4]


BAD_CONSTANTS = {  # changes of an initializer
    "unknown type": lambda tensor: setattr(tensor, "data_type", 99),
    "no type": lambda tensor: setattr(tensor, "data_type", TensorProto.UNDEFINED),
    "too few bytes": cut,
    "no shape": lambda tensor: tensor.ClearField("dims"),
    "a size below 0": lambda tensor: tensor.dims.__setitem__(1, -1),
}


# -- the standard, row by row in float64 -----------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


USUAL = {"RNN": (np.tanh,), "GRU": (sigmoid, np.tanh), "LSTM": (sigmoid, np.tanh, np.tanh)}


def says(op, fed, direction="forward", act=None, clip=None, input_forget=0, linear_before_reset=0):
    """Y, Y_h and, of an LSTM, Y_c, by the equations in ONNX's Operators.md, with layout 0.

    What the text leaves open: past its length a sequence's Y is 0, its states stay, and the reverse direction begins at
    its last valid step. ``act`` has f, g and h of each direction.
    """
    fed = {name: array.astype(np.int64 if name == "sequence_lens" else np.float64) for name, array in fed.items()}
    X, W, R = fed["X"], fed["W"], fed["R"]
    (T, N, _), (D, GH, H) = X.shape, R.shape
    B, P = fed.get("B", np.zeros((D, 2 * GH))), fed.get("P", np.zeros((D, 3 * H)))
    lengths = fed.get("sequence_lens", np.full(N, T))
    Y = np.zeros((T, D, N, H))
    Y_h, Y_c = (fed.get(name, np.zeros((D, N, H))).copy() for name in ("initial_h", "initial_c"))
    act = act or USUAL[op] * D
    for d, reverse in enumerate(REVERSE[direction]):
        functions = [bounded(f, clip) for f in act[d * len(USUAL[op]) :][: len(USUAL[op])]]
        for n in range(N):
            times = range(lengths[n])
            for t in reversed(times) if reverse else times:
                x, h, c = X[t, n], Y_h[d, n], Y_c[d, n]
                Wb, Rb = np.split(B[d], 2)
                if op == "RNN":
                    h = rnn(functions, W[d] @ x + Wb + R[d] @ h + Rb)
                elif op == "GRU":
                    h = gru(functions, W[d] @ x + Wb, R[d], Rb, h, linear_before_reset)
                else:
                    h, c = lstm(functions, W[d] @ x + Wb + R[d] @ h + Rb, P[d], c, input_forget)
                Y[t, d, n] = Y_h[d, n] = h
                Y_c[d, n] = c
    return (Y, Y_h, Y_c) if op == "LSTM" else (Y, Y_h)


def bounded(function, clip):
    """Clip "is applied to the input of activations"."""
    return function if clip is None else lambda z: function(np.clip(z, -clip, clip))


def rnn(functions, z):
    (f,) = functions
    return f(z)


def gru(functions, zx, R, Rb, h, linear_before_reset):
    f, g = functions
    (x_z, x_r, x_h), (R_z, R_r, R_h), (b_z, b_r, b_h) = (np.split(a, 3) for a in (zx, R, Rb))
    z, r = f(x_z + R_z @ h + b_z), f(x_r + R_r @ h + b_r)
    n = g(x_h + r * (R_h @ h + b_h)) if linear_before_reset else g(x_h + R_h @ (r * h) + b_h)
    return (1 - z) * n + z * h


def lstm(functions, z, P, c, input_forget):
    f, g, h = functions
    (z_i, z_o, z_f, z_c), (P_i, P_o, P_f) = np.split(z, 4), np.split(P, 3)
    i = f(z_i + P_i * c)
    c = (1 - i if input_forget else f(z_f + P_f * c)) * c + i * g(z_c)
    return f(z_o + P_o * c) * h(c), c
