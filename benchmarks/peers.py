# SPDX-License-Identifier: MIT
"""fastrnn beside other libraries: `python benchmarks/peers.py` prints Markdown tables of times, ratios and memory.

Each library has its own process, its threads set before it starts. All get the same arrays, and what they compute is
compared before it is timed; then they take turns, round by round, and the medians count. The peak memory of a call is
measured before all that, once, as `_peer_memory` says. Needs `fastrnn[bench]`; a library that is not installed is left
out. `fastrnn` is what serves a case best, a stream, a frozen layer or, for training, the functions; `--peers` has two
more that are no peers, `fastrnn-layer` and `fastrnn-function`: `layer(x)` and `layer.forward`, and the functions for
inference. With FASTRNN_ISA=avx2 PyTorch, OpenVINO and NumPy are held to AVX2 as well; ONNX Runtime and JAX cannot be.

T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import cases
import kernels
import numpy as np
from _peer_grid import OURS, OWN, PEERS, Entry, Result, grid
from _peer_report import record, report, versions
from _peer_task import Peak, Task
from floors import CASE_SECONDS, NOISY
from kernels import new_file

from fastrnn.cli import THREAD_VARIABLES, progress
from fastrnn.config import describe

FEWEST_ROUNDS = 3
BATCH_SECONDS = 0.02  # so long one library runs without a break
# Threads wait for their next call at full speed, NumPy's of OpenBLAS for 2^28 ticks of the processor's clock (134 ms at
# 2 GHz), those of ONNX Runtime for 30 ms, and whoever came next would have half of the machine.
QUIET_SECONDS = 0.2
# How to have a library leave AVX-512 alone: fastrnn, oneDNN for PyTorch and OpenVINO, PyTorch, its MKL, OpenBLAS for
# NumPy. ONNX Runtime has no such switch, and that of XLA does not reach JAX's products.
AVX2_ALONE = {
    "FASTRNN_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


# -- processes ---------------------------------------------------------------------------------------------------------


def environment(threads: int) -> dict[str, str]:
    """All that sets threads, and the instruction set, before a library is loaded; NPROC is what XLA's pool goes by."""
    names = (*THREAD_VARIABLES, "NPROC")
    xla = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    held = AVX2_ALONE if describe()["instruction set"] == "avx2" else {}
    return os.environ | dict.fromkeys(names, str(threads)) | held | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}


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

    def ask(self, what: Peak | Task | int) -> Any:
        """What it answers: see `_peer_worker`."""
        if self.threads > 1 and not isinstance(what, Peak):
            sleep(QUIET_SECONDS)
        try:
            pickle.dump(what, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise EndedError(self) from None

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def restart(self) -> None:
        """Another one in its place."""
        self.close()
        self.start()


class EndedError(Exception):
    """A library took its process down."""

    def __init__(self, process: Process) -> None:
        super().__init__(f"the process of {process.name} ended")
        self.process = process


# -- memory ------------------------------------------------------------------------------------------------------------


def peaks(entry: Entry, threads: int, processes: Sequence[Process]) -> dict[str, int]:
    """Peak bytes of a call, by library; not of a stream's step, which needs next to nothing."""
    found: dict[str, int] = {}
    if entry.mode == "step":
        return found
    asked = Peak(entry.tiny().task(threads), entry.task(threads))
    for process in processes:
        try:
            size = process.ask(asked)
        except EndedError:
            process.restart()
            continue
        if size is not None:
            found[process.name] = size
    return found


# -- time --------------------------------------------------------------------------------------------------------------


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
    """Seconds of a call, (round, process); the noisiest round is repeated until none is noisy or time is up.

    However slow the case is, as many rounds are repeated as there are.
    """
    calls = [1] * len(processes)
    for _ in range(2):  # once more when all is warm
        calls = [max(1, round(BATCH_SECONDS / process.ask(n))) for process, n in zip(processes, calls, strict=True)]

    def once() -> list[float]:
        return [process.ask(n) for process, n in zip(processes, calls, strict=True)]

    stop = perf_counter() + CASE_SECONDS
    first: list[list[float]] = []
    while len(first) < rounds and (len(first) < FEWEST_ROUNDS or perf_counter() < stop):
        first.append(once())
    times, repeated = np.array(first), 0
    while repeated < len(times) or perf_counter() < stop:
        noise = deviations(times)
        if noise.max() <= NOISY:
            break
        times[noise.argmax()] = once()
        repeated += 1
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
        ended.process.restart()
        left = [process for process in processes if process is not ended.process]
        result = result_of(entry, threads, left, rounds)
        return replace(result, failed={**result.failed, ended.process.name: f"{entry}, {ended}"})
    seconds = {process.name: float(median) for process, median in zip(able, np.median(times, axis=0), strict=True)}
    return Result(entry, threads, seconds, float(deviations(times).max()), left_out, failed)


def measured(entries: Sequence[Entry], names: Sequence[str], threads: int, rounds: int) -> Iterator[Result]:
    """All entries with so many threads; their memory first, while the processes have called nothing."""
    processes = [Process(name, threads) for name in names]
    try:
        memory = [peaks(entry, threads, processes) for entry in progress(entries, f"memory, threads: {threads}")]
        for entry, sizes in progress(list(zip(entries, memory, strict=True)), f"peers, threads: {threads}"):
            result = result_of(entry, threads, processes, rounds)
            yield replace(result, memory={name: size for name, size in sizes.items() if name in result.seconds})
    finally:
        for process in processes:
            process.close()


# -- the command -------------------------------------------------------------------------------------------------------


def installed(names: Sequence[str]) -> list[str]:
    """Ourselves first, then those that are there; a line for each that is not."""
    found = [OURS]
    for name in names:
        try:
            versions([name])
            found += [name] * (name not in found)
        except PackageNotFoundError as missing:
            print(f"{name} is left out: {missing.name} is not installed; fastrnn[bench] has all", file=sys.stderr)
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


def new_folder(text: str) -> Path:
    """A folder, made if it is not there."""
    try:
        Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise argparse.ArgumentTypeError(f"no folder {text}: {problem.strerror}") from None
    return Path(text)


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Compare fastrnn with other libraries; print Markdown tables.")
    parser.add_argument(
        "--cases", type=pattern, default="", metavar="PATTERN", help='regular expression, as "steps.*lstm"'
    )
    rivals, known = [name for name in PEERS if name not in OWN], f"{', '.join(PEERS)} (default: all but the last two)"
    parser.add_argument("--peers", type=peer_names, default=rivals, metavar="A,B", help=known)
    parser.add_argument("--threads", type=thread_counts, default=[1, 2], metavar="N,M", help="default: 1,2")
    parser.add_argument("--quick", action="store_true", help="3 rounds, the first case of each regime, none large")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"at least {FEWEST_ROUNDS} (default: 7)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures, processor and versions")
    parser.add_argument("--markdown", type=new_file, metavar="FILE", help="write what is printed")
    parser.add_argument("--pictures", type=new_folder, metavar="FOLDER", help="draw speedups.svg and roofline.svg")
    return parser.parse_args()


def artist(folder: Path) -> Callable[[dict], None]:
    """Draws a record. Its roof is measured at once: if matplotlib or a compiler is missing, that is said early."""
    try:
        import pictures
    except ImportError as missing:
        raise SystemExit(f"peers: {missing}") from None
    roofs = kernels.limits(describe()["instruction set"])
    return lambda found: pictures.draw(found, roofs._asdict(), folder)


def main() -> int:
    """Measure and print; 1 if a peer crashes or its results differ from ours."""
    args = arguments()
    rounds = max(FEWEST_ROUNDS, args.rounds or (3 if args.quick else 7))
    entries, names = grid(args.cases, args.quick), installed(args.peers)
    if not entries:
        print(f"no case has {args.cases.pattern!r}", file=sys.stderr)
        return 2
    draw = artist(args.pictures) if args.pictures else None
    results = [result for threads in args.threads for result in measured(entries, names, threads, rounds)]
    text = report(results, names, rounds)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    found = record(results, names, rounds)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if draw:
        draw(found)
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
