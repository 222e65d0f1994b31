# SPDX-License-Identifier: MIT
"""The speed floors, measured: `python benchmarks/floors.py` prints one Markdown table that says which are met.

One thread on both sides, results compared first; then the compiled kernels and the NumPy fallback take turns, round by
round, in this process. What counts is the median of our time, and of the ratio of both times in the same round. The
machine may be shared: where the rounds of a case differ much it is measured again, and marked if that does not help.
T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import cases
import numpy as np

import fastrnn
from fastrnn.cli import progress
from fastrnn.config import describe

BATCH_SECONDS = 0.005  # about so long one side runs without a break
CASE_SECONDS = 10.0  # after which a case gets no more than the fewest rounds
FEWEST_ROUNDS = 5
NOISY = 0.1  # spread of rounds from which on a case is measured again
ATTEMPTS = 3
PROCESSES = 15  # that import the package
NOTHING = "-"  # wanted of a line that others are to be seen beside
SMALL = (16, 32, 64)  # H of the floor for one sequence
CALLED = 32  # H of the floors for a call
MOST = (1.2, False), (3, False), (5, True), (5, True)  # us for each of cases.CALLS; True: beyond what a stream takes
TINY, LARGEST = cases.Case(1, 1, 1, 1), cases.Case(100, 64, 512, 512)
LONG = (cases.Case(1000, 1, 64, 64), cases.Case(8000, 1, 64, 64))


class Line:
    """A line of the table: a floor, what was found, and whether that meets it."""

    def __init__(self, what: str, floor: str) -> None:
        self.what, self.floor, self.met = what, floor, True
        self.found: list[str] = []

    def add(self, text: str, met: bool) -> None:
        """One figure of the line; bold where it fails."""
        self.found.append(text if met else f"**{text}**")
        self.met &= bool(met)

    def __str__(self) -> str:
        verdict = NOTHING if self.floor == NOTHING else "yes" if self.met else "**no**"
        return f"| {self.what} | {self.floor} | {', '.join(self.found)} | {verdict} |"


# -- time --------------------------------------------------------------------------------------------------------------


def seconds_of(run: cases.Run, calls: int) -> float:
    """Seconds of a call, over so many."""
    start = perf_counter()
    for _ in repeat(None, calls):
        run()
    return (perf_counter() - start) / calls


class Figure(NamedTuple):
    """What some rounds say."""

    seconds: float  # of a call of the first run, median
    ratio: float  # of the last run's time to the first one's in the same round, median
    spread: float  # between the quartiles of the rounds, relative to the median

    @property
    def mark(self) -> str:
        """Of a figure that is not to be trusted."""
        return "" if self.spread < NOISY else " ~"


def figure_of(runs: Sequence[cases.Run], rounds: int, batch: float) -> Figure:
    """Rounds in which all runs have their turn, of so many seconds or one call."""
    counts = [max(1, round(batch / seconds_of(run, 2))) for run in runs]
    times: list[list[float]] = []
    stop = perf_counter() + CASE_SECONDS
    while len(times) < rounds and (len(times) < FEWEST_ROUNDS or perf_counter() < stop):
        times.append([seconds_of(run, calls) for run, calls in zip(runs, counts, strict=True)])
    ours, theirs = np.array(times)[:, [0, -1]].T
    low, middle, high = np.quantile(ours if len(runs) == 1 else theirs / ours, (0.25, 0.5, 0.75))
    return Figure(float(np.median(ours)), float(np.median(theirs / ours)), float((high - low) / middle))


def measured(*runs: cases.Run, rounds: int, batch: float = BATCH_SECONDS) -> Figure:
    """The quietest of some attempts."""
    stop = perf_counter() + CASE_SECONDS
    best = figure_of(runs, rounds, batch)
    for attempt in range(1, ATTEMPTS):  # the second one however long the first took
        if best.spread < NOISY or (attempt > 1 and perf_counter() > stop):
            break
        best = min(best, figure_of(runs, rounds, batch), key=attrgetter("spread"))
    return best


def shown(seconds: float) -> str:
    """A time in three digits."""
    k = 0 if seconds >= 1 else 1 if seconds >= 1e-3 else 2
    value = seconds * 1000**k
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {('s', 'ms', 'us')[k]}"


def floor_of(cell: str, case: cases.Case) -> float:
    """How many times faster than the fallback a case must be."""
    if case == LARGEST:
        return 1.2
    return 15.0 if cell != "rnn" and case in [cases.Case(100, 1, H, H) for H in SMALL] else 1.0


def add_ratio(line: Line, cell: str, runs: dict[str, cases.Run], floor: float, rounds: int) -> None:
    """A cell's ratio, and our own time."""
    found = measured(runs["fastrnn"], runs["NumPy"], rounds=rounds)
    line.add(f"{cell} {found.ratio:.1f}x ({shown(found.seconds)}{found.mark})", found.ratio >= floor)


def sequences(mode: str, case: cases.Case, rounds: int) -> Line:
    """A case against the fallback, each cell."""
    floors = {cell: floor_of(cell, case) for cell in cases.CELLS}
    least, most = min(floors.values()), max(floors.values())
    line = Line(f"{mode}, {case}", f"≥ {most:g}x" + f", rnn {least:g}x" * (least < most))
    for cell, floor in floors.items():
        add_ratio(line, cell, cases.sides(mode, cell, case), floor, rounds)
    return line


def steps(H: int, rounds: int) -> Line:
    """A stream's step against the fallback's, each cell."""
    line = Line(f"a stream's step, B=1 I=H={H}", "≥ 1x")
    for cell in cases.CELLS:
        add_ratio(line, cell, cases.streamed_sides(cell, H), 1.0, rounds)
    return line


def streamed_step(rounds: int) -> Line:
    """A stream's step, as Python sees it."""
    line = Line("a stream's step, call included, B=1 I=H=64", "< 3 us")
    found = measured(cases.streamed_sides("lstm", 64)["fastrnn"], rounds=rounds)
    line.add(f"lstm {shown(found.seconds)}{found.mark}", found.seconds < 3e-6)
    return line


def call(way: str, most: float, beyond: bool, rounds: int) -> Line:
    """A call for a single step, each cell; if beyond, without what a stream takes for the same step, call included."""
    line = Line(f"a call: {way}, T=1 B=1 I=H={CALLED}" + ", less a stream's step" * beyond, f"≤ {most:g} us")
    for cell in cases.CELLS:
        runs = cases.same_calls(cell, CALLED)
        found = measured(runs[way], runs[cases.CALLS[0]], rounds=rounds)
        seconds = found.seconds * (1 - found.ratio) if beyond else found.seconds
        line.add(f"{cell} {shown(seconds)}{f' of {shown(found.seconds)}' * beyond}{found.mark}", 1e6 * seconds <= most)
    return line


def inference_step(rounds: int) -> Line:
    """A step of a whole sequence, its share of the call included."""
    case = cases.Case(100, 1, 64, 64)
    line = Line(f"a step of inference, {case}", "≤ 1 us")
    found = measured(cases.inference(fastrnn, "lstm", case), rounds=rounds)
    line.add(f"lstm {shown(found.seconds / case.T)}{found.mark}", found.seconds / case.T <= 1e-6)
    return line


# -- memory ------------------------------------------------------------------------------------------------------------


def beyond_result(run: Callable[[], object]) -> int:
    """Bytes that a call leaves behind, but for its result."""
    before, _ = tracemalloc.get_traced_memory()
    result = run()
    after, _ = tracemalloc.get_traced_memory()
    return after - before - sum(array.nbytes for array in cases.arrays_of(result))


def borrowed(run: Callable[[], object]) -> int:
    """The most bytes that a call had at once."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    run()
    return tracemalloc.get_traced_memory()[1] - before


def workspace() -> Line:
    """What inference takes beyond its result. It is kept for the next call, which is how it is seen: be the first."""
    line = Line("beyond its result, inference takes, T=1000 B=1 I=H=64; for T=8000", "no more")
    tiny, short, long = (cases.inference(fastrnn, "lstm", case) for case in (TINY, *LONG))
    tiny()  # the first call of all imports what NumPy puts off
    tracemalloc.start()
    kept, more = beyond_result(short), beyond_result(long)
    tracemalloc.stop()
    line.add(f"lstm {kept / 1e6:.2f} MB; {more / 1e6:.2f} MB more", more < 1000)
    return line


def tape() -> Line:
    """What the LSTM keeps of every step for its backward pass; the initial states, which it keeps too, are of none."""
    case = cases.Case(100, 32, 128, 128)
    line = Line("beyond `out`, the tape holds, for each unit and step", "≤ 6 floats")
    arrays, _ = case.arguments("lstm")
    gates, _, h, _ = fastrnn.lstm_forward(*arrays)[2].saved
    initial = case.B * case.H
    floats = ((gates.size + h.size) / arrays[0].itemsize - initial) / (case.T * case.B * case.H)
    line.add(f"lstm {floats:.2f}", floats <= 6)
    return line


def allocations() -> Line:
    """What a stream's steps leave behind, and what they borrow for a moment."""
    line = Line("10 000 steps of a stream with `out=` allocate", "0 blocks")
    step = cases.streamed_sides("lstm", 64)["fastrnn"]
    seconds_of(step, 100)
    before = sys.getallocatedblocks()
    seconds_of(step, 10_000)
    blocks = sys.getallocatedblocks() - before - 1  # the number itself
    tracemalloc.start()
    most = borrowed(lambda: seconds_of(step, 1000))
    tracemalloc.stop()
    line.add(f"lstm {max(blocks, 0)} (at most {most} bytes at a time, given back)", blocks <= 0)
    return line


# -- import and wheel --------------------------------------------------------------------------------------------------


def import_time() -> Line:
    """What `import fastrnn` costs where NumPy is loaded, in fresh processes; one before them compiles all modules."""
    line = Line("`import fastrnn` beyond `import numpy`", "≤ 15 ms")
    script = "import time, numpy; start = time.perf_counter(); import fastrnn; print(time.perf_counter() - start)"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        run = partial(subprocess.run, [sys.executable, "-c", script], env=environment, check=True, capture_output=True)
        _, *seconds = (float(run().stdout) for _ in range(1 + PROCESSES))
    line.add(shown(median(seconds)), median(seconds) <= 0.015)
    return line


def wheel_size(wheel: Path | None) -> Line:
    """The size of a wheel, built for the purpose if none is given."""
    line = Line("the wheel", "< 1 MB")
    with tempfile.TemporaryDirectory() as folder:
        size = (wheel or built_wheel(Path(folder))).stat().st_size
    line.add(f"{size / 1e6:.2f} MB", size < 1e6)
    return line


def built_wheel(folder: Path) -> Path:
    """A wheel of a copy of this tree."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "_*.c")
    source = shutil.copytree(Path(__file__).parents[1], folder / "source", ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


# -- the table ---------------------------------------------------------------------------------------------------------


def processor() -> str:
    """Its name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def head() -> str:
    """When, where and with what."""
    found = describe()
    versions = ", ".join(f"{name} {found[name]}" for name in ("fastrnn", "NumPy", "compiler", "Python"))
    return f"{date.today()}, {processor()}, {found['instruction set']}, one thread, float32 unless said; {versions}."


def plan(quick: bool, rounds: int, wheel: Path | None) -> list[Callable[[], Line]]:
    """The lines to measure, the workspace first."""
    lines: list[Callable[[], Line]] = [workspace, tape, allocations, import_time]
    lines += [partial(streamed_step, rounds), partial(inference_step, rounds)]
    lines += [partial(call, way, *floor, rounds) for way, floor in zip(cases.CALLS, MOST, strict=True)]
    shapes = [case for case in cases.CASES if not (quick and case == LARGEST)]
    lines += [partial(sequences, mode, case, rounds) for mode in cases.MODES for case in shapes]
    lines += [partial(steps, H, rounds) for H in cases.STREAMED]
    return lines if quick and not wheel else [*lines, partial(wheel_size, wheel)]


def main() -> int:
    """Measure and print; 1 if a floor is not met."""
    parser = argparse.ArgumentParser(description="Measure the speed floors and print them as a Markdown table.")
    parser.add_argument("--quick", action="store_true", help="5 rounds; neither the largest case nor building a wheel")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of a case (default: 15)")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="weigh this wheel, not one built for the purpose")
    args = parser.parse_args()
    rounds = max(1, args.rounds or (5 if args.quick else 15))
    lines = [measure() for measure in progress(plan(args.quick, rounds, args.wheel), "floors")]
    print(head(), "", "| what | floor | measured | met |", "| --- | --- | --- | --- |", *lines, "", sep="\n")
    print(f"{sum(line.met for line in lines)} of {len(lines)} lines met. Nx (t): NumPy takes N times our t.", end=" ")
    print(f"~: even in the best of {ATTEMPTS} attempts the middle half of the rounds lay {NOISY:.0%} apart or more.")
    return 0 if all(line.met for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
