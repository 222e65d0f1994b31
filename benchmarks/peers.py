# SPDX-License-Identifier: MIT
"""fastrnn beside other libraries: `python benchmarks/peers.py` prints Markdown tables of times and ratios.

Each library has its own process, its threads set before it starts. All get the same arrays, and what they compute is
compared before it is timed; then they take turns, round by round, and the medians count. Needs `fastrnn[peers]`; a
library that is not installed is left out. T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from time import perf_counter
from typing import Any, NamedTuple

import cases
import numpy as np
from _peer_task import Task
from cases import Case
from floors import BATCH_SECONDS, CASE_SECONDS, NOISY, processor, shown

from fastrnn.cli import THREAD_VARIABLES, progress
from fastrnn.config import describe

FEWEST_ROUNDS = 3
OURS = "fastrnn"


class Peer(NamedTuple):
    """Where a library is called, and the packages that takes."""

    module: str
    function: str
    packages: tuple[str, ...]


PEERS = {
    OURS: Peer("_peer_fastrnn", "native", ("numpy",)),
    "torch": Peer("_peer_torch", "modules", ("torch",)),
    "torch-plain": Peer("_peer_torch", "plain", ("torch",)),
    "onnxruntime": Peer("_peer_onnx", "onnxruntime", ("onnxruntime", "onnx")),
    "openvino": Peer("_peer_onnx", "openvino", ("openvino", "onnx")),
    "jax": Peer("_peer_jax", "scanned", ("jax",)),
    "numpy": Peer("_peer_fastrnn", "fallback", ("numpy",)),
}
REGIMES = {
    "steps": [Case(1, 1, H, H) for H in (32, 64, 128, 256)],
    "sequences": [Case(100, 1, H, H) for H in (16, 64, 128, 256, 512, 1024)],
    "small batches": [Case(100, B, H, H) for B, H in ((8, 64), (32, 64), (32, 128), (32, 256))],
    "large": [Case(100, 64, 512, 512), Case(50, 64, 1024, 1024)],
    "long": [Case(2000, 1, 64, 64), Case(1000, 16, 128, 128)],
    "ragged": [Case(200, 32, 128, 128, shortest=10)],
    "float64": [Case(100, 32, 128, 128, "float64")],
    "odd sizes": [Case(100, 7, I, H) for H in (50, 100, 200) for I in (1, 13)],
}


# -- cases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A line of the grid."""

    regime: str
    mode: str
    cell: str
    case: Case

    def __str__(self) -> str:
        return f"{self.regime}, {self.mode}: {self.cell} {self.case}"

    def task(self, threads: int) -> Task:
        """The case with arrays, an initial state and a gradient added to those of `cases`."""
        (x, *weights), options = self.case.arguments(self.cell)
        rng, B, H = np.random.default_rng(1), self.case.B, self.case.H
        state = rng.uniform(-1, 1, (2 if self.cell == "lstm" else 1, 1, B, H)).astype(x.dtype)
        grad_out = rng.standard_normal((self.case.T, B, H)).astype(x.dtype)
        lengths = options.get("lengths")
        return Task(self.cell, self.mode, threads, x, tuple(weights), tuple(state), lengths, grad_out)


def grid(pattern: re.Pattern, quick: bool) -> list[Entry]:
    """The entries whose name has the pattern; of each regime only the first case if it has to be quick."""
    entries = [
        Entry(regime, mode, cell, case)
        for regime, shapes in REGIMES.items()
        if not (quick and regime == "large")
        for mode in (("step",) if regime == "steps" else cases.MODES)
        for case, cell in product(shapes[:1] if quick else shapes, cases.CELLS)
    ]
    return [entry for entry in entries if pattern.search(str(entry))]


# -- processes ---------------------------------------------------------------------------------------------------------


def environment(threads: int) -> dict[str, str]:
    """All that sets a number of threads before a library is loaded; NPROC is what XLA's pool goes by."""
    names = (*THREAD_VARIABLES, "NPROC")
    xla = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    return os.environ | dict.fromkeys(names, str(threads)) | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}


class Process:
    """A library in a process of its own."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.start()

    def start(self) -> None:
        """A new process."""
        script, peer, pipe = Path(__file__).with_name("_peer_worker.py"), PEERS[self.name], subprocess.PIPE
        command = [sys.executable, str(script), peer.module, peer.function]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment(self.threads))

    def ask(self, what: Task | int) -> Any:
        """What it answers: see `_peer_worker`."""
        try:
            pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise EndedError(self) from None

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class EndedError(Exception):
    """A library took its process down."""

    def __init__(self, process: Process) -> None:
        super().__init__(f"the process of {process.name} ended")
        self.process = process


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What an entry's rounds say."""

    entry: Entry
    threads: int
    seconds: Mapping[str, float]  # of a call, by library, the median of its rounds
    spread: float  # of the worst round: how far a library was from its median
    left_out: Mapping[str, str]  # who cannot do it, and why
    failed: Mapping[str, str]  # who crashes or computes something else

    @property
    def best(self) -> str | None:
        """The fastest of the others."""
        others = self.seconds.keys() - {OURS}
        return min(others, key=self.seconds.__getitem__) if others else None

    @property
    def ratio(self) -> float | None:
        """How many times as long the best of the others takes."""
        return self.seconds[self.best] / self.seconds[OURS] if self.best else None


def prepared(entry: Entry, threads: int, processes: Sequence[Process]) -> tuple[list[Process], dict, dict]:
    """The processes whose results are the same as ours; the others with why they cannot, or where they differ."""
    task = entry.task(threads)
    ours, *others = processes
    expected, able, left_out, failed = ours.ask(task), [ours], {}, {}
    for process in others:
        found = process.ask(task)
        if isinstance(found, str):
            left_out[process.name] = found
            continue
        try:
            cases.check_same(f"{entry}, {process.name}", expected, found)
            able.append(process)
        except ArithmeticError as problem:
            failed[process.name] = str(problem)
    return able, left_out, failed


def rounds_of(processes: Sequence[Process], rounds: int) -> np.ndarray:
    """Seconds of a call, (round, process); the noisiest round is repeated until none is noisy or time is up."""
    calls = [1] * len(processes)
    for _ in range(2):  # once more when all is warm
        calls = [max(1, round(BATCH_SECONDS / process.ask(n))) for process, n in zip(processes, calls, strict=True)]

    def once() -> list[float]:
        return [process.ask(n) for process, n in zip(processes, calls, strict=True)]

    stop = perf_counter() + CASE_SECONDS
    first: list[list[float]] = []
    while len(first) < rounds and (len(first) < FEWEST_ROUNDS or perf_counter() < stop):
        first.append(once())
    times = np.array(first)
    while perf_counter() < stop:
        noise = deviations(times)
        if noise.max() <= NOISY:
            break
        times[noise.argmax()] = once()
    return times


def deviations(times: np.ndarray) -> np.ndarray:
    """How far each round is from the median, at its worst process."""
    return np.abs(times / np.median(times, axis=0) - 1).max(axis=1)


def result_of(entry: Entry, threads: int, processes: Sequence[Process], rounds: int) -> Result:
    """An entry, compared and timed, without the libraries that crash."""
    try:
        able, left_out, failed = prepared(entry, threads, processes)
        times = rounds_of(able, rounds)
    except EndedError as ended:
        if ended.process.name == OURS:
            raise
        ended.process.close()
        ended.process.start()
        result = result_of(entry, threads, [process for process in processes if process is not ended.process], rounds)
        return replace(result, failed={**result.failed, ended.process.name: f"{entry}, {ended}"})
    seconds = {process.name: float(median) for process, median in zip(able, np.median(times, axis=0), strict=True)}
    return Result(entry, threads, seconds, float(deviations(times).max()), left_out, failed)


def measured(entries: Sequence[Entry], names: Sequence[str], threads: int, rounds: int) -> Iterator[Result]:
    """All entries with so many threads."""
    processes = [Process(name, threads) for name in names]
    try:
        for entry in progress(entries, f"peers, threads: {threads}"):
            yield result_of(entry, threads, processes, rounds)
    finally:
        for process in processes:
            process.close()


# -- what is printed ---------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def ratio_shown(ratio: float | None) -> str:
    """Bold where somebody is faster than we are."""
    return "-" if ratio is None else f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**"


def case_rows(results: Sequence[Result], names: Sequence[str]) -> list[list[str]]:
    """Each case: its times and its ratio."""
    rows = []
    for result in results:
        times = [
            shown(result.seconds[name]) if name in result.seconds else "**fails**" if name in result.failed else "-"
            for name in names
        ]
        mark = " ~" if result.spread > NOISY else ""
        rows.append([str(result.entry), str(result.threads), *times, ratio_shown(result.ratio) + mark])
    return rows


def mean_rows(results: Sequence[Result]) -> list[list[str]]:
    """The geometric means of the ratios, and the cases that somebody else wins."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for result in results:
        if result.ratio is not None:
            groups.setdefault((result.entry.regime, result.entry.mode, result.threads), []).append(result.ratio)
    return [
        [*map(str, key), ratio_shown(geometric_mean(ratios)), f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}"]
        for key, ratios in groups.items()
    ]


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of fastrnn, Python, and all packages in use."""
    found = describe()
    packages = {package: version(package) for name in names for package in PEERS[name].packages}
    return {"fastrnn": found["fastrnn"], "Python": found["Python"], "compiler": found["compiler"], **packages}


def report(results: Sequence[Result], names: Sequence[str], rounds: int) -> str:
    """All of it in Markdown."""
    where = f"{date.today()}, {processor()}, {describe()['instruction set']}, {rounds} rounds"
    what = ", ".join(f"{name} {number}" for name, number in versions(names).items())
    compared = [result for result in results if result.ratio is not None]
    lost = [result for result in compared if result.ratio < 1]
    lines = [
        f"{where}; {what}.\n",
        table(("case", "threads", *names, "best peer / fastrnn"), case_rows(results, names)),
    ]
    lines += [table(("regime", "mode", "threads", "geometric mean", "lost"), mean_rows(results))]
    lines += [f"{len(lost)} of {len(compared)} cases that a peer can do are lost."]
    lines += [f"Lost to {r.best}, {r.ratio:.2f}: {r.entry}, threads: {r.threads}." for r in lost]
    lines += [f"**Fails**: {problem}." for result in results for problem in result.failed.values()]
    reasons = sorted({f"{name} ({reason})" for result in results for name, reason in result.left_out.items()})
    lines += [f"-: cannot do the case: {', '.join(reasons)}."] if reasons else []
    lines += [f"~: a round lay more than {NOISY:.0%} from its median, repeated or not."]
    return "\n".join(lines)


def record(results: Sequence[Result], names: Sequence[str], rounds: int) -> dict[str, Any]:
    """All of it for a file."""
    rows = [
        {
            **{"regime": r.entry.regime, "mode": r.entry.mode, "cell": r.entry.cell, **vars(r.entry.case)},
            **{"threads": r.threads, "seconds": r.seconds, "spread": r.spread, "best": r.best, "ratio": r.ratio},
            **{"left out": r.left_out, "failed": r.failed},
        }
        for r in results
    ]
    machine = {"processor": processor(), "instruction set": describe()["instruction set"], "cores": os.cpu_count()}
    return {"date": str(date.today()), **machine, "versions": versions(names), "rounds": rounds, "results": rows}


# -- the command -------------------------------------------------------------------------------------------------------


def installed(names: Sequence[str]) -> list[str]:
    """Ourselves first, then those that are there; a line for each that is not."""
    found = [OURS]
    for name in names:
        try:
            versions([name])
            found += [name] * (name not in found)
        except PackageNotFoundError as missing:
            print(f"{name} is left out: {missing.name} is not installed; fastrnn[peers] has all", file=sys.stderr)
    return found


def pattern(text: str) -> re.Pattern:
    """A regular expression."""
    try:
        return re.compile(text)
    except re.error as problem:
        raise argparse.ArgumentTypeError(f"not a regular expression: {problem}") from None


def peer_names(text: str) -> list[str]:
    """`a,b`, all known."""
    names = text.split(",")
    if unknown := set(names) - PEERS.keys():
        raise argparse.ArgumentTypeError(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    return names


def thread_counts(text: str) -> list[int]:
    """`1,2`, each at least 1."""
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("a number of threads is at least 1")
    return counts


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Compare fastrnn with other libraries; print Markdown tables.")
    parser.add_argument(
        "--cases", type=pattern, default="", metavar="PATTERN", help='regular expression, as "steps.*lstm"'
    )
    parser.add_argument("--peers", type=peer_names, default=list(PEERS), metavar="A,B", help=", ".join(PEERS))
    parser.add_argument("--threads", type=thread_counts, default=[1, 2], metavar="N,M", help="default: 1,2")
    parser.add_argument("--quick", action="store_true", help="3 rounds, the first case of each regime, none large")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"at least {FEWEST_ROUNDS} (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, processor and versions")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write what is printed")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if a peer crashes or its results differ from ours."""
    args = arguments()
    rounds = max(FEWEST_ROUNDS, args.rounds or (3 if args.quick else 7))
    entries, names = grid(args.cases, args.quick), installed(args.peers)
    if not entries:
        print(f"no case has {args.cases.pattern!r}", file=sys.stderr)
        return 2
    results = [result for threads in args.threads for result in measured(entries, names, threads, rounds)]
    text = report(results, names, rounds)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if args.json:
        args.json.write_text(json.dumps(record(results, names, rounds), indent=1) + "\n")
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
