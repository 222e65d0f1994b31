# SPDX-License-Identifier: MIT
"""What the processor would allow: `python benchmarks/limits.py KERNELS.json PEERS.json` prints Markdown tables.

The limit of a case, on one thread, is the time of its products at the measured peak of multiply-adds, or that in which
the caches give their weights (W_ih once, W_hh in each step, each cache as much as it holds) if that is longer; and of
tanh, sigmoid and the cells' way back, each as quick as it is alone. Nothing else takes any time. KERNELS.json is
written by `kernels.py --json`, PEERS.json by `peers.py --json` or `torch_modules.py --json`. With a file of `peers.py`
in place of KERNELS.json, the limit is what fastrnn took there: for `torch_modules.py`, if all around the functions took
no time but autograd itself, and that no more than for a function which computes nothing. G gates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from _peer_grid import OURS, PYTORCH, Entry, Result
from _peer_report import results_of, table
from floors import shown
from peers import pattern

from fastrnn._records import GATES

CELLS = {"rnn": ["tanh"], "lstm": 3 * ["sigmoid"] + 2 * ["tanh"], "gru": 2 * ["sigmoid"] + ["tanh"]}
Limit = Callable[[Entry], float]  # in seconds


def by_processor(found: dict[str, Any]) -> Limit:
    """By what `kernels.py` measured."""
    alone: dict[tuple[str, str], float] = {}  # seconds for an element, by dtype and primitive
    for line in found["primitives"]:
        _, name, n, K, N = line["primitive"].values()
        if K == 0:
            key = line["dtype"], name
            alone[key] = min(alone.get(key, inf), line["seconds"] / (n * N))

    def limit(entry: Entry) -> float:
        case, G, rates = entry.case, GATES[entry.cell], found["limits"][entry.case.dtype]
        (_, w_ih, w_hh, *_), options = case.arguments(entry.cell)
        units = case.H * int(options["lengths"].sum() if options else case.T * case.B)

        def reading(w: Any) -> float:
            seconds, left = 0.0, w.nbytes
            for name, rate in rates["read"].items():
                part = min(left, found["caches"].get(name, left))
                seconds, left = seconds + part / rate, left - part
            return seconds

        project, recur = (2 * units * G * w.shape[1] / rates["fma"] for w in (w_ih, w_hh))
        products = max(project, reading(w_ih)) + max(recur, case.T * reading(w_hh))
        seconds = products + units * sum(alone[case.dtype, name] for name in CELLS[entry.cell])
        if entry.mode == "training":  # the same products back, and those of the weights' gradients
            seconds += products + project + recur + units * alone[case.dtype, f"{entry.cell}_back"]
        return seconds

    return limit


def by_functions(found: dict[str, Any], autograd: dict[str, float]) -> Limit:
    """By what fastrnn took, on one thread, and in training what autograd takes for each cell."""
    alone = {r.entry: r.seconds[OURS] for r in results_of(found) if r.threads == 1}
    return lambda entry: alone[entry] + (autograd.get(entry.cell, 0) if entry.mode == "training" else 0)


def case_rows(results: Sequence[Result], limit: Limit) -> list[list[str]]:
    """Each case."""
    rows = []
    for r in results:
        ours, least, theirs = r.seconds[OURS], limit(r.entry), r.seconds[r.best]
        times = map(shown, (ours, least, theirs))
        rows.append([str(r.entry), *times, r.best, f"{least / ours:.0%}", f"{theirs / least:.2f}"])
    return rows


def mean_rows(results: Sequence[Result], limit: Limit) -> list[list[str]]:
    """Geometric means by regime and mode, and of all that is shown."""
    groups = {("all of these", ""): list(results)}
    for r in results:
        groups.setdefault((r.entry.regime, r.entry.mode), []).append(r)
    rows = []
    for what, group in groups.items():
        share = geometric_mean(limit(r.entry) / r.seconds[OURS] for r in group)
        rows.append([*what, str(len(group)), f"{share:.0%}"])
        for name in (None, PYTORCH):
            ratios = [r.against(name or r.best) for r in group]
            mean = None if None in ratios else geometric_mean(ratios)
            rows[-1] += ["-", "-"] if mean is None else [f"{mean:.2f}", f"{mean / share:.2f}"]
    return rows


def main() -> int:
    """Read and print."""
    parser = argparse.ArgumentParser(description="Set what was measured beside the processor's limits.")
    parser.add_argument("limits", type=Path, metavar="KERNELS.json", help="of kernels.py, or of peers.py")
    parser.add_argument("results", type=Path, metavar="PEERS.json", help="of peers.py or torch_modules.py")
    parser.add_argument("--cases", type=pattern, default="", metavar="PATTERN", help="as for peers.py")
    args = parser.parse_args()
    found, measured = (json.loads(path.read_text()) for path in (args.limits, args.results))
    results = [r for r in results_of(measured) if r.threads == 1 and r.best and args.cases.search(str(r.entry))]
    if not results:
        print("no such case on one thread beside a peer", file=sys.stderr)
        return 2
    autograd = measured.get("autograd alone", {})
    limit = by_processor(found) if "primitives" in found else by_functions(found, autograd)
    try:
        rows, means = case_rows(results, limit), mean_rows(results, limit)
    except KeyError as missing:
        print(f"{args.limits} lacks {missing.args[0]}: it has to be of a whole run", file=sys.stderr)
        return 2
    over = [f"{rival} / {ours}" for rival in ("best peer", PYTORCH) for ours in (OURS, "limit")]
    print(f"{measured['date']}, {measured['processor']}, {measured['instruction set']}, one thread.\n")
    print(table(("case", "fastrnn", "limit", "best peer", "which", "limit / fastrnn", "best peer / limit"), rows))
    print("", table(("regime", "mode", "cases", "limit / fastrnn", *over), means), sep="\n")
    print("\nMeans are geometric. Beyond 100%: a cache gave more than when the limits were measured.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
