# SPDX-License-Identifier: MIT
"""Cases for the functions: `make_case` builds the arguments of one call, `cases` draws them with hypothesis.

T time steps, B batch, I input size, H hidden size, P size of the projected h, G gates.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

WIDTHS = (1, 7, 8, 9, 15, 16, 17, 31, 32, 33)  # around the vectors of 4, 8 and 16 lanes
VARIANTS = (("rnn", "tanh"), ("rnn", "relu"), ("lstm", ""), ("gru", "reset_after"), ("gru", "reset_before"))
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
PARTS = ("both", "first", "second", "none")  # which of the two biases, or of an LSTM's two states, are given


def make_case(
    cell,
    variant="",
    T=5,
    B=3,
    I=4,
    H=5,
    P=None,
    dtype=np.float64,
    bias="both",
    state="both",
    lengths=None,
    reverse=False,
    seed=0,
):
    """The arguments of ``fastrnn.<cell>``, by keyword; x holds NaN past the lengths, for nobody to read.

    Parameters
    ----------
    cell, variant : str
        One of `VARIANTS`.
    T, B, I, H : int
    P : int, optional
        For the LSTM: project h to this size.
    dtype : numpy dtype
    bias, state : one of `PARTS`
        Which of b_ih and b_hh, of h0 and c0, to give; RNN and GRU have an h0 unless it is "second" or "none".
    lengths : sequence of int or "ragged", optional
        "ragged" draws from 0..T.
    reverse : bool
    seed : int
    """
    rng = np.random.default_rng(seed)
    G, size = GATES[cell], P or H

    def array(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    case = {
        "x": array(T, B, I),
        "w_ih": array(G * H, I, scale=I**-0.5),
        "w_hh": array(G * H, size, scale=0.8 * size**-0.5),
        "b_ih": array(G * H, scale=0.5) if bias in ("both", "first") else None,
        "b_hh": array(G * H, scale=0.5) if bias in ("both", "second") else None,
    }
    h0 = array(B, size) if state in ("both", "first") else None
    if cell == "lstm":
        c0 = array(B, H) if state in ("both", "second") else None
        case["state0"] = None if state == "none" else (h0, c0)
        case["w_hr"] = None if P is None else array(P, H, scale=H**-0.5)
    else:
        case["h0"] = h0
        case.update({"nonlinearity": variant} if cell == "rnn" else {"reset_after": variant == "reset_after"})
    if isinstance(lengths, str):
        lengths = rng.integers(0, T + 1, B)
    if lengths is not None:
        lengths = np.array(lengths, dtype=np.int64)
        for row, length in enumerate(lengths):
            case["x"][length:, row] = np.nan
    return case | {"lengths": lengths, "reverse": reverse}


@st.composite
def cases(draw, variants=VARIANTS, dtypes=(np.float32, np.float64), widths=WIDTHS, max_T=6, max_B=5):
    """A cell of ``variants`` and the arguments of a call: ``(cell, case)``."""
    cell, variant = draw(st.sampled_from(variants))
    width = st.sampled_from(widths)
    return cell, make_case(
        cell,
        variant,
        T=draw(st.integers(0, max_T)),
        B=draw(st.integers(0, max_B)),
        I=draw(width),
        H=draw(width),
        P=draw(st.none() | width) if cell == "lstm" else None,
        dtype=draw(st.sampled_from(dtypes)),
        bias=draw(st.sampled_from(PARTS)),
        state=draw(st.sampled_from(PARTS)),
        lengths=draw(st.sampled_from((None, "ragged"))),
        reverse=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
