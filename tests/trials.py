# SPDX-License-Identifier: MIT
"""Running a case of `strategies` on a backend, and judging what came out: nearly the same, or the same bits.

Results and gradients travel as dicts of arrays: out, h_n, c_n, and grad_x, grad_w_ih, ... grad_h0, grad_c0.
T time steps, B batch.
"""

from __future__ import annotations

import numpy as np
import pytest
from strategies import VARIANTS

from fastrnn import _check
from fastrnn._records import Grads, Tape

CELLS = [(cell, variant, None) for cell, variant in VARIANTS] + [("lstm", "", 3)]  # the last one projected to P = 3
each_cell = pytest.mark.parametrize(("cell", "variant", "P"), CELLS, ids=["-".join(map(str, c)) for c in CELLS])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
each_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
each_lengths = pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
changes_in_place = pytest.mark.filterwarnings("ignore:Setting the (shape|dtype) on a NumPy array:DeprecationWarning")


# -- running ---------------------------------------------------------------------------------------------------------


def call_of(cell, case):
    """The checked Call; a case keeps the order of the checks' arguments."""
    return getattr(_check, cell)(*case.values())


def forward(backend, call, training=True, **given):
    """The results, and the tape if training."""
    out, h_n, c_n, saved = backend.forward(call, training, **given)
    results = {"out": out, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    return results, Tape.of(call, saved, backend) if training else None


def backward(tape, losses, **options):
    """The gradients, given those of the results, which `losses_of` makes."""
    if tape.call.x.ndim == 3:
        given = _check.gradients(tape.call, **losses)
    else:  # of packed rows it knows nothing
        given = losses["grad_out"], losses["grad_h_n"], losses.get("grad_c_n")
    grads = tape.backend.backward(tape, *given, **options)
    return {f"grad_{name}": a for name in Grads.__slots__ if (a := getattr(grads, name)) is not None}


def losses_of(results, lengths=None, seed=1):
    """The gradients of a random linear loss by the results, by keyword; NaN past the lengths, for nobody to read."""
    rng = np.random.default_rng(seed)
    losses = {f"grad_{name}": rng.standard_normal(a.shape).astype(a.dtype) for name, a in results.items()}
    if lengths is not None:
        for row, length in enumerate(lengths):
            losses["grad_out"][length:, row] = np.nan
    return losses


def everything(backend, cell, case, losses=None):
    """All results and gradients of one case."""
    results, tape = forward(backend, call_of(cell, case))
    return results | backward(tape, losses_of(results, case["lengths"]) if losses is None else losses)


# -- judging ---------------------------------------------------------------------------------------------------------


def close(actual, expected, about=""):
    """Equal up to rounding, relative to the largest element of each array."""
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        e = expected[name]
        assert (a.dtype, a.shape) == (e.dtype, e.shape), f"{name} {about}"
        tolerance = 2e-5 if a.dtype == np.float32 else 1e-12
        scale = max(1, np.abs(e).max(initial=0))
        np.testing.assert_allclose(a, e, tolerance, tolerance * scale, err_msg=f"{name} {about}")


def same_bits(actual, expected, about=""):
    """Equal to the last bit; one NaN is as good as another."""
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        e = expected[name]
        assert (a.dtype, a.shape) == (e.dtype, e.shape), f"{name} {about}"
        bits = np.dtype(f"u{a.itemsize}")
        differ = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(e).view(bits)
        differ &= ~(np.isnan(a) & np.isnan(e))
        assert not differ.any(), f"{name} {about}: {differ.sum()} of {differ.size} differ, first at {first(differ)}"


def first(mask):
    return tuple(map(int, np.argwhere(mask)[0]))
