# SPDX-License-Identifier: MIT
"""The compiled kernels against the reference, on each instruction set: the third link of the chain of trust.

T time steps, B batch, I input size, H hidden size, P size of the projected h, G gates.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import PARTS, WIDTHS, cases, make_case
from test_reference import oracle_gradients
from trials import (
    backward,
    call_of,
    close,
    each_cell,
    each_direction,
    each_dtype,
    each_lengths,
    everything,
    forward,
    losses_of,
    same_bits,
)

import fastrnn
from fastrnn import _kernels, native, reference
from fastrnn._records import GATES, Grads

pytestmark = pytest.mark.usefixtures("isa")


def check(cell, case, about=""):
    close(everything(native, cell, case), everything(reference, cell, case), about)


# -- every option and size -------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(cases(max_T=7, max_B=14))
def test_a_case_of_any_kind(drawn):
    cell, case = drawn
    actual, expected = everything(native, cell, case), everything(reference, cell, case)
    if case.get("nonlinearity") == "relu" and case["x"].dtype == np.float32:
        # a rounding may move a unit across the kink, which changes its gradients wholly
        actual, expected = ({name: a for name, a in d.items() if "grad" not in name} for d in (actual, expected))
    close(actual, expected)


@each_cell
@each_dtype
def test_every_option_agrees_with_the_reference(cell, variant, P, dtype):
    lengths = (None, (4, 4, 2, 0), (2, 0, 5, 3), (3, 3, 3, 3))
    for bias, state, ragged, reverse in itertools.product(PARTS, PARTS, lengths, (False, True)):
        options = {"bias": bias, "state": state, "lengths": ragged, "reverse": reverse}
        check(cell, make_case(cell, variant, B=4, P=P, dtype=dtype, **options), str(options))


@each_cell
@each_dtype
def test_widths_around_the_vectors(cell, variant, P, dtype):
    for I, H in zip((*WIDTHS[3:], *WIDTHS[:3], 64, 1), (*WIDTHS, 1, 64), strict=True):
        case = make_case(cell, variant, B=2, I=I, H=H, P=P and I, dtype=dtype, lengths=(5, 3))
        check(cell, case, f"I = {I}, H = {H}")


@each_cell
@each_dtype
def test_batches_around_the_tiles(cell, variant, P, dtype):
    for B in range(1, 20):
        check(cell, make_case(cell, variant, T=3, B=B, I=7, H=17, P=P, dtype=dtype, lengths="ragged"), f"B = {B}")


# -- chunks of time --------------------------------------------------------------------------------------------------


@each_lengths
@each_dtype
@each_cell
def test_many_steps(cell, variant, P, dtype, ragged):
    """Several chunks of the hoisted projection, many of backpropagation."""
    lengths, reverse = "ragged" if ragged else None, not ragged
    check(cell, make_case(cell, variant, T=300, B=8, I=5, H=33, P=P, dtype=dtype, lengths=lengths, reverse=reverse))


@each_lengths
@each_dtype
@each_cell
def test_wide_batches(cell, variant, P, dtype, ragged):
    """So many rows and units that a chunk of the hoisted projection is a few steps."""
    lengths = "ragged" if ragged else None
    check(cell, make_case(cell, variant, T=9, B=60, I=3, H=400 // GATES[cell], P=P, dtype=dtype, lengths=lengths))


@each_lengths
def test_a_wide_layer(ragged):
    """So many units that a chunk is no longer than it must be for a panel of weights to be worth reading."""
    check("lstm", make_case("lstm", T=53, B=5, I=3, H=700, lengths=(53, 53, 50, 25, 0) if ragged else None))


def test_a_large_layer():
    """So large that weights are brought for several steps at once, and that tiles ask for what later ones read."""
    check("lstm", make_case("lstm", T=44, B=12, I=512, H=1024))


@pytest.mark.parametrize(("T", "B"), [(1, 512), (3, 512), (2, 513), (2, 1200), (5, 200), (513, 1), (514, 2)], ids=str)
@each_lengths
@each_cell
def test_chunks_of_backpropagation(cell, variant, P, ragged, T, B):
    lengths = "ragged" if ragged else None
    check(cell, make_case(cell, variant, T=T, B=B, I=3, H=9, P=P, lengths=lengths, reverse=ragged))


@pytest.mark.parametrize(("T", "B", "length"), [(2, 513, 1), (9, 600, 7)], ids=str)
@each_cell
def test_steps_that_no_sequence_has(cell, variant, P, T, B, length):
    """They are of no chunk of their own, though the rows of the step before fill one."""
    check(cell, make_case(cell, variant, T=T, B=B, I=3, H=9, P=P, lengths=(length,) * B))


@each_lengths
@each_cell
def test_many_inputs(cell, variant, P, ragged):
    """So many that the way back makes their gradients some columns and rows at a time, the last of either fewer."""
    for I, H in ((1500, 9), (90, 130)):
        lengths = (70, 3, 0) if ragged else None
        check(cell, make_case(cell, variant, T=70, B=3, I=I, H=H, P=P, lengths=lengths, dtype=np.float32))


@pytest.mark.parametrize("backend", [native, reference], ids=["native", "reference"])
@each_lengths
@each_direction
@each_cell
def test_gradients_that_nobody_wants(cell, variant, P, reverse, ragged, backend):
    """They are None, and make no difference to the others."""
    lengths = (40, 3, 17, 0, 40, 39) * 6 if ragged else None
    case = make_case(cell, variant, T=40, B=36, I=5, H=9, P=P, lengths=lengths, reverse=reverse)
    results, tape = forward(backend, call_of(cell, case))
    losses = losses_of(results, lengths)
    every = backward(tape, losses)
    for of_x, of_weights in itertools.product((False, True), repeat=2):
        grads = backward(tape, losses, of_x=of_x, of_weights=of_weights)
        dropped = set() if of_x else {"grad_x"}
        dropped |= set() if of_weights else {name for name in every if name[5:6] in "wb"}
        assert dropped.isdisjoint(grads)
        same_bits(grads, {name: array for name, array in every.items() if name not in dropped})


# -- arrays of any layout --------------------------------------------------------------------------------------------


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    room = np.empty(a.nbytes + 1, np.uint8)
    there = room[1:].view(a.dtype).reshape(a.shape)
    there[...] = a
    return there


def field_of_records(a):
    records = np.empty(a.shape, [("flag", "i1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


LAYOUTS = {
    "every-other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "upside-down": lambda a: a[::-1].copy()[::-1],
    "fortran": lambda a: a.copy("F"),
    "batch-first": lambda a: a.swapaxes(0, -2).copy().swapaxes(0, -2) if a.ndim == 3 else a,
    "wider": lambda a: np.concatenate([a, a], axis=-1)[..., : a.shape[-1]],
    "read-only": read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "swapped-back": lambda a: a.view(a.dtype.newbyteorder().newbyteorder()),  # says "<" where others say "="
    "unaligned": unaligned,
    "field-of-records": field_of_records,
}


def laid_out(value, layout):
    """An argument of a case, its arrays of floats laid out in another way."""
    if isinstance(value, tuple):
        return tuple(laid_out(part, layout) for part in value)
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return layout(value) if floats else value


@each_lengths
@each_dtype
@each_cell
def test_the_layout_of_arrays_is_all_the_same(cell, variant, P, dtype, ragged):
    case = make_case(cell, variant, I=5, H=9, P=P, dtype=dtype, lengths=(2, 5, 0) if ragged else None)
    results, tape = forward(native, call_of(cell, case))
    losses = losses_of(results, case["lengths"])
    expected = results | backward(tape, losses)
    for name, layout in LAYOUTS.items():
        other, other_losses = ({key: laid_out(a, layout) for key, a in d.items()} for d in (case, losses))
        same_bits(everything(native, cell, other, other_losses), expected, name)


@each_dtype
@each_cell
def test_broadcast_arrays_are_taken(cell, variant, P, dtype):
    case = make_case(cell, variant, I=5, H=9, P=P, dtype=dtype)
    results, _ = forward(native, call_of(cell, case))
    losses = losses_of(results)

    def spread(a, axis):
        return np.broadcast_to(a.take([0], axis), a.shape)

    for axis in (0, 1, 2):
        wide = case | {"x": spread(case["x"], axis), "w_hh": spread(case["w_hh"], 0), "b_ih": spread(case["b_ih"], 0)}
        wide_losses = losses | {"grad_out": spread(losses["grad_out"], axis)}
        copies, copied_losses = ({key: laid_out(a, np.array) for key, a in d.items()} for d in (wide, wide_losses))
        same_bits(everything(native, cell, wide, wide_losses), everything(native, cell, copies, copied_losses))


def test_lengths_of_any_integer_type():
    case = make_case("gru", "reset_after", B=4, lengths=(2, 0, 5, 3))
    expected = everything(native, "gru", case)
    for kind in ("i1", "u1", ">i4", "<u8", list, tuple):
        lengths = case["lengths"].astype(kind) if isinstance(kind, str) else kind(case["lengths"])
        same_bits(everything(native, "gru", case | {"lengths": lengths}), expected)
    same_bits(everything(native, "gru", case | {"lengths": np.repeat(case["lengths"], 2)[::2]}), expected)


# -- the backend interface -------------------------------------------------------------------------------------------


@each_lengths
@each_direction
@each_dtype
@each_cell
def test_results_into_views(cell, variant, P, dtype, reverse, ragged):
    """As layers ask for them: one half of a batch-first array, and weight gradients side by side in one array."""
    case = make_case(cell, variant, H=9, P=P, dtype=dtype, lengths=(2, 5, 0) if ragged else None, reverse=reverse)
    call = call_of(cell, case)
    expected, tape = forward(native, call)
    losses = losses_of(expected, case["lengths"])
    expected |= backward(tape, losses)
    for half in (0, 1):
        wide = np.full((call.B, call.T, 2, call.P), 7, dtype)
        view = wide.swapaxes(0, 1)[:, :, half]
        results, tape = forward(native, call, out=view)
        flat, into = side_by_side(call)
        grads = backward(tape, losses, into=into)
        assert results["out"] is view and all(
            np.shares_memory(flat, grads[f"grad_{name}"]) for name in ("w_ih", "w_hh")
        )
        same_bits(results | grads, expected)
        assert np.isfinite(flat).all() and (wide[:, :, 1 - half] == 7).all()


def side_by_side(call):
    """One array with room for the gradients of all weights and biases, filled with NaN, and the Grads of its parts."""
    weights = {name: getattr(call, name) for name in ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")}
    sizes = [0 if w is None else w.size for w in weights.values()]
    flat = np.full(sum(sizes), np.nan, call.dtype)
    parts = zip(weights.items(), np.split(flat, np.cumsum(sizes)[:-1]), strict=True)
    into = {name: None if w is None else part.reshape(w.shape) for (name, w), part in parts}
    return flat, Grads(x=None, h0=None, **into)


@each_lengths
@each_dtype
@each_cell
def test_weights_packed_beforehand_give_the_same_bits(cell, variant, P, dtype, ragged):
    call = call_of(cell, make_case(cell, variant, H=9, P=P, dtype=dtype, lengths=(2, 5, 0) if ragged else None))
    packed = native.pack(call)
    for training in (False, True):
        same_bits(forward(native, call, training, packed=packed)[0], forward(native, call)[0])


@pytest.mark.parametrize("given", PARTS)
@each_dtype
@each_cell
def test_a_lone_step_has_the_bits_of_packed_weights(cell, variant, P, dtype, given):
    for I, H in ((3, 1), (13, 50), (70, 33)):
        call = call_of(cell, make_case(cell, variant, T=1, B=1, I=I, H=H, P=P, dtype=dtype, bias=given, state=given))
        state = [None if part is None else part[None] for part in (call.h0, call.c0)]
        arguments = call.x, tuple(state) if cell == "lstm" else state[0], False
        packed = native.pack(call)
        (out, lone), (expected, end) = (native.serve(call, by, *arguments) for by in (None, packed))
        for a, b in zip((out, *lone), (expected, *end), strict=True):
            assert a.dtype == b.dtype and np.array_equal(a, b)
        own = forward(native, call, False)[0]
        room = np.full((1, 1, 2 * call.P), np.nan, dtype)  # of two directions
        same_bits(own, forward(native, call, False, packed=packed)[0])
        same_bits(own, forward(native, call, False, out=room[..., : call.P])[0])
        assert np.isnan(room[..., call.P :]).all()


@each_dtype
@each_cell
def test_packed_weights_of_another_instruction_set_are_refused(cell, variant, P, dtype, isa):
    call = call_of(cell, make_case(cell, variant, P=P, dtype=dtype))
    packed = native.pack(call)
    stepper = native.Stepper(cell, variant, [(call.w_ih, call.w_hh, call.b_ih, call.b_hh, call.w_hr)], call.B)
    step = call.x[0], np.empty((call.B, call.P), dtype)
    for other in {name for name, runs in _kernels.instruction_sets().items() if runs} - {isa}:
        _kernels.use(other)
        try:
            with pytest.raises(RuntimeError, match="made for another instruction set"):
                native.forward(call, False, packed=packed)
            with pytest.raises(RuntimeError, match="made for another instruction set"):
                stepper(*step)
        finally:
            _kernels.use(isa)
    native.forward(call, False, packed=packed)
    stepper(*step)


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="needs an instruction set usable here, got 'mmx'"):
        _kernels.use("mmx")


# -- numerical derivatives -------------------------------------------------------------------------------------------

TINY = {
    "dense": {},
    "ragged": {"lengths": (2, 0, 3)},
    "reverse": {"reverse": True},
    "reverse-ragged": {"lengths": (1, 3, 2), "reverse": True},
    "first": {"bias": "first", "state": "first"},
    "second": {"bias": "second", "state": "second"},
    "none": {"bias": "none", "state": "none", "lengths": (3, 1, 2)},
    "one": {"T": 1, "B": 1, "I": 1, "H": 1},
    "one-step": {"T": 1},
    "one-row": {"B": 1},
    "one-unit": {"H": 1},
}


@functools.cache
def numerical(cell, variant, P, option):
    """A tiny case, its losses and its gradients by complex step, for all instruction sets."""
    case = make_case(cell, variant, P=P, **{"T": 3, "B": 3, "I": 2, "H": 2} | TINY[option])
    losses = losses_of(forward(reference, call_of(cell, case))[0], case["lengths"])
    return case, losses, {f"grad_{name}": a for name, a in oracle_gradients(cell, case, losses).items()}


@pytest.mark.parametrize("option", TINY)
@each_cell
def test_gradients_are_numerical_derivatives(cell, variant, P, option):
    case, losses, expected = numerical(cell, variant, P, option)
    _, tape = forward(native, call_of(cell, case))
    close(backward(tape, losses), expected)


def test_every_second_of_two_columns():
    x = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    w = np.ones((4, 2), np.float32), np.ones((4, 4), np.float32)
    found, expected = (fastrnn.rnn(part, *w)[0] for part in (x[:, :, ::2], x[:, :, ::2].copy()))
    np.testing.assert_array_equal(found, expected)
