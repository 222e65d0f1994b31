# SPDX-License-Identifier: MIT
"""The primitives alone, beside the limits of the processor: `python benchmarks/kernels.py` prints Markdown tables.

A program in C (primitives.c, limits.c) is built with csrc and calls each primitive as the time loops do. In turns with
it, in the same process, it measures two limits of one thread and one instruction set: multiply-adds on registers, and
the reading of an array as large as all operands together, so from the cache that holds them. A primitive's share of a
limit is the median over rounds; the limit that it comes closer to is the one that rules it, which is the multiply-adds
where there are many flops for each byte. Flops are those of matrix products or, where there is none, of tanh and
sigmoid; bytes count what is read and what is written, once. A share of reading may pass 100 %: a step takes its weights
from either end in turns, and so a part of them from a smaller cache.

n rows; K elements that a row's product sums up (of `outer` its columns; 0: the cell without its product);
N columns, or units. B batch, H hidden size, G gates.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from _peer_report import bold_if, table
from floors import ATTEMPTS, NOISY, processor

from fastrnn._records import GATES
from fastrnn.cli import progress
from fastrnn.config import ISAS, describe

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
CC = os.environ.get("CC", "cc")
FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno")  # those of setup.py that change the code
LINKED = ("-pthread", f"-I{CSRC}")
TARGET = {  # what csrc/isa_*.c open a region for
    "portable": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
}
DTYPES = ("float32", "float64")
FEWEST_ROUNDS = 3
CACHES = {"L1": 16 << 10, "L2": 128 << 10, "L3": 4 << 20, "memory": 256 << 20}  # bytes that only it can hold


class Primitive(NamedTuple):
    """A line of the table."""

    what: str
    name: str
    n: int
    K: int
    N: int


SIZES = (64, 128, 256)  # H of most cases: the weights of a step lie in L1, L2 and beyond
GROUPS = {
    "input projection, LSTM": [("gemm", n, H, 4 * H) for n, H in ((512, 64), (256, 128), (64, 512), (32, 1024))],
    "step, B=1": [(f"{cell}_step", 1, H, H) for H in (*SIZES, 512, 1024) for cell in GATES],
    "step, B=32": [(f"{cell}_step", 32, H, H) for H in SIZES for cell in GATES],
    "step that keeps a tape": [(f"{cell}_step_taped", 32, 128, 128) for cell in ("lstm", "gru")],
    "cell apart": [(name, 32, 0, 128) for name in ("rnn_cell", "lstm_cell", "gru_gates", "gru_reset")],
    "cell": [(f"{cell}_step", 32, 0, 128) for cell in ("rnn", "lstm")],
    "activations": [(name, 1, 0, N) for N in (2048, 32768) for name in ("tanh", "sigmoid")],
    "step backward": [(f"{cell}_back", B, 0, 128) for B in (1, 32) for cell in GATES],
    "step of Cho's GRU backward": [(half, 32, 0, 128) for half in ("gru_reset_back", "gru_gates_back")],
    "recurrent product backward, LSTM": [("gemm", B, 4 * H, H) for B in (1, 32) for H in SIZES],
    "product of weights not packed, LSTM": [("gemv", 1, H, 4 * H) for H in SIZES],
    "input gradient, LSTM": [("gemm", 512, 512, 128)],
    "weight gradient, LSTM": [("outer", 512, 4 * H, H) for H in (*SIZES, 512)],
    "sums": [("add", 32, 0, 128), ("add_rows", 512, 0, 512)],
    "packing, LSTM": [(name, 1, H, N) for H in (128, 512) for name, N in (("pack_columns", 4 * H), ("pack_gates", H))],
}
PRIMITIVES = [Primitive(what, *sizes) for what, group in GROUPS.items() for sizes in group]


class Target(NamedTuple):
    """The least share of a limit."""

    wanted: str
    of: str  # of_fma or of_read
    least: float

    def met(self, figure: Figure) -> bool:
        """Whether a primitive comes as near."""
        return getattr(figure, self.of) >= self.least


TARGETS = {  # in float32, by what a line is
    "input projection, LSTM": Target("≥ 93% of FMA", "of_fma", 0.93),
    "step, B=1": Target("≥ 90% of reading", "of_read", 0.9),
}


class Rates(NamedTuple):
    """What the processor does in a second."""

    fma: float  # floating-point operations
    read: Mapping[str, float]  # bytes, by where from


@dataclass(frozen=True)
class Figure:
    """A primitive's median time, and the medians of its shares of the limits, each with what was measured beside it."""

    primitive: Primitive
    dtype: str
    bytes: int
    flops: float
    seconds: float
    of_fma: float
    of_read: float
    spread: float  # between the quartiles of the highest share, relative to it

    @property
    def share(self) -> float:
        """Of the limit that rules it."""
        return max(self.of_fma, self.of_read)

    @property
    def target(self) -> Target | None:
        """What is wanted of it."""
        return TARGETS.get(self.primitive.what) if self.dtype == "float32" else None

    def row(self) -> list[str]:
        """For the table."""
        speeds = [f"{amount / self.seconds / 1e9:.1f}" if amount else "-" for amount in (self.flops, self.bytes)]
        shares = [shown_share(share, share == self.share) for share in (self.of_fma, self.of_read)]
        mark = " ~" if self.spread > NOISY else ""
        costs = [f"{self.bytes / 1024:.0f}", f"{self.seconds * 1e9:.0f}{mark}", f"{self.flops / self.bytes:.1f}"]
        return [*map(str, self.primitive), *costs, *speeds, *shares, *self.verdict()]

    def verdict(self) -> tuple[str, str]:
        """What is wanted, and whether that is met."""
        if not self.target:
            return "-", "-"
        met = self.target.met(self)
        return self.target.wanted, bold_if(not met, "yes" if met else "no")


HEAD = (
    *("what", "primitive", "n", "K", "N", "KiB", "ns", "flops/byte", "GFLOP/s", "GB/s", "of FMA", "of reading"),
    *("wanted", "met"),
)


def shown_share(share: float, rules: bool) -> str:
    """In percent, bold if that limit rules."""
    text = f"{share:.0%}" if share else "-"
    return f"**{text}**" if rules else text


# -- the program -------------------------------------------------------------------------------------------------------


def compiled(folder: Path, *arguments: str) -> None:
    """Run the compiler."""
    try:
        subprocess.run([CC, *FLAGS, *LINKED, *arguments], check=True, cwd=folder)
    except OSError as problem:
        raise SystemExit(f"needs a C compiler, as cc or in the environment as CC: {problem}") from None


def compiler() -> str:
    """What it calls itself."""
    return subprocess.run([CC, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


def built(folder: Path, isa: str, dtype: str) -> list[str]:
    """The command of the program for one instruction set and one type; csrc is compiled only once in a folder."""
    kernels = sorted(str(path) for path in CSRC.glob("*.c"))
    if not list(folder.glob("*.o")):
        compiled(folder, "-c", *kernels)
    objects = sorted(str(path) for path in folder.glob("*.o"))
    program = str(folder / f"primitives_{isa}_{dtype}")
    limits = f"{program}.limits"
    compiled(folder, *limits_for(isa, dtype), "-c", "-o", limits)
    compiled(folder, wide(dtype), f"{HERE}/primitives.c", limits, *objects, "-o", program)
    return [program, isa]


def wide(dtype: str) -> str:
    """What tells the C code the type."""
    return f"-DFRNN_WIDE={int(dtype == 'float64')}"


def limits_for(isa: str, dtype: str) -> tuple[str, ...]:
    """What compiles limits.c."""
    return (wide(dtype), f'-DVECTORS="vec_{isa}.h"', *TARGET[isa], f"{HERE}/limits.c")


def fma_turns(isa: str, dtype: str = "float32") -> Callable[[int], float]:
    """That of limits.h, to be called from here."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/limits.so"
        compiled(Path(folder), *limits_for(isa, dtype), "-shared", "-fPIC", "-o", library)
        turns = ctypes.CDLL(library).fma_turns
    turns.argtypes, turns.restype = [ctypes.c_long], ctypes.c_double
    return turns


def lines_of(program: Sequence[str], rounds: int, *arguments: Any) -> list[list[float]]:
    """The numbers that the program prints, line by line."""
    command = [*program, *map(str, (rounds, *arguments))]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [[float(word) for word in line.split()] for line in text.splitlines()]


# -- what is measured --------------------------------------------------------------------------------------------------


def rates_of(program: Sequence[str], rounds: int) -> Rates:
    """The limits on their own, medians, reading from each cache and from memory."""
    found = lines_of(program, rounds, "limits", *CACHES.values())
    fma, *read = (median(column) for column in zip(*found, strict=True))
    return Rates(fma, dict(zip(CACHES, read, strict=True)))


def figure_of(program: Sequence[str], dtype: str, primitive: Primitive, rounds: int) -> Figure:
    """Some rounds of a primitive."""
    (size, flops), *found = lines_of(program, rounds, *primitive[1:])
    seconds, *rates = zip(*found, strict=True)
    shares = [
        quantiles([work / (rate * time) for rate, time in zip(limit, seconds, strict=True)], n=4, method="inclusive")
        for work, limit in zip((flops, size), rates, strict=True)
    ]
    low, middle, high = max(shares, key=itemgetter(1))
    medians = [median(seconds), *(share for _, share, _ in shares)]
    return Figure(primitive, dtype, int(size), flops, *medians, (high - low) / middle)


def measured(program: Sequence[str], dtype: str, primitive: Primitive, rounds: int) -> Figure:
    """The quietest of some attempts."""
    best = figure_of(program, dtype, primitive, rounds)
    for _ in range(ATTEMPTS - 1):
        if best.spread <= NOISY:
            break
        best = min(best, figure_of(program, dtype, primitive, rounds), key=attrgetter("spread"))
    return best


def limits(isa: str, dtype: str = "float32", rounds: int = 15) -> Rates:
    """The limits alone, for whoever wants to draw them."""
    with tempfile.TemporaryDirectory() as folder:
        return rates_of(built(Path(folder), isa, dtype), rounds)


# -- what is printed ---------------------------------------------------------------------------------------------------


def caches() -> dict[str, int]:
    """Bytes of the caches for data, by level, where Linux tells."""
    found = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((cache / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K")) << 10
    return found


def report(isa: str, rates: Mapping[str, Rates], figures: Sequence[Figure], rounds: int) -> str:
    """All of it."""
    where = f"{date.today()}, {processor()}, {isa}, one thread, {rounds} rounds; {compiler()}."
    caches = [f"GB/s from {name} ({size >> 10} KiB)" for name, size in CACHES.items()]
    limits = [
        [dtype, *(f"{rate / 1e9:.1f}" for rate in (found.fma, *found.read.values()))] for dtype, found in rates.items()
    ]
    blocks = [where, table(("limit", "GFLOP/s", *caches), limits)]
    for dtype in rates:
        blocks += [f"{dtype}:", table(HEAD, [figure.row() for figure in figures if figure.dtype == dtype])]
    noisy = (
        f"~: the middle half of its rounds lay more than {NOISY:.0%} apart, even in the best of {ATTEMPTS} attempts."
    )
    if aimed := [figure.target.met(figure) for figure in figures if figure.target]:
        blocks.append(f"{sum(aimed)} of {len(aimed)} lines of which something is wanted meet it.")
    return "\n\n".join([*blocks, f"**Bold**: the limit that it comes closer to, or missed. {noisy}"])


def record(isa: str, rates: Mapping[str, Rates], figures: Sequence[Figure]) -> dict[str, Any]:
    """All of it for a file."""
    return {
        **{"date": str(date.today()), "processor": processor(), "instruction set": isa},
        "caches": caches(),
        "limits": {dtype: found._asdict() for dtype, found in rates.items()},
        "primitives": [{**asdict(figure), "primitive": figure.primitive._asdict()} for figure in figures],
    }


# -- the command -------------------------------------------------------------------------------------------------------


def usable() -> list[str]:
    """The instruction sets of this processor."""
    return [name for name in ISAS if name in describe()["available"].split(", ")]


def new_file(text: str) -> Path:
    """A path that can be written to: better known before all is measured."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}: is its folder there?")
    return path


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description="Time the primitives beside the processor's limits.")
    ours = describe()["instruction set"]
    parser.add_argument("--isa", choices=usable(), default=ours, help=f"instruction set (default: {ours})")
    parser.add_argument("--dtype", choices=DTYPES, help="default: one after the other")
    parser.add_argument("--cases", default="", metavar="TEXT", help='only lines that have it, as "lstm_step 32"')
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: 15")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=new_file, metavar="FILE", help="write what is printed")
    return parser.parse_args()


def main() -> int:
    """Build, measure and print."""
    args = arguments()
    wanted = [primitive for primitive in PRIMITIVES if args.cases in " ".join(map(str, primitive))]
    if not wanted:
        print(f"no line has {args.cases!r}", file=sys.stderr)
        return 2
    rounds, dtypes = max(args.rounds, FEWEST_ROUNDS), [args.dtype] if args.dtype else DTYPES
    with tempfile.TemporaryDirectory() as folder:
        programs = {dtype: built(Path(folder), args.isa, dtype) for dtype in dtypes}
        rates = {dtype: rates_of(program, rounds) for dtype, program in programs.items()}
        plan = list(product(programs.items(), wanted))
        figures = [
            measured(program, dtype, primitive, rounds) for (dtype, program), primitive in progress(plan, "kernels")
        ]
    text = report(args.isa, rates, figures, rounds)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if args.json:
        args.json.write_text(json.dumps(record(args.isa, rates, figures), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
