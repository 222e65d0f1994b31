# SPDX-License-Identifier: MIT
"""The benchmarks' cases and both sides of each: the compiled kernels and the NumPy fallback, on one thread.

To be imported before NumPy, whose BLAS reads its number of threads when it is loaded.
T time steps, B batch, I input size, H hidden size, G gates.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
if "numpy" in sys.modules and any(os.environ.get(name) != "1" for name in BLAS_THREADS):
    raise ImportError(f"NumPy was loaded first: set {', '.join(BLAS_THREADS)} to 1 in the environment")
os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))

import numpy as np  # noqa: E402

import fastrnn  # noqa: E402
from fastrnn import config, reference  # noqa: E402
from fastrnn._records import GATES, Grads  # noqa: E402

if config.backend() is reference:
    raise ImportError("the benchmarks compare the compiled kernels with NumPy: they need FASTRNN_BACKEND=native")
fastrnn.set_num_threads(1)

CELLS = tuple(GATES)
SIDES = {"fastrnn": fastrnn, "NumPy": reference}
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}  # of an array's largest element

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One shape of the arguments, for any cell."""

    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"
    shortest: int | None = None  # ragged: lengths from this to T

    def __str__(self) -> str:
        sizes = f"I=H={self.H}" if self.I == self.H else f"I={self.I} H={self.H}"
        notes = [] if self.dtype == "float32" else [self.dtype]
        notes += [] if self.shortest is None else [f"lengths {self.shortest} to {self.T}"]
        return " ".join([f"T={self.T} B={self.B} {sizes}", *notes])

    def arguments(self, cell: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """x, w_ih, w_hh, b_ih, b_hh, random, and the options."""
        rng = np.random.default_rng(0)
        rows, bound = GATES[cell] * self.H, self.H**-0.5
        x = rng.standard_normal((self.T, self.B, self.I)).astype(self.dtype)
        shapes = ((rows, self.I), (rows, self.H), (rows,), (rows,))
        weights = [rng.uniform(-bound, bound, shape).astype(self.dtype) for shape in shapes]
        if self.shortest is None:
            return [x, *weights], {}
        lengths = np.linspace(self.shortest, self.T, self.B).astype(int)
        return [x, *weights], {"lengths": rng.permutation(lengths)}


CASES = (
    *(Case(100, 1, H, H) for H in (16, 32, 64, 256)),
    *(Case(100, 32, H, H) for H in (64, 128)),
    Case(100, 64, 512, 512),
    Case(200, 32, 128, 128, shortest=10),
    Case(100, 32, 128, 128, "float64"),
    Case(100, 7, 13, 50),
)
STREAMED = (32, 64, 128)  # I = H of a stream of one sequence
WAYS = ("fastrnn", "NumPy", "fastrnn, a call a step", "NumPy, a call a step")  # to stream
CALLS = ("a stream's step", "`frozen(x)`", "`layer(x)`", "`fastrnn.lstm` and the like")  # ways to have one step


# -- what is timed -----------------------------------------------------------------------------------------------------


def inference(side: Any, cell: str, case: Case) -> Run:
    """A call of ``side.lstm``: the output and the final state."""
    arrays, options = case.arguments(cell)
    function = getattr(side, cell)
    return lambda: function(*arrays, **options)


def training(side: Any, cell: str, case: Case) -> Run:
    """A forward and a backward pass: the output, the final state and all gradients."""
    arrays, options = case.arguments(cell)
    forward, backward = getattr(side, f"{cell}_forward"), getattr(side, f"{cell}_backward")
    grad_out = np.random.default_rng(1).standard_normal((case.T, case.B, case.H)).astype(case.dtype)

    def run() -> tuple:
        out, state, tape = forward(*arrays, **options)
        return out, state, backward(tape, grad_out)

    return run


MODES = {"inference": inference, "training": training}


def streams(cell: str, H: int) -> dict[str, Run]:
    """The ways to feed one sequence step by step; each call is a step and gives its output, shape (1, H)."""
    layer = getattr(fastrnn, cell.upper())(H, H, seed=0)
    weights = list(layer.params.values())
    x = np.random.default_rng(1).standard_normal((1, H)).astype(np.float32)
    stream, out = layer.stream(), np.empty_like(x)
    stepper, its_out = reference.Stepper(cell, layer.variant, [(*weights, None)], 1), np.empty_like(x)

    def by_stepper() -> np.ndarray:
        stepper(x, its_out)
        return its_out

    def by_calls(side: Any) -> Run:
        function, x_t, state = getattr(side, cell), x[None], None

        def run() -> np.ndarray:
            nonlocal state
            out, state = function(x_t, *weights, state)
            return out[0]

        return run

    runs = (lambda: stream(x, out), by_stepper, by_calls(fastrnn), by_calls(reference))
    return dict(zip(WAYS, runs, strict=True))


def calls(cell: str, H: int) -> dict[str, Run]:
    """The ways to have one step of one sequence computed from Python; what each gives begins with the output."""
    layer, function = getattr(fastrnn, cell.upper())(H, H, seed=0), getattr(fastrnn, cell)
    weights, frozen, stream = list(layer.params.values()), layer.freeze(), layer.stream()
    x = np.random.default_rng(1).standard_normal((1, 1, H)).astype(np.float32)
    x_t, out = x[0], np.empty_like(x[0])
    runs = (lambda: stream(x_t, out), lambda: frozen(x), lambda: layer(x), lambda: function(x, *weights))
    return dict(zip(CALLS, runs, strict=True))


# -- equal before timed ------------------------------------------------------------------------------------------------


def arrays_of(result: Any) -> Iterator[np.ndarray]:
    """Every array in a result, gradients included."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, (tuple, Grads)):
        for part in result if isinstance(result, tuple) else (getattr(result, name) for name in Grads.__slots__):
            yield from arrays_of(part)


def check_same(name: str, ours: Any, theirs: Any) -> None:
    """Raise ArithmeticError where two results differ by more than rounding does."""
    for k, (a, b) in enumerate(zip(arrays_of(ours), arrays_of(theirs), strict=True)):
        worst = np.abs(a - b).max() / np.abs(b).max()
        if not worst <= TOLERANCE[a.dtype.name]:  # NaN is refused too
            raise ArithmeticError(f"{name}: array {k} differs by {worst:.1e} of its largest element")


def sides(mode: str, cell: str, case: Case) -> dict[str, Run]:
    """Both sides of a case, ready to time, their results the same."""
    runs = {name: MODES[mode](side, cell, case) for name, side in SIDES.items()}
    check_same(f"{cell} {mode}, {case}", runs["fastrnn"](), runs["NumPy"]())
    return runs


def streamed_sides(cell: str, H: int) -> dict[str, Run]:
    """All ways to stream, ready to time, their first steps the same."""
    runs = streams(cell, H)
    for _ in range(3):
        expected, *others = (run() for run in reversed(runs.values()))
        for out in others:
            check_same(f"{cell} streamed, H={H}", out, expected)
    return runs


def same_calls(cell: str, H: int) -> dict[str, Run]:
    """All ways to call, ready to time, their outputs the same."""
    runs = calls(cell, H)
    expected, *others = (next(arrays_of(run())) for run in runs.values())
    for out in others:
        check_same(f"{cell} called, H={H}", out, expected)
    return runs
