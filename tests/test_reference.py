# SPDX-License-Identifier: MIT
"""The reference against the oracle: the second link of the chain of trust. Forward, gradients, edges, the interface.

T time steps, B batch, I input size, H hidden size, P size of the projected h.
"""

from __future__ import annotations

import copy
import inspect

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from strategies import PARTS, VARIANTS, cases, make_case
from trials import changes_in_place

from fastrnn import functional, reference
from fastrnn._records import Grads
from fastrnn.layers import LSTM

CELLS = [(cell, variant, None) for cell, variant in VARIANTS] + [("lstm", "", 2)]
each_cell = pytest.mark.parametrize(("cell", "variant", "P"), CELLS, ids=["-".join(map(str, c)) for c in CELLS])
each_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
NAMES = {"rnn": ("out", "h_n"), "lstm": ("out", "h_n", "c_n"), "gru": ("out", "h_n")}


def flat(out, state):
    """(out, h_n) or (out, h_n, c_n)."""
    return (out, *state) if isinstance(state, tuple) else (out, state)


def infer(cell, case):
    return flat(*getattr(reference, cell)(**case))


def train(cell, case):
    out, state, tape = getattr(reference, f"{cell}_forward")(**case)
    return flat(out, state), tape


def backward(tape, grads):
    return getattr(reference, f"{tape.call.cell}_backward")(tape, **grads)


def agree(actual, expected, dtype):
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype and a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def same_bits(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape and a.tobytes() == e.tobytes()


def arrays_of(grads):
    return {name: value for name in Grads.__slots__ if (value := getattr(grads, name)) is not None}


# -- forward ---------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(cases())
def test_forward_is_the_oracle_s(drawn):
    cell, case = drawn
    expected = oracle.CELLS[cell](**case)
    agree(infer(cell, case), expected, case["x"].dtype)
    agree(train(cell, case)[0], expected, case["x"].dtype)


@pytest.mark.parametrize("lengths", [None, [0, 0], [2, 0]], ids=["dense", "zero", "ragged"])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (1, 2), (0, 2), (3, 0), (0, 0), (4, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_direction
@each_cell
def test_edges(cell, variant, P, dtype, T, B, lengths, reverse):
    lengths = None if lengths is None else np.minimum(lengths, T)[:B]
    case = make_case(cell, variant, T=T, B=B, I=1, H=1, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
    results, tape = train(cell, case)
    agree(results, oracle.CELLS[cell](**case), dtype)
    grads = backward(tape, {f"grad_{name}": np.ones_like(a) for name, a in zip(NAMES[cell], results, strict=True)})
    arguments = case | (dict(zip(("h0", "c0"), case["state0"], strict=True)) if cell == "lstm" else {})
    for name, grad in arrays_of(grads).items():
        assert grad.shape == arguments[name].shape and grad.dtype == dtype
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("lengths", [None, [6, 0, 4]], ids=["dense", "ragged"])
@each_cell
def test_reverse_is_flipped(cell, variant, P, lengths):
    case = make_case(cell, variant, T=6, P=P, lengths=lengths)

    def flipped(array):
        result = array.copy()
        for row, length in enumerate(case["x"].shape[1] * [6] if lengths is None else lengths):
            result[:length, row] = array[:length, row][::-1]
        return result

    out, *state = infer(cell, case)
    out_reverse, *state_reverse = infer(cell, case | {"x": flipped(case["x"]), "reverse": True})
    same_bits((flipped(out), *state), (out_reverse, *state_reverse))


@each_cell
def test_all_lengths_full_is_dense(cell, variant, P):
    case = make_case(cell, variant, P=P)
    same_bits(infer(cell, case), infer(cell, case | {"lengths": [5, 5, 5]}))


@each_direction
@each_cell
def test_nan_and_inf_stay_in_their_sequence(cell, variant, P, reverse):
    case = make_case(cell, variant, P=P, lengths=[5, 4, 3], reverse=reverse)
    poisoned = case | {"x": case["x"].copy()}
    poisoned["x"][1, 0], poisoned["x"][2, 2] = np.nan, np.inf
    results, tape = train(cell, case)
    poisoned_results, poisoned_tape = train(cell, poisoned)
    same_bits([a[..., 1, :] for a in results], [a[..., 1, :] for a in poisoned_results])
    assert np.isnan(poisoned_results[1][0]).any()
    grad_out = {"grad_out": np.ones_like(results[0])}
    same_bits([backward(tape, grad_out).x[:, 1]], [backward(poisoned_tape, grad_out).x[:, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_cell
def test_huge_values_saturate_without_a_warning(cell, variant, P, dtype):
    case = make_case(cell, variant, P=P, dtype=dtype)
    for scale in (1e4, -1e4):
        results, tape = train(cell, case | {"x": (scale * case["x"]).astype(dtype)})
        grads = backward(tape, {"grad_out": np.ones_like(results[0])})
        assert all(np.isfinite(a).all() and a.dtype == dtype for a in (*results, *arrays_of(grads).values()))


def test_sigmoid():
    a = np.array([-np.inf, -1e4, -90, -20, 0, 20, 1e4, np.inf, np.nan], np.float32)
    with np.errstate(over="ignore"):
        reference.sigmoid(a)
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, [0, 0, 0, 2.0611537e-9, 0.5, 1, 1, 1, np.nan], rtol=3e-7, atol=1e-38)


# -- backward --------------------------------------------------------------------------------------------------------


def loss_gradients(results, lengths, seed=1):
    """The gradients of a random linear loss; NaN for out past the lengths, for nobody to read."""
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(a.shape) for a in results]
    if lengths is not None:
        for row, length in enumerate(lengths):
            grads[0][length:, row] = np.nan
    return {f"grad_{name}": grad for name, grad in zip(("out", "h_n", "c_n"), grads, strict=False)}


def oracle_gradients(cell, case, grads):
    """By complex step: of every array given, and of the initial states if they are not."""
    _, B, _ = case["x"].shape
    H = case["w_ih"].shape[0] // {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    h0, c0 = (case["state0"] or (None, None)) if cell == "lstm" else (case["h0"], None)
    arrays = {name: a for name, a in case.items() if isinstance(a, np.ndarray) and name not in ("lengths", "h0")}
    arrays["h0"] = np.zeros((B, case["w_hh"].shape[1])) if h0 is None else h0
    if cell == "lstm":
        arrays["c0"] = np.zeros((B, H)) if c0 is None else c0

    def loss(arrays):
        arguments = case | arrays
        if cell == "lstm":
            arguments["state0"] = arguments.pop("h0"), arguments.pop("c0")
        results = dict(zip(NAMES[cell], oracle.CELLS[cell](**arguments), strict=True))
        return sum(np.nansum(grad * results[name.removeprefix("grad_")]) for name, grad in grads.items())

    return oracle.numerical_gradient(loss, arrays)


def check_gradients(cell, case, only=None):
    results, tape = train(cell, case)
    grads = loss_gradients(results, case["lengths"])
    grads = {name: grad for name, grad in grads.items() if only is None or name in only}
    actual, expected = arrays_of(backward(tape, grads)), oracle_gradients(cell, case, grads)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == np.float64 and actual[name].shape == value.shape
        np.testing.assert_allclose(actual[name], value, rtol=1e-11, atol=1e-12, err_msg=name)


SMALL = {"T": 3, "B": 3, "I": 2, "H": 3}


@pytest.mark.parametrize("lengths", [None, [2, 0, 3]], ids=["dense", "ragged"])
@each_direction
@each_cell
def test_gradients(cell, variant, P, reverse, lengths):
    check_gradients(cell, make_case(cell, variant, P=P, lengths=lengths, reverse=reverse, **SMALL))


@pytest.mark.parametrize("part", PARTS[1:])
@each_cell
def test_gradients_without_some_biases_and_states(cell, variant, P, part):
    check_gradients(cell, make_case(cell, variant, P=P, bias=part, state=part, lengths=[3, 1, 2], **SMALL))


@pytest.mark.parametrize("only", [(), ("grad_out",), ("grad_h_n",), ("grad_c_n",)], ids=str)
@each_cell
def test_gradients_of_part_of_the_results(cell, variant, P, only):
    if "grad_c_n" in only and cell != "lstm":
        only = ("grad_out", "grad_h_n")
    check_gradients(cell, make_case(cell, variant, P=P, lengths=[2, 0, 3], **SMALL), only)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 2, 3, 2), (2, 1, 1, 3), (4, 2, 1, 1)], ids=str)
@each_cell
def test_gradients_of_small_sizes(cell, variant, P, sizes):
    T, B, I, H = sizes
    check_gradients(cell, make_case(cell, variant, T=T, B=B, I=I, H=H, P=P))


@pytest.mark.parametrize("lengths", [None, [2, 5, 0]], ids=["dense", "ragged"])
@each_direction
@each_cell
def test_float32_gradients_are_float64_s(cell, variant, P, reverse, lengths):
    case = make_case(cell, variant, P=P, dtype=np.float32, lengths=lengths, reverse=reverse)

    def wide(value):
        if isinstance(value, tuple):
            return tuple(map(wide, value))
        return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value

    results, tape = train(cell, case)
    wide_results, wide_tape = train(cell, {name: wide(value) for name, value in case.items()})
    grads = loss_gradients(wide_results, lengths)
    narrow_grads = {name: grad.astype(np.float32) for name, grad in grads.items()}
    actual, expected = arrays_of(backward(tape, narrow_grads)), arrays_of(backward(wide_tape, grads))
    agree(results, wide_results, np.float32)
    assert actual.keys() == expected.keys()
    agree(actual.values(), expected.values(), np.float32)


@each_cell
def test_backward_twice_is_backward_once(cell, variant, P):
    case = make_case(cell, variant, P=P, lengths=[3, 0, 5])
    results, tape = train(cell, case)
    grads = loss_gradients(results, case["lengths"])
    before = copy.deepcopy((tape.saved, case, grads))
    once = arrays_of(backward(tape, grads))
    np.testing.assert_equal((tape.saved[1:], case, grads), (before[0][1:], *before[1:]))
    for result in results:
        result.fill(np.nan)  # they are the caller's
    twice = arrays_of(backward(tape, grads))
    same_bits(once.values(), twice.values())
    assert not any(np.shares_memory(a, b) for a, b in zip(once.values(), twice.values(), strict=True))


def test_backward_wants_its_own_tape():
    tape = train("gru", make_case("gru"))[1]
    with pytest.raises(ValueError, match=r"^tape: needs the tape that lstm_forward returned, got gru_forward's$"):
        reference.lstm_backward(tape)
    with pytest.raises(TypeError, match=r"^tape: needs the tape that rnn_forward returned, got None$"):
        reference.rnn_backward(None)


# -- the backend interface -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [2, 5, 0]], ids=["dense", "ragged"])
@each_direction
@each_cell
def test_forward_writes_into_a_view(cell, variant, P, reverse, lengths):
    (out, *state), tape = train(cell, make_case(cell, variant, P=P, lengths=lengths, reverse=reverse))
    T, B, size = out.shape
    wide = np.full((B, T, 2 * size), 7.0)
    view = wide.swapaxes(0, 1)[:, :, size:]
    result, h_n, c_n, saved = reference.forward(tape.call, False, view, reference.pack(tape.call))
    assert result is view and saved is None
    same_bits((np.ascontiguousarray(view), h_n), (out, state[0]))
    assert (c_n is not None) == (cell == "lstm") and (wide[:, :, :size] == 7).all()


@pytest.mark.parametrize("bias", ["both", "none"])
@each_cell
def test_backward_writes_into_arrays(cell, variant, P, bias):
    results, tape = train(cell, make_case(cell, variant, P=P, bias=bias))
    checked = (*loss_gradients(results, None).values(), None)[:3]
    expected = reference.backward(tape, *checked)
    targets = {name: np.full_like(a, 7) for name, a in arrays_of(expected).items() if name[0] in "wb"}
    unused = {name: None for name in Grads.__slots__ if name not in targets}
    actual = reference.backward(tape, *checked, into=Grads(**targets, **unused))
    assert all(getattr(actual, name) is target for name, target in targets.items())
    same_bits(arrays_of(actual).values(), arrays_of(expected).values())


@pytest.mark.parametrize("L", [1, 3])
@each_cell
def test_stepper_is_the_whole_sequence(cell, variant, P, L):
    cases_of_layers = [make_case(cell, variant, I=P or 5, P=P, seed=seed) for seed in range(L)]
    out, calls, h_n, c_n = cases_of_layers[0]["x"], [], [], []
    for case in cases_of_layers:
        (out, h, *c), tape = train(cell, case | {"x": out})
        calls.append(tape.call)
        h_n.append(h)
        c_n += c
    weights = [(c.w_ih, c.w_hh, c.b_ih, c.b_hh, c.w_hr) for c in calls]
    stepper = reference.Stepper(cell, variant, weights, B=3)
    assert not stepper.state()[0].any()
    start = np.stack([c.h0 for c in calls]), np.stack([c.c0 for c in calls]) if c_n else None
    stepper.assign(*start)
    y = np.empty_like(out[0])
    for x_t, out_t in zip(cases_of_layers[0]["x"], out, strict=True):
        stepper(x_t, y)
        np.testing.assert_allclose(y, out_t, rtol=1e-12, atol=1e-12)
    h, c = stepper.state()
    np.testing.assert_allclose(h, np.stack(h_n), rtol=1e-12, atol=1e-12)
    assert (c is None) == (cell != "lstm")
    if c is not None:
        np.testing.assert_allclose(c, np.stack(c_n), rtol=1e-12, atol=1e-12)
    h[...] = 0  # a copy: the stepper's own stays
    assert stepper.state()[0].any()
    stepper.assign(None, None)
    assert not any(part.any() for part in stepper.state() if part is not None)


def test_reference_has_functional_s_signatures():
    for name in [cell + suffix for cell in NAMES for suffix in ("", "_forward", "_backward")]:
        ours, theirs = (inspect.signature(getattr(m, name)).parameters.values() for m in (reference, functional))
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


def test_gradients_of_nan_pass_relu():
    w = np.ones((1, 1))
    *_, tape = reference.rnn_forward(np.full((1, 1, 1), np.nan), w, w, nonlinearity="relu")
    assert reference.rnn_backward(tape, np.ones((1, 1, 1))).x == 1


def test_a_stepper_is_as_silent():
    stepper = reference.Stepper("lstm", "", LSTM(1, 1, dtype=np.float64, seed=0)._stack.weights, 1)
    with np.errstate(all="raise"):
        for x in (1e300, -1e300):
            stepper(np.full((1, 1), x), np.empty((1, 1)))


@changes_in_place
def test_a_projection_that_changes_its_shape_reaches_no_tape():
    x, w, w_hr = np.ones((4, 2, 2)), np.ones((12, 2)), np.ones((2, 3))
    out, _, tape = reference.lstm_forward(x, w, w, w_hr=w_hr)
    before = reference.lstm_backward(tape, out).w_hr
    w_hr.shape = 1, -1
    np.testing.assert_array_equal(reference.lstm_backward(tape, out).w_hr, before)


def test_an_empty_batch_may_have_any_number_of_steps():
    x, w = np.empty((2**40, 0, 3), np.float32), np.ones((3, 3), np.float32)
    out, h_n, tape = reference.rnn_forward(x, w, w)
    assert out.shape == x.shape and h_n.shape == (0, 3)
    grads = reference.rnn_backward(tape, out)
    assert grads.x.shape == x.shape and not grads.w_hh.any()
