# SPDX-License-Identifier: MIT
"""``fastrnn bench``: the compiled kernels against the NumPy fallback, over a small grid, as a table.

Both sides run the same calls on the same arrays. Their results are compared before anything is timed; then they take
turns, so that a disturbance of the machine meets both, and the median of each counts.

T time steps, B batch, H hidden size (the input size too), G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fastrnn
from fastrnn import reference

from ._records import GATES

SHAPES = ((100, 1, 64), (100, 1, 256), (100, 32, 128), (20, 64, 512))
QUICK_SHAPES = ((50, 1, 32), (20, 16, 64))
HEAD = ("cell", "T", "B", "H", "mode", "fastrnn steps/s", "NumPy steps/s", "fastrnn GFLOP/s", "NumPy GFLOP/s", "ratio")


@dataclass(frozen=True)
class Case:
    """One cell at one shape, for inference or for training (forward and backward)."""

    cell: str
    T: int
    B: int
    H: int
    training: bool

    @property
    def flops(self) -> float:
        """Multiplications and additions of the matrix products; a backward pass has twice those of its forward."""
        forward = 2.0 * self.T * self.B * GATES[self.cell] * self.H * (2 * self.H)
        return 3 * forward if self.training else forward

    def arrays(self) -> tuple[np.ndarray, ...]:
        """x, w_ih, w_hh, b_ih, b_hh: random, float32."""
        rng = np.random.default_rng(0)
        T, B, H, rows = self.T, self.B, self.H, GATES[self.cell] * self.H
        shapes = ((T, B, H), (rows, H), (rows, H), (rows,), (rows,))
        scales = (1.0, *[H**-0.5] * 4)
        return tuple(s * rng.standard_normal(shape).astype(np.float32) for s, shape in zip(scales, shapes, strict=True))

    def runner(self, side: Any) -> Callable[[], list[np.ndarray]]:
        """The case on one side (``fastrnn`` or ``fastrnn.reference``), ready to call; returns what it computed."""
        arrays = self.arrays()
        if not self.training:
            inference = getattr(side, self.cell)
            return lambda: [inference(*arrays)[0]]
        forward, backward = getattr(side, f"{self.cell}_forward"), getattr(side, f"{self.cell}_backward")

        def train() -> list[np.ndarray]:
            out, _, tape = forward(*arrays)
            grads = backward(tape, np.ones_like(out))
            return [out, grads.x, grads.w_ih, grads.w_hh, grads.b_ih, grads.b_hh]

        return train


@dataclass(frozen=True)
class Result:
    """Median seconds of a case on both sides."""

    case: Case
    ours: float
    fallback: float

    def row(self) -> tuple[str, ...]:
        """The table's row."""
        case = self.case
        mode = "training" if case.training else "inference"
        rates = [f"{case.T / seconds:,.0f}" for seconds in (self.ours, self.fallback)]
        speeds = [f"{case.flops / seconds / 1e9:.1f}" for seconds in (self.ours, self.fallback)]
        shape = (str(case.T), str(case.B), str(case.H))
        return (case.cell, *shape, mode, *rates, *speeds, f"{self.fallback / self.ours:.1f}x")


def grid(quick: bool = False) -> list[Case]:
    """Every case: cells x shapes x inference or training."""
    shapes = QUICK_SHAPES if quick else SHAPES
    return [Case(cell, *shape, training) for cell in GATES for shape in shapes for training in (False, True)]


def check(case: Case, tolerance: float = 1e-4) -> None:
    """Compare both sides' results, each array's difference relative to its largest value.

    Raises
    ------
    ArithmeticError
        If one exceeds ``tolerance``: then there is nothing to time.
    """
    pairs = zip(case.runner(fastrnn)(), case.runner(reference)(), strict=True)
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    if not worst <= tolerance:  # NaN is refused too
        raise ArithmeticError(f"{case}: the two sides differ by {worst:.1e}, more than {tolerance:.0e}")


def measure(case: Case, budget: float) -> Result:
    """Time both sides in turn for about ``budget`` seconds, three times at least."""
    check(case)
    sides = (case.runner(fastrnn), case.runner(reference))
    seconds: tuple[list[float], list[float]] = ([], [])
    stop = perf_counter() + budget
    while len(seconds[0]) < 3 or perf_counter() < stop:
        for run, times in zip(sides, seconds, strict=True):
            start = perf_counter()
            run()
            times.append(perf_counter() - start)
    return Result(case, median(seconds[0]), median(seconds[1]))


def measured(cases: Iterable[Case], quick: bool = False) -> Iterator[Result]:
    """The results, one by one."""
    for case in cases:
        yield measure(case, budget=0.05 if quick else 0.4)


def table(results: Iterable[Result]) -> str:
    """The results as aligned text."""
    rows = [HEAD, *(result.row() for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(w) if i in (0, 4) else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
