# SPDX-License-Identifier: MIT
"""What fastrnn promises about bits, on each instruction set: a sequence's depend on itself and the weights alone.

Not on the batch around it, on padding, on where it is split, on threads, nor on the way it is run.
T time steps, B batch, I input size, H hidden size, P size of the projected h, L layers.
"""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import IN_USE, USABLE
from strategies import WIDTHS, make_case
from test_layers import KINDS, arguments, by_hand, make, parts
from trials import (
    CELLS,
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

from fastrnn import _kernels, _unroll, functional, native, reference
from fastrnn._records import Ragged

each_kind = pytest.mark.parametrize("kind", KINDS)
on_each_set = pytest.mark.usefixtures("isa")
by_the_api = pytest.mark.usefixtures("isa", "compiled")

OF_ROWS = {"out", "h_n", "c_n", "grad_x", "grad_h0", "grad_c0"}  # the axis of rows is their last but one


def case_of_rows(case, rows):
    """The case of some of its sequences."""

    def pick(a):
        return None if a is None else a[rows]

    state = {"state0": tuple(map(pick, case["state0"]))} if "state0" in case else {"h0": pick(case["h0"])}
    return case | state | {"x": case["x"][:, rows], "lengths": pick(case["lengths"])}


def of_rows(arrays, rows):
    """What belongs to some sequences, of results, gradients or losses."""
    return {name: a[..., rows, :] for name, a in arrays.items() if name in OF_ROWS or name.endswith(("out", "_n"))}


def run(cell, case):
    """The losses too, for another run to have the same."""
    results, tape = forward(native, call_of(cell, case))
    losses = losses_of(results, case["lengths"])
    return results | backward(tape, losses), losses


# -- alone = in any batch --------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_alone_is_in_any_batch(cell, variant, P, dtype, reverse, ragged):
    lengths = "ragged" if ragged else None
    for B, I, H in ((2, 1, 1), (7, 5, 9), (13, 17, 33), (9, 33, 16)):
        case = make_case(cell, variant, B=B, I=I, H=H, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
        together, losses = run(cell, case)
        shuffled = np.random.default_rng(0).permutation(B)
        for rows in (*([row] for row in range(B)), shuffled, shuffled[: B // 2]):
            alone = everything(native, cell, case_of_rows(case, rows), of_rows(losses, rows))
            same_bits(of_rows(alone, slice(None)), of_rows(together, rows), f"of {rows} among {B}")


@on_each_set
@each_direction
@each_dtype
@each_cell
def test_alone_needs_no_lengths(cell, variant, P, dtype, reverse):
    case = make_case(cell, variant, B=4, I=5, H=9, P=P, dtype=dtype, lengths=(3, 5, 0, 1), reverse=reverse)
    together, losses = run(cell, case)
    for row, length in enumerate(case["lengths"]):
        alone, its_losses = case_of_rows(case, [row]), of_rows(losses, [row])
        alone |= {"x": alone["x"][:length], "lengths": None}
        its_losses |= {"grad_out": its_losses["grad_out"][:length]}
        expected = of_rows(together, [row])
        expected |= {name: expected[name][:length] for name in ("out", "grad_x")}
        same_bits(of_rows(everything(native, cell, alone, its_losses), slice(None)), expected, f"of row {row}")


# -- padded = unpadded -----------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_padded_is_unpadded(cell, variant, P, dtype, reverse, ragged):
    """In the gradients of the weights too."""
    lengths = "ragged" if ragged else None
    for T, B in ((5, 3), (9, 60), (40, 20), (2, 300)):
        case = make_case(cell, variant, T=T, B=B, I=5, H=9, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
        expected, losses = run(cell, case)
        lengths_ = np.full(B, T) if case["lengths"] is None else case["lengths"]
        padded = everything(
            native,
            cell,
            case | {"x": longer(case["x"], np.nan), "lengths": lengths_},
            losses | {"grad_out": longer(losses["grad_out"], np.nan)},
        )
        expected |= {name: longer(expected[name], 0) for name in ("out", "grad_x")}
        same_bits(padded, expected, f"T = {T}, B = {B}")


def longer(a, filling, by=7):
    return np.concatenate([a, np.full((by, *a.shape[1:]), filling, a.dtype)])


@on_each_set
@each_direction
@each_dtype
@each_cell
def test_padding_is_never_read(cell, variant, P, dtype, reverse):
    case = make_case(cell, variant, T=7, B=5, I=5, H=9, P=P, dtype=dtype, lengths=(3, 7, 0, 1, 7), reverse=reverse)
    losses = run(cell, case)[1]
    past = np.isnan(case["x"])
    found = []
    for filling in (0, np.inf, np.nan):
        results, tape = forward(
            native,
            call_of(cell, case | {"x": np.where(past, filling, case["x"]).astype(dtype)}),
            out=np.full_like(losses["grad_out"], np.nan),
        )
        grad_out = np.where(np.isnan(losses["grad_out"]), filling, losses["grad_out"]).astype(dtype)
        found.append(results | backward(tape, losses | {"grad_out": grad_out}))
    for other in found[1:]:
        same_bits(other, found[0])
    assert all(np.isfinite(a).all() for a in found[0].values())
    assert not found[0]["out"][3:, 0].any() and not found[0]["grad_x"][1:, 3].any()


# -- streamed = whole ------------------------------------------------------------------------------------------------


def steps(cell, case, start, stop, state):
    """Inference over the steps start..stop-1 of a case, from the state that the steps before them led to."""
    case = case | {"x": case["x"][start:stop]}
    if case["lengths"] is not None:
        case["lengths"] = np.clip(case["lengths"] - start, 0, stop - start)
    if state is not None:
        case |= {"state0": state} if cell == "lstm" else {"h0": state[0]}
    out, *state = forward(native, call_of(cell, case), training=False)[0].values()
    return out, tuple(state)


@on_each_set
@each_lengths
@each_dtype
@each_cell
def test_split_anywhere_is_whole(cell, variant, P, dtype, ragged):
    lengths = "ragged" if ragged else None
    for T, B, H, splits in ((6, 3, 17, range(7)), (300, 8, 33, (1, 123, 299))):
        case = make_case(cell, variant, T=T, B=B, I=5, H=H, P=P, dtype=dtype, lengths=lengths)
        whole, *end = steps(cell, case, 0, T, None)
        for split in splits:
            first, state = steps(cell, case, 0, split, None)
            second, *its_end = steps(cell, case, split, T, state)
            joined = {"out": np.concatenate([first, second])} | dict(enumerate(its_end[0]))
            same_bits(joined, {"out": whole} | dict(enumerate(end[0])), f"split at {split}")


@by_the_api
@each_dtype
@each_kind
def test_streamed_is_whole(kind, dtype):
    """Also: the fused product [x; h] of a stream's step is the hoisted one of a whole sequence."""
    for L, B in ((1, 1), (1, 7), (3, 1), (3, 13)):
        layer = make(kind, dtype=dtype, num_layers=L)
        x, state = arguments(layer, rows=B)
        out, end = layer(x, state)
        for split in (0, 2):
            begun, state_there = layer(x[:split], state)
            stream = layer.stream(B)
            stream.state = state_there
            streamed = np.stack([stream(x_t) for x_t in x[split:]])
            expected = {"out": out} | dict(enumerate(parts(end)))
            actual = {"out": np.concatenate([begun, streamed])} | dict(enumerate(parts(stream.state)))
            same_bits(actual, expected, f"L = {L}, B = {B}")


# -- packed or padded --------------------------------------------------------------------------------------------------


def packed(call):
    """The same call of packed rows, and what packs an array (T, B, ·) likewise."""
    alive = call.ragged.alive

    def rows(a):
        return np.concatenate([a[t, :n] for t, n in enumerate(alive)])

    return replace(call, x=rows(call.x), ragged=Ragged.packed(alive)), rows


@on_each_set
@each_direction
@each_dtype
@each_cell
def test_packed_is_padded(cell, variant, P, dtype, reverse, threads):
    for lengths, H in (((6, 6, 5, 3, 3, 1, 1), 19), ((40, 31, 30, 2), 33)):
        T, B = lengths[0], len(lengths)
        call = call_of(cell, make_case(cell, variant, T, B, 7, H, P=P, dtype=dtype, lengths=lengths, reverse=reverse))
        results, tape = forward(native, call)
        losses = losses_of(results)
        expected = results | backward(tape, losses)
        call, rows = packed(call)
        expected |= {name: rows(expected[name]) for name in ("out", "grad_x")}
        losses["grad_out"] = rows(losses["grad_out"])
        for n in (1, 2, 3):
            threads(n)
            results, tape = forward(native, call)
            same_bits(results | backward(tape, losses), expected, f"lengths = {lengths} on {n} threads")
        results, tape = forward(reference, call)
        close(results | backward(tape, losses), expected, f"lengths = {lengths}")


# -- any number of threads -------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_any_number_of_threads(cell, variant, P, dtype, reverse, ragged, threads):
    lengths = "ragged" if ragged else None
    # Of a lone row the units are shared; 300 steps are several chunks.
    for T, B, I, H in ((5, 1, 5, 9), (9, 1, 5, 130), (300, 1, 5, 130), (5, 3, 70, 33), (40, 11, 5, 77)):
        case = make_case(cell, variant, T=T, B=B, I=I, H=H, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
        threads(1)
        alone = everything(native, cell, case)
        for n, a_row in itertools.product(range(2, 6), (0, 1 << 40)):  # shared by units, then, of several, by rows
            threads(n)
            _unroll.set_shared_weights(a_row)
            same_bits(everything(native, cell, case), alone, f"B = {B} on {n} threads, {a_row} weights a row")


@pytest.mark.parametrize("H", [77, 80])
@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_any_depth_of_parts(cell, variant, P, dtype, reverse, ragged, H, threads, near_bytes):
    """In which W_hh and W_ih are packed for the way back; of whole vectors W_hh in the place of its gradient."""
    lengths = "ragged" if ragged else None
    case = make_case(cell, variant, T=3, B=14, I=5, H=H, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
    threads(1)
    whole = everything(native, cell, case)
    for n, times in itertools.product((1, 3), (1, 2, 4)):
        threads(n)
        near_bytes(times * dz_bytes(case))
        same_bits(everything(native, cell, case), whole, f"on {n} threads, room for {times} times dz")


def dz_bytes(case):
    """Of one step."""
    return case["x"].shape[1] * case["w_hh"].shape[0] * case["x"].itemsize


@by_the_api
@each_kind
def test_layers_on_any_number_of_threads(kind, threads):
    layer = make(kind, "both")
    x, state = arguments(layer, rows=7)
    expected = None
    for n in range(1, 6):
        threads(n)
        out, end, tape = layer.forward(x, state, [3, 5, 0, 1, 5, 4, 2])
        grads = layer.backward(tape, out, end)
        found = {"out": out, "flat": grads.flat, "x": grads.x}
        found |= dict(enumerate((*parts(end), *parts(grads.state))))
        expected = expected or found
        same_bits(found, expected, f"on {n} threads")


SHARED = """
import os
import numpy as np
from fastrnn import _check, _kernels, _unroll, native

_kernels.use({isa!r})
x, w_ih, w_hh = (np.ones(shape, np.float32) for shape in ((4, 8, 3), (3, 3), (3, 3)))
_unroll.set_threads(5)
found = []
for flops in (1e9, 0):
    _unroll.set_shared_flops(flops)
    before = len(os.listdir("/proc/self/task"))
    native.forward(_check.rnn(x, w_ih, w_hh, None, None, None, "tanh", None, False), False)
    found.append(len(os.listdir("/proc/self/task")) - before)
print(found)
"""


def test_wide_batches_of_little_input_on_threads(threads):
    """Where a thread's workspace is mostly states."""
    case = make_case("gru", "reset_before", T=3, B=200, I=1, H=64, P=None, dtype=np.float64)
    threads(1)
    alone = everything(native, "gru", case)
    for n in (2, 3):
        threads(n)
        same_bits(everything(native, "gru", case), alone, f"{n} threads")


def test_the_work_is_shared_indeed():
    """Threads come with the first call that is shared, not with one that is too small."""
    script = SHARED.format(isa=IN_USE)
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout == b"[0, 4]\n"


# -- one way is another ----------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_dtype
@each_cell
def test_reverse_is_flipped(cell, variant, P, dtype, ragged):
    T, B = 6, 5
    lengths = (3, 6, 0, 1, 6) if ragged else None

    def flipped(a):
        result = a.copy()
        for row, length in enumerate(lengths or [T] * B):
            result[:length, row] = a[:length, row][::-1]
        return result

    case = make_case(cell, variant, T=T, B=B, I=5, H=17, P=P, dtype=dtype, lengths=lengths)
    expected, losses = run(cell, case)
    expected |= {name: flipped(expected[name]) for name in ("out", "grad_x")}
    losses |= {"grad_out": flipped(losses["grad_out"])}
    same_bits(everything(native, cell, case | {"x": flipped(case["x"]), "reverse": True}, losses), expected)


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_backward_twice_is_once(cell, variant, P, dtype, reverse, ragged):
    lengths = "ragged" if ragged else None
    case = make_case(cell, variant, T=40, B=9, I=5, H=17, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
    results, tape = forward(native, call_of(cell, case))
    losses = losses_of(results, case["lengths"])
    before = copy.deepcopy((case, results, losses))
    once = backward(tape, losses)
    backward(tape, losses_of(results, case["lengths"], seed=2))
    same_bits(backward(tape, losses), once)
    np.testing.assert_equal((case, results, losses), before)
    for result in results.values():
        result.fill(np.nan)  # they are the caller's
    same_bits(backward(tape, losses), once)


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_training_forward_is_inference(cell, variant, P, dtype, reverse, ragged):
    lengths = "ragged" if ragged else None
    for B, H in ((1, 9), (7, 33)):
        call = call_of(cell, make_case(cell, variant, B=B, H=H, P=P, dtype=dtype, lengths=lengths, reverse=reverse))
        same_bits(forward(native, call, training=True)[0], forward(native, call, training=False)[0])


def test_avx2_is_avx512():
    """And any other instruction set with fused multiply-add: only x86's portable one has to do without."""
    fused = [name for name in USABLE if name != "portable"]
    try:
        for seed, (I, H) in enumerate(zip(WIDTHS, (*WIDTHS[4:], 64, 100, 130, 3), strict=True)):
            for (cell, variant, P), dtype in ((c, d) for c in CELLS for d in (np.float32, np.float64)):
                options = {"lengths": "ragged", "reverse": bool(seed % 2), "seed": seed}
                case = make_case(cell, variant, T=30, B=11, I=I, H=H, P=P, dtype=dtype, **options)
                found = []
                for name in fused:
                    _kernels.use(name)
                    found.append(everything(native, cell, case) | streamed(cell, variant, case))
                for other in found[1:]:
                    same_bits(other, found[0], f"I = {I}, H = {H}, {cell} {variant}")
    finally:
        _kernels.use(IN_USE)


def streamed(cell, variant, case):
    """Every step of a case on a Stepper."""
    call = call_of(cell, case)
    stepper = native.Stepper(cell, variant, [(call.w_ih, call.w_hh, call.b_ih, call.b_hh, call.w_hr)], call.B)
    room = np.empty((call.T, call.B, call.P), call.dtype)
    for x_t, out_t in zip(call.x, room, strict=True):
        stepper(x_t, out_t)
    return {"streamed": room}


# -- layers ----------------------------------------------------------------------------------------------------------


@by_the_api
@each_lengths
@each_dtype
@each_kind
def test_frozen_is_the_layer_is_its_functions(kind, dtype, ragged):
    layer = make(kind, "both", dtype, dropout=0.5)
    x, state = arguments(layer)
    lengths = [3, 5, 0, 1] if ragged else None
    out, end = layer(x, state, lengths)
    expected = {"out": out} | dict(enumerate(parts(end)))
    out, end = layer.freeze()(x, state, lengths)
    same_bits({"out": out} | dict(enumerate(parts(end))), expected)
    out, ends = by_hand(layer, x, state, lengths)
    same_bits({"out": out} | dict(enumerate(ends)), expected)
    layer.dropout = 0.0
    out, end, _ = layer.forward(x, state, lengths)
    same_bits({"out": out} | dict(enumerate(parts(end))), expected)
    first = make(kind, "both", dtype, batch_first=True)
    out, end = first(x.swapaxes(0, 1), state, lengths)
    same_bits({"out": out.swapaxes(0, 1)} | dict(enumerate(parts(end))), expected)


@by_the_api
@each_lengths
@each_dtype
@each_kind
def test_a_layer_s_gradients_are_its_function_s(kind, dtype, ragged):
    layer = make(kind, "plain", dtype)
    x, state = arguments(layer)
    lengths = [3, 5, 0, 1] if ragged else None
    out, end, tape = layer.forward(x, state, lengths)
    grads = layer.backward(tape, out, end)
    found = {name: a for name, a in grads.params.items()} | {"x": grads.x} | dict(enumerate(parts(grads.state)))
    start = tuple(part[0] for part in parts(state))
    options = {"w_hr": layer.params.get("weight_hr_l0")} if layer.cell == "lstm" else {}
    options |= {name: layer.options()[name] for name in ("nonlinearity", "reset_after") if hasattr(layer, name)}
    weights = [layer.params[f"{part}_l0"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    begin, finish = (getattr(functional, f"{layer.cell}_{way}") for way in ("forward", "backward"))
    out, _, tape = begin(x, *weights, start if layer.cell == "lstm" else start[0], lengths=lengths, **options)
    ours = finish(tape, out, *(part[0] for part in parts(end)))
    expected = dict(zip(layer.params, (ours.w_ih, ours.w_hh, ours.b_ih, ours.b_hh, ours.w_hr), strict=False))
    expected |= {"x": ours.x} | {k: a[None] for k, a in enumerate((ours.h0, ours.c0)) if a is not None}
    same_bits(found, expected)


# -- NaN and Inf -----------------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_cell
def test_nan_and_inf_stay_in_their_sequence(cell, variant, P, dtype, reverse, ragged):
    lengths = (5, 3, 5, 4, 5, 0, 2) if ragged else None
    case = make_case(cell, variant, B=7, I=5, H=17, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
    clean, losses = run(cell, case)
    others = [1, 3, 5, 6]
    poisons = {"x": case["x"].copy(), "state": np.array(case["state0"][0] if cell == "lstm" else case["h0"])}
    poisons["x"][1, 0], poisons["x"][2, 2, 1], poisons["state"][4] = np.nan, np.inf, np.nan
    state = {"state0": (poisons["state"], case["state0"][1])} if cell == "lstm" else {"h0": poisons["state"]}
    its_losses = copy.deepcopy(losses)
    its_losses["grad_out"][3, 2], its_losses["grad_h_n"][0] = np.nan, -np.inf
    poisoned = everything(native, cell, case | state | {"x": poisons["x"]}, its_losses)
    same_bits(of_rows(poisoned, others), of_rows(clean, others))
    assert np.isnan(poisoned["h_n"][0]).any() and np.isnan(poisoned["out"][:, 4]).any()
    assert not np.isfinite(poisoned["grad_x"][:, 2]).all()


@by_the_api
@each_kind
def test_nan_and_inf_stay_in_their_stream(kind):
    layer = make(kind, "stacked")
    x, _ = arguments(layer, rows=3)
    poisoned = x.copy()
    poisoned[1, 0], poisoned[2, 2] = np.nan, np.inf
    clean, dirty = layer.stream(3), layer.stream(3)
    outs, dirty_outs = (np.stack([s(x_t) for x_t in xs]) for s, xs in ((clean, x), (dirty, poisoned)))
    same_bits({"out": dirty_outs[:, 1]}, {"out": outs[:, 1]})
    assert np.isnan(dirty_outs[:, 0]).any()
    for part, dirty_part in zip(parts(clean.state), parts(dirty.state), strict=True):
        same_bits({"state": dirty_part[:, 1]}, {"state": part[:, 1]})
