# SPDX-License-Identifier: MIT
"""torch.nn's modules beside fastrnn.torch's: `python benchmarks/torch_modules.py` prints Markdown tables.

The grid of `peers.py`, through autograd: inference under `inference_mode`, training as a forward and a backward pass
by input, states and parameters; a ragged batch comes and goes as a PackedSequence, packed beforehand. Both run in this
process, with the same arrays; what they compute is compared before it is timed; then they take turns, round by round,
and the medians count. What autograd alone takes, for a function of as many arguments that computes nothing, goes to the
JSON, where `limits.py` looks for it.
Needs `fastrnn[torch]`. T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from statistics import geometric_mean
from timeit import repeat, timeit
from typing import Any, NamedTuple

import cases
import numpy as np
import peers
from _peer_grid import OURS, PYTORCH, Entry, Result, grid
from _peer_memory import keep_what_is_freed
from _peer_report import bold_if, ratio_shown, record, table
from _peer_task import Run, Task, one_or_pair
from _peer_worker import first_results
from floors import NOISY, processor, shown
from kernels import new_file

try:
    import torch
    from _peer_torch import inference, loaded, run_of
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
except ImportError as missing:
    raise SystemExit(f'needs {missing.name}: pip install "fastrnn[torch]"') from None

import fastrnn.torch
from fastrnn.cli import progress
from fastrnn.config import describe

LIBRARIES = {PYTORCH: torch.nn, OURS: fastrnn.torch}


def packed_run_of(library: Any, task: Task) -> Run:
    """A module on a PackedSequence; what it gives, and gradients, as packed rows."""
    torch.set_num_threads(task.threads)
    x, grad_out = (
        pack_padded_sequence(torch.from_numpy(array), torch.from_numpy(task.lengths), enforce_sorted=False)
        for array in (task.x, task.grad_out)
    )
    state = [torch.from_numpy(array) for array in task.state]
    module = loaded(getattr(library, task.cell.upper())(*task.sizes, dtype=x.data.dtype), task)

    def forward() -> tuple:
        out, last = module(x, one_or_pair(tuple(state)))
        return out.data, last

    if task.mode == "inference":
        return inference(forward)
    wanted = [part.requires_grad_() for part in (x.data, *module.parameters(), *state)]
    x = PackedSequence(wanted[0], *x[1:])

    def run() -> tuple:
        out, last = forward()
        grads = torch.autograd.grad(out, wanted, grad_out.data)
        return out.detach(), [part.detach() for part in (last if isinstance(last, tuple) else (last,))], grads

    return run


class Side:
    """One library on a task, asked as `peers.Process` is: for so many calls, the seconds of one."""

    def __init__(self, library: object, entry: Entry, threads: int) -> None:
        task = entry.task(threads)
        self.run = (run_of if task.lengths is None else packed_run_of)(library, task)
        self.first = first_results(self.run, task)

    def ask(self, calls: int) -> float:
        """Seconds of a call."""
        return timeit(self.run, number=calls) / calls


def measured(entries: Sequence[Entry], threads: int, rounds: int) -> Iterator[Result]:
    """All entries with so many threads."""
    fastrnn.set_num_threads(threads)
    keep_what_is_freed()
    for entry in progress(entries, f"torch modules, threads: {threads}"):
        theirs, ours = sides = [Side(library, entry, threads) for library in LIBRARIES.values()]
        cases.check_same(str(entry), ours.first, theirs.first)
        times = peers.rounds_of(sides, rounds)
        seconds = dict(zip(LIBRARIES, map(float, np.median(times, axis=0)), strict=True))
        yield Result(entry, threads, seconds, float(peers.deviations(times).max()))


# -- autograd alone ----------------------------------------------------------------------------------------------------


class Nothing(torch.autograd.Function):
    """A function whose results and gradients are there already, as arrays."""

    @staticmethod
    def forward(ctx: Any, results: list, grads: list, *given: torch.Tensor) -> tuple:  # type: ignore[override]
        """The results."""
        ctx.grads = grads
        ctx.save_for_backward(*given)
        ctx.set_materialize_grads(False)
        return tuple(map(torch.from_numpy, results))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple:  # type: ignore[override]
        """The gradients."""
        return None, None, *map(torch.from_numpy, ctx.grads[: len(ctx.saved_tensors)])


def autograd_alone(cell: str) -> float:
    """Seconds of a forward and a backward pass of a function with the arguments and results of a layer."""
    states = 2 if cell == "lstm" else 1
    parameters = list(getattr(torch.nn, cell.upper())(1, 1).parameters())
    given = [torch.ones(1, 1, 1, requires_grad=True) for _ in range(1 + states)] + parameters
    results, grads = [np.ones((1, 1, 1), np.float32)] * (1 + states), [part.detach().numpy() for part in given]
    apply = super(torch.autograd.Function, Nothing).apply  # without what fastrnn.torch leaves out, too
    grad_out = torch.ones(1, 1, 1)

    def run() -> tuple:
        return torch.autograd.grad(apply(results, grads, *given)[0], given, grad_out)

    return min(repeat(run, number=1000)) / 1000


# -- report ------------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """What the geometric mean of some ratios should reach on one thread."""

    what: str
    cells: tuple[str, ...]
    least: float
    has: Callable[[Entry], bool]


def of_batch(low: int, high: int) -> Callable[[Entry], bool]:
    """Training on that many sequences of one length."""
    return lambda entry: entry.mode == "training" and not entry.case.shortest and low <= entry.case.B <= high


def packed_in(mode: str) -> Callable[[Entry], bool]:
    """Ragged batches."""
    return lambda entry: entry.mode == mode and bool(entry.case.shortest)


TARGETS = (
    *(Target("training, B=1", (cell,), 10, of_batch(1, 1)) for cell in ("gru", "rnn")),
    *(Target("training, B=8 to 32", (cell,), 3, of_batch(8, 32)) for cell in ("gru", "rnn")),
    Target("training, B=1", ("lstm",), 2.5, of_batch(1, 1)),
    Target("training, B=8 to 32", ("lstm",), 1.4, of_batch(8, 32)),
    *(Target(f"packed ragged batches, {mode}", cases.CELLS, 4, packed_in(mode)) for mode in cases.MODES),
)


def case_rows(results: Sequence[Result]) -> list[list[str]]:
    """Each case: both times, their ratio."""
    return [
        [
            str(r.entry),
            str(r.threads),
            *map(shown, r.seconds.values()),
            ratio_shown(r.ratio) + (" ~" if r.spread > NOISY else ""),
        ]
        for r in results
    ]


def mean_rows(results: Sequence[Result]) -> list[list[str]]:
    """Geometric means by regime, mode, cell and threads."""
    groups: dict[tuple[str, str, str, int], list[float]] = {}
    for r in results:
        groups.setdefault((r.entry.regime, r.entry.mode, r.entry.cell, r.threads), []).append(r.ratio)
    return [
        [*map(str, key), str(len(ratios)), ratio_shown(geometric_mean(ratios)), ratio_shown(min(ratios))]
        for key, ratios in groups.items()
    ]


def target_rows(results: Sequence[Result]) -> list[list[str]]:
    """Every target that a case was measured for."""
    alone = [r for r in results if r.threads == 1]
    found = [("the least of all cases", cases.CELLS, 1.0, min, [r.ratio for r in alone])]
    for what, cells, least, has in TARGETS:
        ratios = [r.ratio for r in alone if r.entry.cell in cells and has(r.entry)]
        found.append((what, cells, least, geometric_mean, ratios))
    rows = []
    for what, cells, least, say, ratios in found:
        if ratios:
            met = say(ratios) >= least
            verdict = bold_if(not met, "yes" if met else "no")
            rows.append([what, ", ".join(cells), str(len(ratios)), f"{say(ratios):.2f}", f">= {least:g}", verdict])
    return rows


def report(results: Sequence[Result], rounds: int) -> str:
    """All of it in Markdown."""
    facts = describe()
    where = f"{date.today()}, {processor()}, {facts['instruction set']}, {rounds} rounds"
    blocks = [
        f"{where}; fastrnn {facts['fastrnn']}, torch {torch.__version__}, Python {facts['Python']}.",
        table(("case", "threads", "torch.nn", "fastrnn.torch", "torch.nn / fastrnn.torch"), case_rows(results)),
        table(("regime", "mode", "cell", "threads", "cases", "geometric mean", "least"), mean_rows(results)),
    ]
    if targets := target_rows(results):
        head = ("target, 1 thread", "cells", "cases", "geometric mean", "wanted", "met")
        blocks.append(table(head, targets))
    return "\n\n".join([*blocks, f"~: a round lay more than {NOISY:.0%} from its median, repeated or not."])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare fastrnn.torch with torch.nn; print Markdown tables.")
    parser.add_argument(
        "--cases", type=peers.pattern, default="", metavar="PATTERN", help='regular expression, as "ragged.*lstm"'
    )
    parser.add_argument("--threads", type=peers.thread_counts, default=[1], metavar="N,M", help="default: 1")
    parser.add_argument("--quick", action="store_true", help="3 rounds, the first case of each regime, none large")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"at least {peers.FEWEST_ROUNDS} (default: 7)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures, for limits.py")
    args = parser.parse_args()
    rounds = max(peers.FEWEST_ROUNDS, args.rounds or (3 if args.quick else 7))
    entries = grid(args.cases, args.quick)
    if not entries:
        print(f"no case has {args.cases.pattern!r}", file=sys.stderr)
        return 2
    results = [result for threads in args.threads for result in measured(entries, threads, rounds)]
    print(report(results, rounds))
    if args.json:
        alone = {cell: autograd_alone(cell) for cell in cases.CELLS}
        found = record(results, list(LIBRARIES), rounds) | {"autograd alone": alone}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
