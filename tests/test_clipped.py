# SPDX-License-Identifier: MIT
"""Peepholes and a clip, which fastrnn.onnx asks the backends for, in inference: the chain of trust and the promises.

Oracle, then reference, then native on each instruction set; bits that depend on a sequence and the weights alone.
T time steps, B batch, I input size, H hidden size, P size of the projected h.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from conftest import IN_USE, USABLE
from strategies import PARTS, VARIANTS, WIDTHS, make_case
from test_promises import case_of_rows
from trials import call_of, close, each_direction, each_dtype, each_lengths, forward, same_bits

from fastrnn import _kernels, native, reference

CLIP = 0.4  # most pre-activations are beyond
CASES = [(cell, variant, None, CLIP, False) for cell, variant in VARIANTS]
CASES += [("lstm", "", P, clip, True) for P in (None, 3) for clip in (None, CLIP)]
each_case = pytest.mark.parametrize(
    ("cell", "variant", "P", "clip", "peep"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)
on_each_set = pytest.mark.usefixtures("isa")


def options(case, clip, peep, seed=1):
    """What else goes into a call of this case: clip, and an LSTM's peephole (3, H)."""
    shape, dtype = (3, len(case["w_ih"]) // 4), case["x"].dtype
    drawn = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return {"clip": clip} | ({"peephole": drawn} if peep else {})


def run(backend, cell, case, *given, **how):
    """The results of inference, with a clip and peepholes."""
    return forward(backend, replace(call_of(cell, case), **options(case, *given)), training=False, **how)[0]


def expected(cell, case, *given):
    """The oracle's results."""
    values = oracle.CELLS[cell](**case, **options(case, *given))
    return {
        name: a.astype(case["x"].dtype) for name, a in zip(("out", "h_n", "c_n")[: len(values)], values, strict=True)
    }


def check(cell, case, clip, peep, about=""):
    close(run(native, cell, case, clip, peep), run(reference, cell, case, clip, peep), about)


# -- the reference is the oracle -------------------------------------------------------------------------------------


@each_lengths
@each_direction
@each_dtype
@each_case
def test_reference_is_the_oracle(cell, variant, P, clip, peep, dtype, reverse, ragged):
    lengths = "ragged" if ragged else None
    for seed, (T, B, I, H) in enumerate(((5, 3, 4, 5), (1, 1, 1, 1), (1, 4, 2, 3), (4, 1, 3, 1), (0, 2, 3, 4))):
        sizes = {"T": T, "B": B, "I": I, "H": H, "P": P}
        for part in PARTS:
            case = make_case(
                cell, variant, dtype=dtype, bias=part, state=part, lengths=lengths, reverse=reverse, seed=seed, **sizes
            )
            close(run(reference, cell, case, clip, peep), expected(cell, case, clip, peep), f"{sizes} {part}")


@each_case
def test_they_are_not_without_effect(cell, variant, P, clip, peep):
    case = make_case(cell, variant, P=P)
    plain = run(reference, cell, case, None, False)
    for given in {(clip, False), (None, peep), (clip, peep)} - {(None, False)}:
        assert np.abs(run(reference, cell, case, *given)["out"] - plain["out"]).max() > 0.01


# -- native is the reference -----------------------------------------------------------------------------------------


@on_each_set
@each_dtype
@each_case
def test_native_is_the_reference(cell, variant, P, clip, peep, dtype):
    for lengths in (None, (4, 4, 2, 0), (2, 0, 5, 3)):
        for part in PARTS:
            for reverse in (False, True):
                given = {"bias": part, "state": part, "lengths": lengths, "reverse": reverse}
                check(cell, make_case(cell, variant, B=4, P=P, dtype=dtype, **given), clip, peep, str(given))


@on_each_set
@each_dtype
@each_case
def test_widths_and_batches(cell, variant, P, clip, peep, dtype):
    for I, H in zip((*WIDTHS[3:], *WIDTHS[:3], 64, 1), (*WIDTHS, 1, 64), strict=True):
        case = make_case(cell, variant, B=2, I=I, H=H, P=P and I, dtype=dtype, lengths=(5, 3))
        check(cell, case, clip, peep, f"I = {I}, H = {H}")
    for T, B in ((1, 1), (1, 5), (0, 3), (3, 0), *((3, B) for B in range(1, 16))):
        case = make_case(cell, variant, T=T, B=B, I=7, H=17, P=P, dtype=dtype, lengths="ragged")
        check(cell, case, clip, peep, f"T = {T}, B = {B}")


@on_each_set
@each_lengths
@each_case
def test_chunks_of_time(cell, variant, P, clip, peep, ragged):
    lengths = "ragged" if ragged else None
    for T, B, H in ((300, 8, 33), (9, 60, 100), (700, 1, 40)):
        case = make_case(cell, variant, T=T, B=B, I=5, H=H, P=P, lengths=lengths, reverse=not ragged)
        check(cell, case, clip, peep, f"T = {T}, B = {B}")


@on_each_set
@each_dtype
@each_case
def test_results_into_views_from_weights_packed_once(cell, variant, P, clip, peep, dtype):
    """As a node asks for them: one direction of a batch-first array."""
    case = make_case(cell, variant, H=9, P=P, dtype=dtype, lengths=(2, 5, 0))
    call = replace(call_of(cell, case), **options(case, clip, peep))
    found, packed = run(native, cell, case, clip, peep), native.pack(call)
    for half in (0, 1):
        wide = np.full((call.B, call.T, 2, call.P), 7, dtype)
        view = wide.swapaxes(0, 1)[:, :, half]
        same_bits(forward(native, call, False, out=view, packed=packed)[0], found)
        assert (wide[:, :, 1 - half] == 7).all()


# -- bits ------------------------------------------------------------------------------------------------------------


@on_each_set
@each_lengths
@each_direction
@each_dtype
@each_case
def test_alone_is_in_any_batch_however_padded(cell, variant, P, clip, peep, dtype, reverse, ragged):
    for B, I, H in ((2, 1, 1), (7, 5, 9), (13, 17, 33)):
        lengths = "ragged" if ragged else None
        case = make_case(cell, variant, B=B, I=I, H=H, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
        together = run(native, cell, case, clip, peep)
        for rows in (*([row] for row in range(B)), np.random.default_rng(0).permutation(B)[: B // 2 + 1]):
            alone = run(native, cell, case_of_rows(case, rows), clip, peep)
            same_bits(alone, {name: a[..., rows, :] for name, a in together.items()}, f"of {rows} among {B}")
        longest = 5 if case["lengths"] is None else max(case["lengths"])
        cut = case | {"x": case["x"][:longest]}
        same_bits(run(native, cell, cut, clip, peep), together | {"out": together["out"][:longest]}, f"of {longest}")


@on_each_set
@each_dtype
@each_case
def test_any_number_of_threads(cell, variant, P, clip, peep, dtype, threads):
    for T, B, H in ((9, 1, 130), (5, 3, 33), (40, 11, 17)):
        case = make_case(cell, variant, T=T, B=B, I=5, H=H, P=P, dtype=dtype, lengths="ragged")
        threads(1)
        alone = run(native, cell, case, clip, peep)
        for n in range(2, 6):
            threads(n)
            same_bits(run(native, cell, case, clip, peep), alone, f"B = {B} on {n} threads")


@on_each_set
@each_dtype
@each_case
def test_a_clip_that_nothing_reaches(cell, variant, P, clip, peep, dtype):
    """Is none; and peepholes that see nothing are none: with the bits of the fused steps."""
    for B, H in ((1, 9), (7, 33)):
        case = make_case(cell, variant, B=B, H=H, P=P, dtype=dtype, lengths="ragged")
        same_bits(run(native, cell, case, 1e6, False), run(native, cell, case, None, False))
        same_bits(run(native, cell, case, 1e6, peep), run(native, cell, case, None, peep))
        if peep:
            call = replace(call_of(cell, case), peephole=np.zeros((3, H), dtype))
            same_bits(forward(native, call, False)[0], run(native, cell, case, None, False))


def test_avx2_is_avx512():
    """And any other instruction set with fused multiply-add."""
    fused = [name for name in USABLE if name != "portable"]
    try:
        for seed, (I, H) in enumerate(zip(WIDTHS, (*WIDTHS[4:], 64, 100, 130, 3), strict=True)):
            for cell, variant, P, clip, peep in CASES:
                for dtype in (np.float32, np.float64):
                    how = {"lengths": "ragged", "reverse": bool(seed % 2), "seed": seed}
                    case = make_case(cell, variant, T=30, B=11, I=I, H=H, P=P, dtype=dtype, **how)
                    found = []
                    for name in fused:
                        _kernels.use(name)
                        found.append(run(native, cell, case, clip, peep))
                    for other in found[1:]:
                        same_bits(other, found[0], f"I = {I}, H = {H}, {cell} {variant}")
    finally:
        _kernels.use(IN_USE)


# -- NaN and Inf -----------------------------------------------------------------------------------------------------


@on_each_set
@each_dtype
@each_case
def test_nan_stays_in_its_sequence_and_inf_is_the_clip(cell, variant, P, clip, peep, dtype):
    """NaN stays NaN and in its sequence; Inf before an activation is as good as the clip."""
    case = make_case(cell, variant, B=7, I=5, H=17, P=P, dtype=dtype, lengths=(5, 3, 5, 4, 5, 0, 2))
    clean = run(native, cell, case, clip, peep)
    poisoned = case | {"x": case["x"].copy()}
    poisoned["x"][1, 0], poisoned["x"][2, 2] = np.nan, 1e30
    dirty = run(native, cell, poisoned, clip, peep)
    others = [1, 3, 4, 5, 6]
    same_bits(
        {name: a[..., others, :] for name, a in dirty.items()}, {name: a[..., others, :] for name, a in clean.items()}
    )
    assert np.isnan(dirty["h_n"][0]).all() and np.isfinite(dirty["h_n"][2]).all()
    close(dirty, run(reference, cell, poisoned, clip, peep))
