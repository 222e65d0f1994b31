# SPDX-License-Identifier: MIT
"""The command ``fastrnn``: demo, bench, info.

Exit codes: 0 done, 1 could not be done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fastrnn

from . import config
from .config import MOST_THREADS

CHAPTERS = """chapters:
  1  one network by hand, its arithmetic step by step
  2  the same network learned by backpropagation through time
  3  why long memories are hard: gradient flow
  4  real prices: ten tickers, low, medium or high next month
  5  real speech: who says /ae/?

examples:
  fastrnn demo
  fastrnn demo --out /tmp/report --chapters 1,3
"""

BENCH_NOTES = """The same calls on the same arrays on both sides, results compared first, then timed in turns; medians.
Training is forward and backward. Threads count for the kernels and for NumPy's BLAS alike.

examples:
  fastrnn bench
  fastrnn bench --quick
  fastrnn bench --threads 2
"""

# What the BLAS libraries that NumPy is built with read when they are loaded.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def progress(items: Iterable[Any], text: str) -> Iterable[Any]:
    """The items, behind a bar on a terminal if tqdm is there."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=text, leave=False, delay=1, disable=None)  # None: only on a terminal


def demo(args: argparse.Namespace) -> int:
    """``fastrnn demo``."""
    try:
        from . import demo as chapters
    except ModuleNotFoundError as problem:
        package = str(problem.name).partition(".")[0]
        raise ImportError(f'the demo needs {package}: pip install "fastrnn[demo]"') from None
    chapters.run(args.out, args.chapters, progress)
    return 0


def bench(args: argparse.Namespace) -> int:
    """``fastrnn bench``."""
    threads = str(args.threads)
    if any(os.environ.get(name) != threads for name in THREAD_VARIABLES):
        # These are read once, on import: start again with them. From the package's own folder, to import the same one.
        command = [sys.executable, "-m", "fastrnn", "bench", "--threads", threads, *["--quick"] * args.quick]
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, threads)
        return subprocess.run(command, env=environment, cwd=Path(fastrnn.__file__).parents[1]).returncode
    from . import bench as benchmark

    fastrnn.set_num_threads(args.threads)
    fastrnn.show_config()
    results = benchmark.measured(progress(benchmark.grid(args.quick), "cases"), args.quick)
    print("", benchmark.table(results), "A step is one time step of all B sequences.", sep="\n")
    if config.backend() is fastrnn.reference:
        print("Both sides are NumPy: the compiled kernels are not in use.")
    return 0


def info(args: argparse.Namespace) -> int:
    """``fastrnn info``."""
    fastrnn.show_config()
    return 0


def chapter_list(text: str) -> list[int]:
    """1,3 -> [1, 3]."""
    numbers = text.split(",")
    if not all(number.strip() in set("12345") for number in numbers):
        raise argparse.ArgumentTypeError(f"needs numbers from 1 to 5 with commas between, got {text!r}")
    return sorted({int(number) for number in numbers})


def count(text: str) -> int:
    """A number of threads."""
    if text not in map(str, range(1, MOST_THREADS + 1)):
        raise argparse.ArgumentTypeError(f"needs an integer in 1..{MOST_THREADS}, got {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fastrnn",
        description="RNN, LSTM and GRU on CPUs: see them at work, measure them, see how they are set up.",
        epilog="examples:\n  fastrnn demo\n  fastrnn bench --quick\n  fastrnn info\n\nfastrnn COMMAND --help: more",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastrnn {fastrnn.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Any, summary: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            run.__name__,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(demo, "Five short chapters from one unit to real speech: ten seconds, report and plots.", CHAPTERS)
    sub.add_argument(
        "--out", type=Path, default=Path("fastrnn-demo"), metavar="DIR", help="folder (default: ./fastrnn-demo)"
    )
    sub.add_argument(
        "--chapters", type=chapter_list, default=[1, 2, 3, 4, 5], metavar="N,N", help="which chapters (default: all)"
    )
    sub = command(bench, "Compiled kernels against the NumPy fallback: steps/s, GFLOP/s, ratio.", BENCH_NOTES)
    sub.add_argument("--quick", action="store_true", help="a few small cases, in about two seconds")
    sub.add_argument("--threads", type=count, default=1, metavar="N", help="threads on both sides (default: 1)")
    command(info, "Version, backend, instruction set, threads, NumPy, compiler.", "example:\n  fastrnn info")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's own); return the exit code."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except (OSError, ImportError, ArithmeticError) as problem:
        print(f"fastrnn: {problem}", file=sys.stderr)
        return 1
