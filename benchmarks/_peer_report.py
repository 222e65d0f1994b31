# SPDX-License-Identifier: MIT
"""What `peers.py` says of its results: Markdown for people, a record for files.

H hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import date
from importlib.metadata import version
from statistics import geometric_mean
from typing import Any, NamedTuple

import cases
from _peer_grid import OURS, OWN, PEERS, PYTORCH, Entry, Result
from cases import Case
from floors import NOISY, processor, shown

from fastrnn.config import describe


class Target(NamedTuple):
    """How many times as long as we others should take, on one thread, as the geometric mean of some cases."""

    what: str
    mode: str
    least: float
    regime: str
    largest: int | None = None  # H
    rival: str | None = None  # by default the best peer

    def ratios(self, results: Sequence[Result]) -> list[float]:
        """Of its cases, where they were measured."""
        ratios = [
            r.against(self.rival or r.best)
            for r in results
            if (r.entry.regime, r.entry.mode) == (self.regime, self.mode)
            and (self.largest is None or self.largest >= r.entry.case.H)
        ]
        return [ratio for ratio in ratios if ratio is not None]


TARGETS = (
    Target("streaming step, H<=128", "step", 8, "steps", largest=128),
    Target("sequences, B=1", "inference", 1.6, "sequences"),
    Target("sequences, B=1", "training", 2.5, "sequences"),
    Target("small batches", "inference", 1.3, "small batches"),
    Target("small batches", "training", 1.6, "small batches"),
    Target("large", "inference", 1.05, "large"),
    Target("large", "training", 1.2, "large"),
    Target("long", "inference", 1.5, "long"),
    Target("long", "training", 2.0, "long"),
    Target("ragged, against PyTorch packed", "inference", 4, "ragged", rival=PYTORCH),
    Target("ragged, against PyTorch packed", "training", 4, "ragged", rival=PYTORCH),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bold_if(fails: bool, text: str) -> str:
    """Text that catches the eye where something fails."""
    return f"**{text}**" if fails else text


def ratio_shown(ratio: float | None) -> str:
    """Bold where somebody is faster than we are."""
    return "-" if ratio is None else bold_if(ratio < 1, f"{ratio:.2f}")


# -- time --------------------------------------------------------------------------------------------------------------


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


def packed_lines(results: Sequence[Result]) -> list[str]:
    """Ragged batches against PyTorch's packed sequences alone."""
    groups: dict[tuple[str, int], list[str]] = {}
    for result in results:
        ratio = result.against(PYTORCH)
        if result.entry.regime == "ragged" and ratio is not None:
            said = groups.setdefault((result.entry.mode, result.threads), [])
            said.append(f"{result.entry.cell} {ratio_shown(ratio)}")
    return [
        f"Against PyTorch packed, {mode}, threads {threads}: {', '.join(said)}."
        for (mode, threads), said in groups.items()
    ]


# -- targets -----------------------------------------------------------------------------------------------------------


def target_rows(results: Sequence[Result]) -> list[list[str]]:
    """Every target that a case was measured for, on one thread."""
    alone = [result for result in results if result.threads == 1 and result.ratio is not None]
    found = [
        ("the least of all cases", mode, 1, min, [result.ratio for result in alone if result.entry.mode == mode])
        for mode in ("step", *cases.MODES)
    ]
    found += [(target.what, target.mode, target.least, geometric_mean, target.ratios(alone)) for target in TARGETS]
    rows = []
    for what, mode, least, say, ratios in found:
        if ratios:
            met = say(ratios) >= least
            verdict = bold_if(not met, "yes" if met else "no")
            rows.append([what, mode, "1", str(len(ratios)), f"{say(ratios):.2f}", f">= {least:g}", verdict])
    return rows


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_rows(results: Sequence[Result], names: Sequence[str]) -> list[list[str]]:
    """Each case: everybody's peak, and ours relative to PyTorch's."""
    rows = []
    for result in results:
        if result.memory:
            sizes = [f"{result.memory[name] / 1e6:.2f}" if name in result.memory else "-" for name in names]
            ratio = result.memory_ratio()
            said = "-" if ratio is None else bold_if(ratio > 1, f"{ratio:.2f}")
            rows.append([str(result.entry), str(result.threads), *sizes, said])
    return rows


def memory_blocks(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    """The table, and where we need more than PyTorch."""
    rows = memory_rows(results, names)
    if not rows:
        return []
    lines = []
    for name in (OURS, *OWN):
        compared = [(r, ratio) for r in results if (ratio := r.memory_ratio(name)) is not None]
        above = [(r, ratio) for r, ratio in compared if ratio > 1]
        if compared or name == OURS:
            lines.append(f"In {len(above)} of {len(compared)} cases {name} needs more memory than PyTorch.")
        lines += [f"More, {ratio:.2f} times: {r.entry}, threads: {r.threads}." for r, ratio in above]
    head = ("case", "threads", *names, "fastrnn / torch")
    return ["Peak memory of a call, in MB:", table(head, rows), "\n".join(lines)]


# -- all of it ---------------------------------------------------------------------------------------------------------


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of fastrnn, Python, and all packages in use."""
    found = describe()
    packages = {package: version(package) for name in names for package in PEERS[name].packages}
    return {"fastrnn": found["fastrnn"], "Python": found["Python"], "compiler": found["compiler"], **packages}


def own_lines(results: Sequence[Result]) -> list[str]:
    """The other calls of ours, beside the first one and the best peer."""
    lines = []
    for name in OWN:
        timed = [r for r in results if name in r.seconds]
        lost = [r for r in timed if r.best and r.seconds[r.best] < r.seconds[name]]
        if timed:
            mean = geometric_mean(r.against(name) for r in timed)
            lines.append(f"{name} takes {mean:.2f} times as long as fastrnn (geometric mean of {len(timed)} cases).")
        lines += [f"{name} is behind {r.best}: {r.entry}, threads: {r.threads}." for r in lost]
    return lines


def notes(results: Sequence[Result]) -> list[str]:
    """What the tables of times leave unsaid."""
    compared = [result for result in results if result.ratio is not None]
    lost = [result for result in compared if result.ratio < 1]
    lines = [f"{len(lost)} of {len(compared)} cases that a peer can do are lost."]
    lines += [f"Lost to {r.best}, {r.ratio:.2f}: {r.entry}, threads: {r.threads}." for r in lost]
    lines += packed_lines(results) + own_lines(results)
    lines += [f"**Fails**: {problem}." for result in results for problem in result.failed.values()]
    reasons = sorted({f"{name} ({reason})" for result in results for name, reason in result.left_out.items()})
    lines += [f"-: cannot do the case: {', '.join(reasons)}."] if reasons else []
    return [*lines, f"~: a round lay more than {NOISY:.0%} from its median, repeated or not."]


def report(results: Sequence[Result], names: Sequence[str], rounds: int) -> str:
    """All of it in Markdown."""
    where = f"{date.today()}, {processor()}, {describe()['instruction set']}, {rounds} rounds"
    what = ", ".join(f"{name} {number}" for name, number in versions(names).items())
    blocks = [
        f"{where}; {what}.",
        table(("case", "threads", *names, "best peer / fastrnn"), case_rows(results, names)),
        table(("regime", "mode", "threads", "geometric mean", "lost"), mean_rows(results)),
        "\n".join(notes(results)),
    ]
    if targets := target_rows(results):
        head = ("target", "mode", "threads", "cases", "measured", "wanted", "met")
        blocks += ["Targets, geometric means unless said:", table(head, targets)]
    return "\n\n".join(blocks + memory_blocks(results, names))


def record(results: Sequence[Result], names: Sequence[str], rounds: int) -> dict[str, Any]:
    """All of it for a file."""
    rows = []
    for r in results:
        flops, size = r.entry.work()
        rows.append(
            {
                **{"regime": r.entry.regime, "mode": r.entry.mode, "cell": r.entry.cell, **vars(r.entry.case)},
                **{"threads": r.threads, "seconds": r.seconds, "spread": r.spread, "best": r.best, "ratio": r.ratio},
                **{"left out": r.left_out, "failed": r.failed, "memory": r.memory, "flops": flops, "bytes": size},
            }
        )
    machine = {"processor": processor(), "instruction set": describe()["instruction set"], "cores": os.cpu_count()}
    return {"date": str(date.today()), **machine, "versions": versions(names), "rounds": rounds, "results": rows}


def results_of(found: Mapping[str, Any]) -> list[Result]:
    """The results of such a record."""
    results = []
    for row in found["results"]:
        case = Case(**{part.name: row[part.name] for part in fields(Case)})
        rest = (row[name] for name in ("threads", "seconds", "spread", "left out", "failed", "memory"))
        results.append(Result(Entry(row["regime"], row["mode"], row["cell"], case), *rest))
    return results
