# SPDX-License-Identifier: MIT
"""Bad arguments, one row each: the class of the error, its message (the argument, what it needs, what it got), and
everything as it was before.

T time steps, B batch, I input size, H hidden size, P size of the projected h, L layers, D directions.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

import fastrnn
from fastrnn import GRU, LSTM, RNN, _check, _kernels, functional, reference
from fastrnn._records import Ragged

T, B, I, H, P = 4, 3, 2, 5, 3
SIZES = {"rnn": H, "gru": 3 * H, "lstm": 4 * H}


def zeros(*shape, dtype=np.float64):
    return np.zeros(shape, dtype)


def refused(error, message, call, *args, **kwargs):
    """The call raises this very class with a message that begins so, and changes none of its arguments."""
    before = copy.deepcopy([a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)])
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error and str(caught.value).startswith(message), caught.value
    after = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(after, before, strict=True))


# -- what may stand in place of any array ----------------------------------------------------------------------------


class NoArray:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("not today")


NEEDS = "needs dtype float32 or float64, got "
KINDS = {
    "integers": (lambda a: a.astype(np.int64), TypeError, NEEDS + "int64"),
    "booleans": (lambda a: a.astype(bool), TypeError, NEEDS + "bool"),
    "complex": (lambda a: a.astype(np.complex64), TypeError, NEEDS + "complex64"),
    "half": (lambda a: a.astype(np.float16), TypeError, NEEDS + "float16"),
    "long": (lambda a: a.astype(np.longdouble), TypeError, NEEDS + str(np.dtype(np.longdouble))),
    "objects": (lambda a: a.astype(object), TypeError, NEEDS + "object"),
    "strings": (lambda a: a.astype("S4"), TypeError, NEEDS + "|S4"),
    "records": (lambda a: np.zeros(a.shape, [("a", "f8")]), TypeError, NEEDS + "[('a', '<f8')]"),
    "dates": (lambda a: a.astype("M8[s]"), TypeError, NEEDS + "datetime64[s]"),
    "masked": (np.ma.masked_array, TypeError, "needs a plain array, got a masked one"),
    "text": (lambda a: "text", TypeError, NEEDS + "<U4 (str)"),
    "object": (lambda a: object(), TypeError, NEEDS + "object (object)"),
    "dict": (lambda a: {}, TypeError, NEEDS + "object (dict)"),
    "list of integers": (lambda a: [1, 2], TypeError, NEEDS + "int64 (list)"),
    "uneven list": (lambda a: [[1.0], [1.0, 2.0]], TypeError, "needs an array of float32 or float64, got list ("),
    "no array": (lambda a: NoArray(), TypeError, "needs an array of float32 or float64, got NoArray (not today)"),
    "number": (lambda a: 0.5, ValueError, "needs "),
    "one axis more": (lambda a: a[..., None], ValueError, "needs "),
    "one element more": (lambda a: np.zeros([n + 1 for n in a.shape]), ValueError, "needs "),
    "nothing": (lambda a: zeros(0), ValueError, "needs "),
}
each_array = pytest.mark.parametrize("bad", KINDS)


# -- functions -------------------------------------------------------------------------------------------------------


def given(cell):
    """Good arguments, with everything that may be given."""
    rows = SIZES[cell]
    case = {"x": zeros(T, B, I), "w_ih": zeros(rows, I), "w_hh": zeros(rows, P if cell == "lstm" else H)}
    case |= {"b_ih": zeros(rows), "b_hh": zeros(rows), "lengths": np.array([4, 0, 2])}
    return case | (
        {"w_hr": zeros(P, H), "state0": (zeros(B, P), zeros(B, H))} if cell == "lstm" else {"h0": zeros(B, H)}
    )


def changed(case, name, value):
    """The case with another value for one of its arguments, or for a part of one: state0[0]."""
    if name.startswith("state0["):
        k = int(name[7])
        return case | {"state0": (*case["state0"][:k], value, *case["state0"][k + 1 :])}
    return case | {name: value}


def functions(cell):
    return [getattr(module, cell + way) for module in (functional, reference) for way in ("", "_forward")]


ARRAYS = {cell: ["x", "w_ih", "w_hh", "b_ih", "b_hh"] for cell in SIZES}
ARRAYS["lstm"] += ["w_hr", "state0[0]", "state0[1]"]
ARRAYS["rnn"] += ["h0"]
ARRAYS["gru"] += ["h0"]


@each_array
@pytest.mark.parametrize(("cell", "name"), [(cell, name) for cell in SIZES for name in ARRAYS[cell]])
def test_an_argument_that_is_no_such_array(cell, name, bad):
    make, error, message = KINDS[bad]
    good = given(cell)
    array = good["state0"][int(name[7])] if name.startswith("state0") else good[name]
    # of x's or w_hr's shape follows what others need, and those are named
    blamed = "" if name in ("x", "w_hh", "w_hr") and error is ValueError else f"{name}: {message}"
    for function in functions(cell):
        refused(error, blamed, function, **changed(good, name, make(array)))


ROWS = [
    # missing
    ("rnn", {"x": None}, TypeError, "x: needs dtype float32 or float64, got object (NoneType)"),
    ("gru", {"w_ih": None}, TypeError, "w_ih: needs dtype float32 or float64, got object (NoneType)"),
    ("lstm", {"w_hh": None}, TypeError, "w_hh: needs dtype float32 or float64, got object (NoneType)"),
    # of two dtypes
    ("rnn", {"x": zeros(T, B, I, dtype="f4")}, TypeError, "w_hh: needs dtype float32 like x, got float64"),
    ("gru", {"w_ih": zeros(15, I, dtype="f4")}, TypeError, "w_ih: needs dtype float64 like x, got float32"),
    ("rnn", {"w_hh": zeros(H, H, dtype="f4")}, TypeError, "w_hh: needs dtype float64 like x, got float32"),
    ("gru", {"b_ih": zeros(15, dtype="f4")}, TypeError, "b_ih: needs dtype float64 like x, got float32"),
    ("rnn", {"b_hh": zeros(H, dtype=">f4")}, TypeError, "b_hh: needs dtype float64 like x, got float32"),
    ("gru", {"h0": zeros(B, H, dtype="f4")}, TypeError, "h0: needs dtype float64 like x, got float32"),
    ("lstm", {"w_hr": zeros(P, H, dtype="f4")}, TypeError, "w_hr: needs dtype float64 like x, got float32"),
    (
        "lstm",
        {"state0": (None, zeros(B, H, dtype="f4"))},
        TypeError,
        "state0[1]: needs dtype float64 like x, got float32",
    ),
    # of wrong shapes
    ("rnn", {"x": zeros(T, I)}, ValueError, "x: needs shape (T, B, I), got (4, 2)"),
    ("lstm", {"x": zeros(1, T, B, I)}, ValueError, "x: needs shape (T, B, I), got (1, 4, 3, 2)"),
    ("rnn", {"x": zeros(T, B, 0)}, ValueError, "x, w_hh: need I, H, P >= 1, got I = 0, H = 5, P = 5"),
    ("rnn", {"x": zeros(T, B, I + 1)}, ValueError, "w_ih: needs shape (H, I) = (5, 3), got (5, 2)"),
    ("lstm", {"w_ih": zeros(I, 4 * H)}, ValueError, "w_ih: needs shape (4*H, I) = (20, 2), got (2, 20)"),
    ("gru", {"w_ih": zeros(4 * H, I)}, ValueError, "w_ih: needs shape (3*H, I) = (15, 2), got (20, 2)"),
    ("rnn", {"w_hh": zeros(0, 0)}, ValueError, "x, w_hh: need I, H, P >= 1, got I = 2, H = 0, P = 0"),
    ("rnn", {"w_hh": zeros(H)}, ValueError, "w_hh: needs shape (H, P), got (5,)"),
    ("gru", {"w_hh": zeros(H, H)}, ValueError, "w_hh: needs shape (3*H, P) = (15, 5), got (5, 5)"),
    ("lstm", {"w_hh": zeros(4 * H, H)}, ValueError, "w_hr: needs shape (P, H) = (5, 5), got (3, 5)"),
    ("lstm", {"w_hr": None}, ValueError, "w_hh: needs shape (4*H, P) = (12, 3), got (20, 3)"),
    ("lstm", {"w_hr": zeros(H)}, ValueError, "w_hr: needs shape (P, H) = (3, 5), got (5,)"),
    ("lstm", {"w_hr": zeros(H, P)}, ValueError, "w_hr: needs shape (P, H) = (3, 5), got (5, 3)"),
    ("lstm", {"w_hr": zeros(0, H)}, ValueError, "w_hr: needs shape (P, H) = (3, 5), got (0, 5)"),
    ("rnn", {"b_ih": zeros(H, 1)}, ValueError, "b_ih: needs shape (H,) = (5,), got (5, 1)"),
    ("lstm", {"b_hh": zeros(H)}, ValueError, "b_hh: needs shape (4*H,) = (20,), got (5,)"),
    ("gru", {"b_hh": np.float64(0)}, ValueError, "b_hh: needs shape (3*H,) = (15,), got ()"),
    ("rnn", {"h0": zeros(H)}, ValueError, "h0: needs shape (B, P) = (3, 5), got (5,)"),
    ("gru", {"h0": zeros(1, B, H)}, ValueError, "h0: needs shape (B, P) = (3, 5), got (1, 3, 5)"),
    ("lstm", {"state0": (zeros(B, H), None)}, ValueError, "state0[0]: needs shape (B, P) = (3, 3), got (3, 5)"),
    ("lstm", {"state0": (None, zeros(B, P))}, ValueError, "state0[1]: needs shape (B, H) = (3, 5), got (3, 3)"),
    # no pair
    (
        "lstm",
        {"state0": zeros(2, B, H)},
        TypeError,
        "state0: needs a pair (h, c) or None, got ndarray of float64 (2, 3, 5)",
    ),
    ("lstm", {"state0": (zeros(B, P),)}, TypeError, "state0: needs a pair (h, c) or None, got (array("),
    ("lstm", {"state0": {"h": 0, "c": 0}}, TypeError, "state0: needs a pair (h, c) or None, got {'h': 0, 'c': 0}"),
    ("lstm", {"state0": "hc"}, TypeError, "state0: needs a pair (h, c) or None, got 'hc'"),
    # lengths
    ("rnn", {"lengths": [1.0, 2.0, 3.0]}, TypeError, "lengths: needs integers, got dtype float64"),
    ("gru", {"lengths": [True, True, False]}, TypeError, "lengths: needs integers, got dtype bool"),
    ("lstm", {"lengths": "123"}, TypeError, "lengths: needs integers, got dtype <U3"),
    ("lstm", {"lengths": [1, None, 2]}, TypeError, "lengths: needs integers, got dtype object"),
    ("lstm", {"lengths": [[1], [2, 3], [1]]}, TypeError, "lengths: needs integers, got list ("),
    ("lstm", {"lengths": NoArray()}, TypeError, "lengths: needs integers, got NoArray (not today)"),
    ("rnn", {"lengths": np.ma.array([1, 2, 3])}, TypeError, "lengths: needs a plain array, got a masked one"),
    ("rnn", {"lengths": [2**70, 1, 1]}, TypeError, "lengths: needs integers, got dtype object"),
    ("rnn", {"lengths": 4}, ValueError, "lengths: needs shape (B,) = (3,), got ()"),
    ("rnn", {"lengths": []}, ValueError, "lengths: needs shape (B,) = (3,), got (0,)"),
    ("gru", {"lengths": [[4, 3, 2]]}, ValueError, "lengths: needs shape (B,) = (3,), got (1, 3)"),
    ("lstm", {"lengths": [4, 3, 2, 1]}, ValueError, "lengths: needs shape (B,) = (3,), got (4,)"),
    ("lstm", {"lengths": [0, 5, 1]}, ValueError, "lengths: needs values in 0..T = 0..4, got 0..5"),
    ("gru", {"lengths": [3, -1, 4]}, ValueError, "lengths: needs values in 0..T = 0..4, got -1..4"),
    (
        "rnn",
        {"lengths": np.array([2**63, 1, 2], "u8")},
        ValueError,
        "lengths: needs values in 0..T = 0..4, got 1..9223372036",
    ),
    ("rnn", {"x": zeros(0, B, I)}, ValueError, "lengths: needs values in 0..T = 0..0, got 0..4"),
    # options
    ("rnn", {"reverse": 1}, TypeError, "reverse: needs True or False, got 1"),
    ("gru", {"reverse": None}, TypeError, "reverse: needs True or False, got None"),
    ("lstm", {"reverse": zeros(2)}, TypeError, "reverse: needs True or False, got ndarray of float64 (2,)"),
    ("gru", {"reset_after": "no"}, TypeError, "reset_after: needs True or False, got 'no'"),
    ("gru", {"reset_after": np.nan}, TypeError, "reset_after: needs True or False, got nan"),
    ("rnn", {"nonlinearity": "gelu"}, ValueError, "nonlinearity: needs one of 'tanh', 'relu', got 'gelu'"),
    ("rnn", {"nonlinearity": np.tanh}, TypeError, "nonlinearity: needs one of 'tanh', 'relu', got <ufunc 'tanh'>"),
    ("rnn", {"nonlinearity": "n" * 99}, ValueError, "nonlinearity: needs one of 'tanh', 'relu', got 'nnnn"),
]


@pytest.mark.parametrize(("cell", "change", "error", "message"), ROWS, ids=[row[3][:40] for row in ROWS])
def test_a_bad_argument(cell, change, error, message):
    for function in functions(cell):
        refused(error, message, function, **given(cell) | change)


@pytest.mark.parametrize(
    ("cell", "name"), [("rnn", "w_hr"), ("gru", "state0"), ("lstm", "h0"), ("gru", "nonlinearity")]
)
def test_an_argument_of_another_cell(cell, name):
    for function in functions(cell):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            function(**given(cell), **{name: None})


LOSSES = {"grad_out": (T, B, H), "grad_h_n": (B, H), "grad_c_n": (B, H)}


def tape_of(cell):
    weights = zeros(SIZES[cell], I), zeros(SIZES[cell], H)
    return getattr(functional, f"{cell}_forward")(zeros(T, B, I), *weights)[-1]


@each_array
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("cell", SIZES)
def test_a_gradient_that_is_no_such_array(cell, name, bad):
    if name == "grad_c_n" and cell != "lstm":
        name = "grad_out"
    make, error, message = KINDS[bad]
    back = getattr(functional, f"{cell}_backward")
    refused(error, f"{name}: {message}", back, tape_of(cell), **{name: make(zeros(*LOSSES[name]))})


BACKWARD_ROWS = [
    ("rnn", {"grad_out": zeros(B, T, H)}, ValueError, "grad_out: needs shape (T, B, P) = (4, 3, 5), got (3, 4, 5)"),
    ("gru", {"grad_out": zeros(T, B, H, dtype="f4")}, TypeError, "grad_out: needs dtype float64 like x, got float32"),
    ("lstm", {"grad_h_n": zeros(H)}, ValueError, "grad_h_n: needs shape (B, P) = (3, 5), got (5,)"),
    ("lstm", {"grad_c_n": zeros(B, 2)}, ValueError, "grad_c_n: needs shape (B, H) = (3, 5), got (3, 2)"),
    ("rnn", {"tape": None}, TypeError, "tape: needs the tape that rnn_forward returned, got None"),
    (
        "gru",
        {"tape": zeros(3)},
        TypeError,
        "tape: needs the tape that gru_forward returned, got ndarray of float64 (3,)",
    ),
    ("lstm", {"tape": ()}, TypeError, "tape: needs the tape that lstm_forward returned, got ()"),
    (
        "lstm",
        {"tape": tape_of("gru")},
        ValueError,
        "tape: needs the tape that lstm_forward returned, got gru_forward's",
    ),
    ("gru", {"tape": tape_of("rnn")}, ValueError, "tape: needs the tape that gru_forward returned, got rnn_forward's"),
    (
        "rnn",
        {"tape": tape_of("lstm")},
        ValueError,
        "tape: needs the tape that rnn_forward returned, got lstm_forward's",
    ),
    (
        "rnn",
        {"tape": RNN(I, H).forward(zeros(T, I, dtype="f4"))[2]},
        TypeError,
        "tape: needs the tape that rnn_forward",
    ),
]


@pytest.mark.parametrize(
    ("cell", "change", "error", "message"), BACKWARD_ROWS, ids=[row[3][:40] for row in BACKWARD_ROWS]
)
def test_bad_gradients(cell, change, error, message):
    for module in (functional, reference):
        refused(error, message, getattr(module, f"{cell}_backward"), **{"tape": tape_of(cell)} | change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("saved", lambda tape: (1.5, *tape.saved[1:])),
        ("saved", lambda tape: (np.zeros(9), *tape.saved[1:])),
        ("saved", lambda tape: (_kernels.Memory(8), *tape.saved[1:])),
        ("saved", lambda tape: (*tape.saved[:2], np.zeros(9), *tape.saved[3:])),
        ("saved", lambda tape: (*tape.saved[:2], _kernels.Memory(8), *tape.saved[3:])),
        ("call", lambda tape: replace(tape.call, x=tape.call.x.astype(np.float32))),
        ("saved", lambda tape: (tape.saved[0], 8 * H, *tape.saved[2:])),
        ("saved", lambda tape: (*tape.saved[:3], np.zeros((B, H)))),
        ("saved", lambda tape: None),
        ("saved", lambda tape: ()),
        ("call", lambda tape: None),
        ("call", lambda tape: replace(tape.call, x=tape.call.x.astype(np.float32))),
        ("call", lambda tape: replace(tape.call, x=tape.call.x[:1])),
        ("call", lambda tape: replace(tape.call, x=tape.call.x[..., ::-1])),
        ("call", lambda tape: replace(tape.call, x=tape.call.x.astype(">f8"))),
        ("call", lambda tape: replace(tape.call, x=np.ones(X.nbytes + 1, "i1")[1:].view("f8").reshape(X.shape))),
        ("call", lambda tape: replace(tape.call, H=10**5)),
        ("call", lambda tape: replace(tape.call, P=H + 1)),
        ("call", lambda tape: replace(tape.call, B=B + 1)),
        ("call", lambda tape: replace(tape.call, w_ih=tape.call.w_ih[:1])),
        ("call", lambda tape: replace(tape.call, w_hh=tape.call.w_hh.astype(np.float32))),
        ("call", lambda tape: replace(tape.call, w_hh=None)),
        ("call", lambda tape: replace(tape.call, ragged=_check.lengths([1] * (B - 1), T, B - 1))),
        ("call", lambda tape: replace(tape.call, ragged=_check.lengths([1] * B, T + 1, B))),
    ],
)
def test_a_tape_with_other_fields(field, value):
    """Pointers go into what it refers to: nothing may be read past an end."""
    tape = tape_of("gru")
    if tape.backend is not reference:  # where NumPy objects, or not, by itself
        setattr(tape, field, value(tape))
        refused(ValueError, "tape: needs its fields as forward left them, got others", functional.gru_backward, tape)


def test_where_the_kernels_read_is_not_to_be_written():
    for ragged in (_check.lengths([2, 0, 1], 2, 3), Ragged.packed(np.array([2, 1]))):
        for array in (ragged.order, ragged.lengths, ragged.alive, ragged.start):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 10**9


# -- layers ----------------------------------------------------------------------------------------------------------

ENDLESS: list = []
ENDLESS.append(ENDLESS)  # on which NumPy itself crashes
OPTIONS = [
    # sizes
    (RNN, "input_size", 0, ValueError, "needs an integer >= 1, got 0"),
    (GRU, "input_size", True, TypeError, "needs an integer, got True"),
    (LSTM, "hidden_size", -3, ValueError, "needs an integer >= 1, got -3"),
    (RNN, "hidden_size", 5.0, TypeError, "needs an integer, got 5.0"),
    (GRU, "hidden_size", "5", TypeError, "needs an integer, got '5'"),
    (LSTM, "hidden_size", None, TypeError, "needs an integer, got None"),
    (RNN, "num_layers", 0, ValueError, "needs an integer >= 1, got 0"),
    (GRU, "num_layers", np.ones(1), TypeError, "needs an integer, got ndarray of float64 (1,)"),
    (LSTM, "proj_size", H, ValueError, "needs an integer in 0..4, got 5"),
    (LSTM, "proj_size", -1, ValueError, "needs an integer in 0..4, got -1"),
    (LSTM, "proj_size", False, TypeError, "needs an integer, got False"),
    (
        RNN,
        "input_size",
        2**50,
        ValueError,
        ", hidden_size, num_layers: need fewer than 2**50 bytes of weights, got 2305",
    ),
    (LSTM, "num_layers", 10**400, ValueError, ", got 1"),
    # switches
    (RNN, "bias", 0, TypeError, "needs True or False, got 0"),
    (GRU, "batch_first", "no", TypeError, "needs True or False, got 'no'"),
    (LSTM, "bidirectional", None, TypeError, "needs True or False, got None"),
    (GRU, "reset_after", 1.0, TypeError, "needs True or False, got 1.0"),
    # numbers and names
    (RNN, "dropout", np.nan, ValueError, "needs a finite number >= 0 and <= 1, got nan"),
    (GRU, "dropout", -0.1, ValueError, "needs a finite number >= 0 and <= 1, got -0.1"),
    (LSTM, "dropout", np.inf, ValueError, "needs a finite number >= 0 and <= 1, got inf"),
    (LSTM, "dropout", 10**400, ValueError, "needs a finite number >= 0 and <= 1, got inf"),
    (GRU, "dropout", 1 + 1e-9, ValueError, "needs a finite number >= 0 and <= 1, got 1.000000001"),
    (RNN, "dropout", True, TypeError, "needs a number, got True"),
    (RNN, "dropout", "0.5", TypeError, "needs a number, got '0.5'"),
    (GRU, "dropout", 0.5j, TypeError, "needs a number, got 0.5j"),
    (LSTM, "dropout", [[0.5], [0.5, 0.5]], TypeError, "needs a number, got [[0.5], [0.5, 0.5]]"),
    (LSTM, "dropout", np.full(1, 0.5), TypeError, "needs a number, got ndarray of float64 (1,)"),
    (RNN, "dtype", None, TypeError, "needs float32 or float64, got None"),
    (GRU, "dtype", np.float16, TypeError, "needs float32 or float64, got <class 'numpy.float16'>"),
    (LSTM, "dtype", ">f4", TypeError, "needs float32 or float64, got '>f4'"),
    (RNN, "dtype", "double trouble", TypeError, "needs float32 or float64, got 'double trouble'"),
    (GRU, "dtype", ",", TypeError, "needs float32 or float64, got ','"),
    (LSTM, "dtype", {"a": 1}, TypeError, "needs float32 or float64, got {'a': 1}"),
    (RNN, "init", "zeros", ValueError, "needs one of 'uniform', 'orthogonal', got 'zeros'"),
    (GRU, "init", np.zeros, TypeError, "needs one of 'uniform', 'orthogonal', got <"),
    (RNN, "nonlinearity", "sigmoid", ValueError, "needs one of 'tanh', 'relu', got 'sigmoid'"),
    (RNN, "nonlinearity", True, TypeError, "needs one of 'tanh', 'relu', got True"),
    (RNN, "dropout", np.True_, TypeError, "needs a number, got "),
    (RNN, "dropout", b"0.5", TypeError, "needs a number, got b'0.5'"),
    (RNN, "seed", -1, ValueError, "needs None, an integer >= 0 or a numpy.random.Generator, got -1"),
    (GRU, "seed", 0.5, TypeError, "needs None, an integer >= 0 or a numpy.random.Generator, got 0.5"),
    (LSTM, "seed", "lucky", TypeError, "needs None, an integer >= 0 or a numpy.random.Generator, got 'lucky'"),
    (LSTM, "seed", np.nan, TypeError, "needs None, an integer >= 0 or a numpy.random.Generator, got nan"),
    (RNN, "seed", range(5), TypeError, "needs None, an integer >= 0 or a numpy.random.Generator, got range(0, 5)"),
    (GRU, "seed", ENDLESS, TypeError, "needs None, an integer >= 0 or a numpy.random.Generator, got [[...]]"),
]


@pytest.mark.parametrize(("cls", "name", "value", "error", "message"), OPTIONS)
def test_a_bad_option(cls, name, value, error, message):
    blamed = f"{name}: {message}" if message.startswith("needs") else name if name == "input_size" else ""
    refused(error, blamed, cls, **{"input_size": I, "hidden_size": H, name: value})


@pytest.mark.parametrize(
    ("cls", "name"), [(RNN, "proj_size"), (GRU, "nonlinearity"), (LSTM, "reset_after"), (RNN, "device")]
)
def test_an_option_of_another_layer(cls, name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        cls(I, H, **{name: None})


@pytest.fixture
def layer():
    """An LSTM that must not change."""
    made = LSTM(I, H, 2, dropout=0.5, proj_size=P, bidirectional=True, dtype=np.float64, seed=0)
    before = made.flat_params.copy(), made.rng.bit_generator.state, made.options()
    yield made
    assert made.flat_params.tobytes() == before[0].tobytes()
    assert (made.rng.bit_generator.state, made.options()) == before[1:]


def runs(layer):
    return [layer, layer.forward, layer.freeze()]


@each_array
def test_a_layer_s_input_that_is_no_such_array(layer, bad):
    make, error, message = KINDS[bad]
    for run in runs(layer):
        refused(error, f"x: {message}", run, make(zeros(T, B, I)))


@each_array
@pytest.mark.parametrize("k", [0, 1])
def test_a_layer_s_state_that_is_no_such_array(layer, k, bad):
    make, error, message = KINDS[bad]
    state = [zeros(4, B, P), zeros(4, B, H)]
    state[k] = make(state[k])
    for run in runs(layer):
        refused(error, f"state[{k}]: {message}", run, zeros(T, B, I), tuple(state))
    twin = copy.deepcopy(layer)
    tape = twin.forward(zeros(T, B, I))[2]
    refused(error, f"grad_state[{k}]: {message}", twin.backward, tape, None, tuple(state))


@each_array
def test_a_layer_s_gradient_that_is_no_such_array(layer, bad):
    make, error, message = KINDS[bad]
    twin = copy.deepcopy(layer)
    out, _, tape = twin.forward(zeros(T, B, I))
    refused(error, f"grad_out: {message}", twin.backward, tape, make(np.zeros_like(out)))


X = zeros(T, B, I)
CALLS = [
    ([X.astype("f4")], TypeError, "x: needs dtype float64 like the layer, got float32"),
    ([zeros(I)], ValueError, "x: needs shape (T, B, I) or (T, I) with I = 2, got (2,)"),
    ([zeros(T, B, I + 1)], ValueError, "x: needs shape (T, B, I) or (T, I) with I = 2, got (4, 3, 3)"),
    ([zeros(T, B, 0)], ValueError, "x: needs shape (T, B, I) or (T, I) with I = 2, got (4, 3, 0)"),
    ([X, zeros(4, B, P)], TypeError, "state: needs a pair (h, c) or None, got ndarray of float64 (4, 3, 3)"),
    ([X, "hc"], TypeError, "state: needs a pair (h, c) or None, got 'hc'"),
    ([X, [None]], TypeError, "state: needs a pair (h, c) or None, got [None]"),
    ([X, (zeros(2, B, P), None)], ValueError, "state[0]: needs shape (L*D, B, P) = (4, 3, 3), got (2, 3, 3)"),
    ([X, (zeros(4, P), None)], ValueError, "state[0]: needs shape (L*D, B, P) = (4, 3, 3), got (4, 3)"),
    ([X, (None, zeros(4, B, P))], ValueError, "state[1]: needs shape (L*D, B, H) = (4, 3, 5), got (4, 3, 3)"),
    ([X, (None, zeros(4, B, H, dtype="f4"))], TypeError, "state[1]: needs dtype float64 like the layer, got float32"),
    ([X, None, [1.0, 2.0, 3.0]], TypeError, "lengths: needs integers, got dtype float64"),
    ([X, None, np.ma.array([1, 2, 3])], TypeError, "lengths: needs a plain array, got a masked one"),
    ([X, None, [[1], [2, 3]]], TypeError, "lengths: needs integers, got list ("),
    ([X, None, [1, 2]], ValueError, "lengths: needs shape (B,) = (3,), got (2,)"),
    ([X, None, [1, 2, 5]], ValueError, "lengths: needs values in 0..T = 0..4, got 1..5"),
    ([X[:, 0], None, 3], ValueError, "lengths: needs shape (B,) = (1,), got ()"),
    ([X[:, 0], (zeros(4, B, P), None)], ValueError, "state[0]: needs shape (L*D, P) = (4, 3), got (4, 3, 3)"),
    ([X[:, 0], (None, zeros(4, 1, H))], ValueError, "state[1]: needs shape (L*D, H) = (4, 5), got (4, 1, 5)"),
    ([X[:, :1], (zeros(4, P), None)], ValueError, "state[0]: needs shape (L*D, B, P) = (4, 1, 3), got (4, 3)"),
]


@pytest.mark.parametrize(("args", "error", "message"), CALLS, ids=[row[2][:40] for row in CALLS])
def test_a_bad_call(layer, args, error, message):
    for run in runs(layer):
        refused(error, message, run, *args)


def test_batch_first_is_said_in_the_message():
    refused(
        ValueError, "x: needs shape (B, T, I) or (T, I) with I = 2", GRU(I, H, batch_first=True), zeros(3, dtype="f4")
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda tape, other: setattr(tape, "shape", (1, 1, 2 * P)),
        lambda tape, other: setattr(tape, "shape", (1, 2 * P)),
        lambda tape, other: setattr(tape, "shape", None),
        lambda tape, other: setattr(tape, "tapes", other.tapes),
        lambda tape, other: setattr(tape, "tapes", tape.tapes[:-1]),
        lambda tape, other: setattr(tape, "tapes", []),
        lambda tape, other: setattr(tape, "tapes", [None] * len(tape.tapes)),
        lambda tape, other: tape.tapes.reverse(),
        lambda tape, other: setattr(tape.tapes[-1], "call", None),
        lambda tape, other: setattr(tape.tapes[0], "call", other.tapes[0].call),
        lambda tape, other: setattr(tape.tapes[0].call, "H", 10**5),
    ],
)
def test_a_layers_tape_with_other_fields(layer, change):
    """Gradients are looked at by these: nothing may be read or written past an end."""
    layer = LSTM(**{**layer.options(), "dropout": 0.0})
    other = LSTM(**{**layer.options(), "input_size": 40, "hidden_size": 50})
    tape, others = layer.forward(X)[2], other.forward(zeros(T, B, 40))[2]
    change(tape, others)
    refused(ValueError, "tape: needs its fields as forward left them, got others", layer.backward, tape, zeros(T, B, P))


def test_a_bad_tape(layer):
    other = RNN(I, H, dtype=np.float64)
    tape = other.forward(X)[2]
    refused(TypeError, "tape: needs what forward returned, got NoneType", layer.backward, None)
    refused(TypeError, "tape: needs what forward returned, got ndarray", layer.backward, X)
    refused(TypeError, "tape: needs what forward returned, got Tape", layer.backward, tape.tapes[0])
    refused(ValueError, "tape: needs one made by this layer's forward, got another layer's", layer.backward, tape)
    refused(ValueError, "tape: needs one made by this layer's forward", copy.deepcopy(other).backward, tape)
    refused(
        ValueError, "grad_out: needs the shape of out, (4, 3, 5), got (4, 3, 6)", other.backward, tape, zeros(T, B, 6)
    )
    refused(TypeError, "grad_out: needs dtype float64 like the layer", other.backward, tape, zeros(T, B, H, dtype="f4"))
    refused(ValueError, "grad_state: needs shape (L*D, B, P) = (1, 3, 5)", other.backward, tape, None, zeros(B, H))
    tape = other.forward(X[:, 0])[2]
    refused(ValueError, "grad_state: needs shape (L*D, P) = (1, 5)", other.backward, tape, None, zeros(1, 1, H))


FILLINGS = [
    ("text", TypeError, "needs numbers, got <U4 (str)"),
    (None, TypeError, "needs numbers, got object (NoneType)"),
    (1j, TypeError, "needs numbers, got complex128 (complex)"),
    (True, TypeError, "needs numbers, got bool (bool)"),
    ([1.0, 2.0, object()], TypeError, "needs numbers, got object (list)"),
    ([[1.0], [2.0, 3.0]], TypeError, "needs numbers, got list ("),
    (np.array([1.0, "two"], object), TypeError, "needs numbers, got object"),
    (np.ma.zeros(1), TypeError, "needs a plain array, got a masked one"),
    (zeros(7), ValueError, "needs a shape that can be broadcast to ("),
    (zeros(2, 1, 1, 1), ValueError, "needs a shape that can be broadcast to ("),
]


@pytest.mark.parametrize(("value", "error", "message"), FILLINGS)
def test_bad_parameters(layer, value, error, message):
    """The first elements of a list may be good: they are not written either."""
    refused(error, f"flat_params: {message}", setattr, layer, "flat_params", value)
    for name in ("weight_hr_l1", "bias_hh_l0_reverse"):
        refused(error, f"params['{name}']: {message}", layer.params.__setitem__, name, value)
    refused(KeyError, "'weight'", layer.params.__setitem__, "weight", value)


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(layer):
    """A stream of three sequences that must not change."""
    made = LSTM(I, H, 2, proj_size=P, dtype=np.float64, seed=1).stream(3)
    made(np.ones((3, I)))
    before = made.state
    yield made
    assert all(a.tobytes() == b.tobytes() for a, b in zip(made.state, before, strict=True))


@each_array
def test_a_step_that_is_no_such_array(stream, bad):
    make, error, message = KINDS[bad]
    refused(error, f"x: {message}", stream, make(zeros(3, I)))
    refused(error, f"x: {message}", stream, make(zeros(3, I)), zeros(3, P))


def read_only(array):
    array.flags.writeable = False
    return array


STEP = zeros(3, I)
PLACE = "out: needs to be C-contiguous, aligned and writeable, got "
STEPS = [
    ([STEP.astype("f4")], TypeError, "x: needs dtype float64 like the layer, got float32"),
    ([zeros(I)], ValueError, "x: needs shape (B, I) = (3, 2), got (2,)"),
    ([zeros(1, I)], ValueError, "x: needs shape (B, I) = (3, 2), got (1, 2)"),
    ([zeros(I, 3)], ValueError, "x: needs shape (B, I) = (3, 2), got (2, 3)"),
    ([zeros(1, 3, I)], ValueError, "x: needs shape (B, I) = (3, 2), got (1, 3, 2)"),
    ([STEP, zeros(3, H)], ValueError, "out: needs shape (3, 3), got (3, 5)"),
    ([STEP, zeros(P)], ValueError, "out: needs shape (3, 3), got (3,)"),
    ([STEP, zeros(3, P, dtype="f4")], TypeError, "out: needs an array of float64, got dtype float32"),
    ([STEP, zeros(3, P, dtype=">f8")], TypeError, "out: needs an array of float64, got dtype >f8"),
    ([STEP, zeros(3, P, dtype=int)], TypeError, "out: needs an array of float64, got dtype int64"),
    ([STEP, [[0.0] * P] * 3], TypeError, "out: needs an array of float64, got list"),
    ([STEP, memoryview(zeros(3, P))], TypeError, "out: needs an array of float64, got memoryview"),
    ([STEP, True], TypeError, "out: needs an array of float64, got bool"),
    ([STEP, np.ma.zeros((3, P))], TypeError, "out: needs a plain array, got a masked one (a mask would be ignored)"),
    ([STEP, zeros(P, 3).T], ValueError, PLACE),
    ([STEP, zeros(3, 2 * P)[:, ::2]], ValueError, PLACE),
    ([STEP, zeros(3, P)[::-1]], ValueError, PLACE),
    ([STEP, zeros(3 * P + 1).view("u1")[1:-7].view("f8").reshape(3, P)], ValueError, PLACE),
    ([STEP, read_only(zeros(3, P))], ValueError, PLACE),
    ([STEP, np.broadcast_to(0.0, (3, P))], ValueError, PLACE),
]


@pytest.mark.parametrize(("args", "error", "message"), STEPS, ids=[f"{k} {row[2][:30]}" for k, row in enumerate(STEPS)])
def test_a_bad_step(stream, args, error, message):
    refused(error, message, stream, *args)


def test_a_bad_step_of_one_sequence():
    stream = GRU(I, H).stream()
    x, before = zeros(I, dtype="f4"), stream.state
    refused(ValueError, "x: needs shape (B, I) = (1, 2), got (3,)", stream, zeros(3, dtype="f4"))
    refused(ValueError, "out: needs shape (5,), got (1, 5)", stream, x, zeros(1, H, dtype="f4"))
    refused(ValueError, "out: needs shape (1, 5), got (5,)", stream, x[None], zeros(H, dtype="f4"))
    assert np.array_equal(stream.state, before)


STATES = [
    (zeros(2, 3, P), TypeError, "state: needs a pair (h, c) or None, got ndarray of float64 (2, 3, 3)"),
    ((zeros(2, 3, P),), TypeError, "state: needs a pair (h, c) or None, got (array("),
    ("hc", TypeError, "state: needs a pair (h, c) or None, got 'hc'"),
    ((zeros(2, 3, H), None), ValueError, "state[0]: needs shape (L*D, B, P) = (2, 3, 3), got (2, 3, 5)"),
    ((zeros(2, P), None), ValueError, "state[0]: needs shape (L*D, B, P) = (2, 3, 3), got (2, 3)"),
    ((None, zeros(1, 3, H)), ValueError, "state[1]: needs shape (L*D, B, H) = (2, 3, 5), got (1, 3, 5)"),
    ((None, zeros(2, 3, H, dtype="f4")), TypeError, "state[1]: needs dtype float64 like the layer, got float32"),
    ((zeros(2, 3, P), zeros(2, 3, H, dtype=int)), TypeError, "state[1]: needs dtype float32 or float64, got int64"),
    ((zeros(2, 3, P), np.ma.zeros((2, 3, H))), TypeError, "state[1]: needs a plain array, got a masked one"),
]


@pytest.mark.parametrize(("state", "error", "message"), STATES, ids=[row[2][:40] for row in STATES])
def test_a_bad_state(stream, state, error, message):
    refused(error, message, setattr, stream, "state", state)
    refused(error, message, stream.reset, state)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "needs an integer >= 1, got 0"),
        (-1, ValueError, "needs an integer >= 1, got -1"),
        (True, TypeError, "needs an integer, got True"),
        (1.5, TypeError, "needs an integer, got 1.5"),
        ("2", TypeError, "needs an integer, got '2'"),
        (None, TypeError, "needs an integer, got None"),
        (2**60, ValueError, "needs fewer than 2**50 bytes of states, got 1152921504606846976 rows of 140 bytes"),
    ],
)
def test_a_bad_batch_size(size, error, message):
    for made in (GRU(I, H), GRU(I, H).freeze()):
        refused(error, f"batch_size: {message}", made.stream, size)


def test_no_stream_runs_both_ways(layer):
    for made in (layer, layer.freeze()):
        refused(ValueError, "layer: needs one direction, got bidirectional=True", made.stream)


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "needs an integer in 1..64, got 0"),
        (-1, ValueError, "needs an integer in 1..64, got -1"),
        (65, ValueError, "needs an integer in 1..64, got 65"),
        (2**80, ValueError, "needs an integer in 1..64, got 1208925819614629174706176"),
        (True, TypeError, "needs an integer, got True"),
        (1.5, TypeError, "needs an integer, got 1.5"),
        (np.nan, TypeError, "needs an integer, got nan"),
        ("2", TypeError, "needs an integer, got '2'"),
        (None, TypeError, "needs an integer, got None"),
        (np.array([2, 3]), TypeError, "needs an integer, got ndarray of int64 (2,)"),
    ],
)
def test_a_bad_number_of_threads(n, error, message):
    before = fastrnn.get_num_threads()
    refused(error, f"n: {message}", fastrnn.set_num_threads, n)
    assert fastrnn.get_num_threads() == before


class Unshown:
    def __repr__(self):
        raise RuntimeError("not today")


def test_what_cannot_be_written_out_is_refused_by_name():
    huge = 10**5000
    refused(ValueError, "input_size: needs an integer >= 1, got about -2**16609", LSTM, -huge, H)
    refused(ValueError, "proj_size: needs an integer in 0..about 2**16609, got -1", LSTM, I, huge, proj_size=-1)
    refused(ValueError, "dropout: needs a finite number >= 0 and <= 1, got -inf", LSTM, I, H, dropout=-huge)
    refused(ValueError, "batch_size: needs fewer than 2**50 bytes of states, got about 2", GRU(I, H).stream, huge)
    refused(ValueError, "n: needs an integer in 1..64, got about 2**16609", fastrnn.set_num_threads, huge)
    refused(TypeError, "bias: needs True or False, got list that cannot be shown", LSTM, I, H, bias=[huge])
    refused(TypeError, "bias: needs True or False, got Unshown that cannot be shown", LSTM, I, H, bias=Unshown())


@pytest.mark.parametrize(
    "name, value", [("hidden_size", 99), ("input_size", 1), ("proj_size", 1), ("cell", "rnn"), ("batch_first", True)]
)
def test_what_fixes_the_shapes_of_the_weights_stays(name, value):
    layer = fastrnn.LSTM(3, 5, proj_size=2, seed=0)
    before = getattr(layer, name)
    with pytest.raises(AttributeError, match=f"{name}: fixed when the layer is made, got {value!r}"):
        setattr(layer, name, value)
    with pytest.raises(AttributeError, match=f"{name}: needs to stay, got deleted"):
        delattr(layer, name)
    assert getattr(layer, name) == before
    assert layer(np.ones((2, 3), np.float32))[0].shape == (2, 2)


def test_what_a_layer_was_drawn_with_is_past(layer):
    refused(AttributeError, "seed: fixed when the layer is made, got 3", setattr, layer, "seed", 3)
    refused(AttributeError, "init: fixed when the layer is made, got 'x'", setattr, layer, "init", "x")
    refused(
        TypeError, "rng: needs None, an integer >= 0 or a numpy.random.Generator, got 'x'", setattr, layer, "rng", "x"
    )
    refused(AttributeError, "rng: needs to stay, got deleted", delattr, layer, "rng")
    refused(AttributeError, "dropout: needs to stay, got deleted", delattr, layer, "dropout")
