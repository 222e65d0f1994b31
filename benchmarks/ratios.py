# SPDX-License-Identifier: MIT
"""fastrnn beside itself: `python benchmarks/ratios.py` prints one Markdown table of what a second thread, the narrower
instruction set, the wider dtype and ragged lengths make of its times, and what was aimed at; and how much of a pass the
processor would need for the multiply-adds of its products alone. Needs a C compiler.

Two threads take the whole grid of `peers.py` but its single steps. Both sides take turns, round by round, in this
process; threads and instruction sets, which must not change a bit, are checked for that first. Two threads also
stand beside two processes that have half of the rows each and share nothing: what two processors can do, of which one
may be the slower.
T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from time import sleep
from typing import Any, NamedTuple

import cases
import kernels
import numpy as np
from _peer_grid import REGIMES, Entry
from cases import Case, Run
from floors import BATCH_SECONDS, NOTHING, Line, head, measured

import fastrnn
from fastrnn import _kernels
from fastrnn.cli import progress

ROUNDS = 9
THREADS_SECONDS = 0.05  # of a turn where threads are compared: some 50 us of it wake the others up
IN_USE = cases.config.describe()["instruction set"]
IDLE = 5000  # looks, of about 0.1 us, that a process has for something to do before it sleeps, as our threads do


class Target(NamedTuple):
    """A bound for the ratio of the second side's time to the first's, in every case and cell."""

    what: str
    wanted: str
    met: Callable[[float], bool]
    sides: Callable[[str, str, Case], tuple[Run, Run]]  # of a mode, a cell and a case
    cases: tuple[Case, ...]
    modes: tuple[str, ...] = tuple(cases.MODES)
    cells: tuple[str, ...] = cases.CELLS


def at_least(bound: float) -> tuple[str, Callable[[float], bool]]:
    """How it is said, and whether a ratio is."""
    return f"≥ {bound:g}", bound.__le__


# -- ragged batches that lack a part of what these cost ----------------------------------------------------------------


class Sorted(Case):
    """The longest sequences first: rows stand side by side, none has to be brought from elsewhere."""

    def arguments(self, cell: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """With the lengths in order."""
        arrays, options = super().arguments(cell)
        return arrays, {"lengths": np.sort(options["lengths"])[::-1].copy()}

    def __str__(self) -> str:
        return f"{super().__str__()}, longest first"


class Padded(Case):
    """Sequences of one length, as far as may be: rows stand side by side, and always as many."""

    def arguments(self, cell: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """With the mean of the lengths for all."""
        arrays, options = super().arguments(cell)
        return arrays, {"lengths": np.full(self.B, round(options["lengths"].mean()))}

    def __str__(self) -> str:
        return f"{super().__str__()}, all the mean"


# -- sides -------------------------------------------------------------------------------------------------------------


def ready(mode: str, cell: str, case: Case, before: Callable[[], object] = int) -> Run:
    """A call of ours, something being done before it."""
    call = cases.MODES[mode](fastrnn, cell, case)

    def run() -> object:
        before()
        return call()

    return run


def same_bits(one: Run, other: Run) -> tuple[Run, Run]:
    """Both, if what they give has the same bits."""
    for a, b in zip(cases.arrays_of(one()), cases.arrays_of(other()), strict=True):
        if not np.array_equal(a, b):
            raise ArithmeticError("the two sides' results differ")
    return one, other


def threads(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """Two, and one."""
    two, one = (ready(mode, cell, case, partial(fastrnn.set_num_threads, n)) for n in (2, 1))
    return same_bits(two, one)


def work_beside(run: Run, asked: Any, done: Any) -> None:
    """All that the other process does: as many calls as it is asked for."""
    idle = 0
    while True:
        if asked.value > done.value:
            run()
            done.value += 1
            idle = 0
        elif (idle := idle + 1) > IDLE:
            sleep(0.001)


def processes(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """Two threads, and two processes of one, each with half of the rows."""
    fastrnn.set_num_threads(1)
    half = ready(mode, cell, replace(case, B=case.B // 2), partial(fastrnn.set_num_threads, 1))
    asked, done = (multiprocessing.RawValue("q", 0) for _ in range(2))
    context = multiprocessing.get_context("fork")  # it needs no more than what is here
    context.Process(target=work_beside, args=(half, asked, done), daemon=True).start()

    def both() -> None:
        asked.value += 1
        half()
        while done.value < asked.value:
            pass

    return ready(mode, cell, case, partial(fastrnn.set_num_threads, 2)), both


def narrower(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """AVX2, and AVX-512."""
    avx2, avx512 = (ready(mode, cell, case, partial(_kernels.use, name)) for name in ("avx2", "avx512"))
    return same_bits(avx2, avx512)


def wider(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """float64, and float32."""
    return ready(mode, cell, replace(case, dtype="float64")), ready(mode, cell, case)


def ragged(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """As many row-steps without a break, and ragged."""
    rows = case.arguments(cell)[1]["lengths"].sum()
    dense = Case(round(rows / case.B), case.B, case.I, case.H)
    return ready(mode, cell, dense), ready(mode, cell, case)


@cache
def fma_turns() -> Callable[[int], float]:
    """Compiled once."""
    return kernels.fma_turns(IN_USE)


def on_registers(mode: str, cell: str, case: Case) -> tuple[Run, Run]:
    """Ours, and as many multiply-adds as its products have, on registers."""
    flops, _ = Entry("", mode, cell, case).work()
    return ready(mode, cell, case), partial(fma_turns(), round(flops / fma_turns()(1)))


# -- targets -----------------------------------------------------------------------------------------------------------

RAGGED = Case(200, 32, 128, 128, shortest=10)
PARTS = tuple(kind(200, 32, 128, 128, shortest=10) for kind in (Sorted, Padded))  # of what ragged batches cost
WHOLE = tuple(case for regime, shapes in REGIMES.items() if regime != "steps" for case in shapes)
BATCHES = (Case(100, 8, 128, 128), *(case for case in WHOLE if case.B >= 8 and case.H >= 128))
LONE = tuple(case for case in WHOLE if case.B == 1 and case.H >= 256)
SMALL = tuple(case for case in WHOLE if case not in BATCHES + LONE)
MIXED = (Case(100, 1, 64, 64), Case(100, 1, 256, 256), Case(100, 32, 64, 64), Case(100, 32, 128, 128))


def shares(mode: str, H: int, B: int, least: float, *cells: str) -> Target:
    """Of the multiply-adds, for cells or for all."""
    case, named = Case(50 if H == 1024 else 100, B, H, H), cells or cases.CELLS
    return Target("its multiply-adds alone over a pass", *at_least(least), on_registers, (case,), (mode,), named)


TARGETS = (
    *(shares("inference", H, 32, least) for H, least in ((64, 0.75), (128, 0.82), (256, 0.85))),
    *(shares("inference", H, 64, 0.8) for H in (512, 1024)),
    *(shares("training", H, 32, least, "lstm") for H, least in ((64, 0.68), (128, 0.78), (256, 0.78))),
    *(shares("training", H, 32, 0.9 * least, "rnn", "gru") for H, least in ((64, 0.68), (128, 0.78), (256, 0.78))),
    Target("one thread over two", *at_least(1.75), threads, BATCHES),
    Target("two processes over two threads", NOTHING, lambda _: True, processes, BATCHES[:3]),
    Target("one thread over two", *at_least(1.4), threads, LONE),
    Target("one thread over two", *at_least(0.95), threads, SMALL),
    Target("AVX-512 over AVX2", *at_least(0.85), narrower, MIXED),
    Target("float32 over float64", *at_least(0.45), wider, (Case(100, 32, 128, 128),)),
    Target("ragged over dense", "≤ 1.15", lambda ratio: ratio <= 1.15, ragged, (RAGGED, *PARTS)),
)


def lines() -> Iterator[Callable[[], Line]]:
    """What is to be measured here."""
    for target in TARGETS:
        needs_two = target.sides in (threads, processes) and (os.cpu_count() or 1) < 2
        if needs_two or (target.sides is narrower and IN_USE != "avx512"):
            continue
        for case in target.cases:
            for mode in target.modes:
                yield partial(line_of, target, mode, case)


def line_of(target: Target, mode: str, case: Case) -> Line:
    """The ratio of each cell."""
    line = Line(f"{target.what}, {mode}, {case}", target.wanted)
    batch = THREADS_SECONDS if target.sides in (threads, processes) else BATCH_SECONDS
    for cell in target.cells:
        found = measured(*target.sides(mode, cell, case), rounds=ROUNDS, batch=batch)
        line.add(f"{cell} {found.ratio:.2f}{found.mark}", target.met(found.ratio))
        fastrnn.set_num_threads(1)
        _kernels.use(IN_USE)
        for process in multiprocessing.active_children():
            process.terminate()
    return line


def main() -> int:
    """Measure and print; 1 if a target is not met."""
    argparse.ArgumentParser(description="Compare fastrnn with itself; print a Markdown table.").parse_args()
    found = [measure() for measure in progress(list(lines()), "ratios")]
    print(head().replace("one thread", "one thread unless said"), "", sep="\n")
    print("| time of one over time of the other | wanted | measured | met |", "| --- | --- | --- | --- |", sep="\n")
    print(*found, "", sep="\n")
    aimed = [line for line in found if line.floor != NOTHING]
    print(f"{sum(line.met for line in aimed)} of {len(aimed)} lines met. ~: see `floors.py`.")
    return 0 if all(line.met for line in found) else 1


if __name__ == "__main__":
    sys.exit(main())
