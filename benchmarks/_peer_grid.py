# SPDX-License-Identifier: MIT
"""Who is compared by `peers.py`, on what, and what comes of it.

T time steps, B batch, I input size, H hidden size, G gates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import NamedTuple

import cases
import numpy as np
from _peer_task import Task
from cases import Case

from fastrnn._records import GATES

OURS, PYTORCH = "fastrnn", "torch"


class Peer(NamedTuple):
    """Where a library is called, and the packages that takes."""

    module: str
    function: str
    packages: tuple[str, ...]


PEERS = {
    OURS: Peer("_peer_fastrnn", "native", ("numpy",)),
    PYTORCH: Peer("_peer_torch", "modules", ("torch",)),
    "torch-plain": Peer("_peer_torch", "plain", ("torch",)),
    "onnxruntime": Peer("_peer_onnx", "onnxruntime", ("onnxruntime", "onnx")),
    "openvino": Peer("_peer_onnx", "openvino", ("openvino", "onnx")),
    "jax": Peer("_peer_jax", "scanned", ("jax",)),
    "numpy": Peer("_peer_fastrnn", "fallback", ("numpy",)),
    "fastrnn-layer": Peer("_peer_fastrnn", "layers", ("numpy",)),
    "fastrnn-function": Peer("_peer_fastrnn", "functions", ("numpy",)),
}
OWN = ("fastrnn-layer", "fastrnn-function")  # other calls of ours: shown if asked for, and no peers
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
TINY = 8  # I and H of the case with which a library is warmed up


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

    def tiny(self) -> Entry:
        """The same of the smallest kind."""
        T, B, shortest = min(self.case.T, 3), min(self.case.B, 2), self.case.shortest and 1
        return replace(self, case=replace(self.case, T=T, B=B, I=TINY, H=TINY, shortest=shortest))

    def work(self) -> tuple[float, float]:
        """Flops of the matrix products, and the bytes that they need: W_hh in each step, W_ih, x and out once.

        A backward pass has twice the flops of its forward and needs the same bytes again.
        """
        (x, w_ih, w_hh, *_), options = self.case.arguments(self.cell)
        G, H, I = GATES[self.cell], self.case.H, self.case.I
        rows = options["lengths"].sum() if "lengths" in options else self.case.T * self.case.B
        flops, elements = 2.0 * rows * G * H * (I + H), self.case.T * w_hh.size + w_ih.size + rows * (I + H)
        passes = 2 if self.mode == "training" else 1
        return flops * (2 * passes - 1), float(elements * x.itemsize * passes)


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


@dataclass(frozen=True)
class Result:
    """What is found out about an entry."""

    entry: Entry
    threads: int
    seconds: Mapping[str, float]  # of a call, by library, the median of its rounds
    spread: float  # of the worst round: how far a library was from its median
    left_out: Mapping[str, str] = field(default_factory=dict)  # who cannot do it, and why
    failed: Mapping[str, str] = field(default_factory=dict)  # who crashes or computes something else
    memory: Mapping[str, int] = field(default_factory=dict)  # peak bytes of a call, by library, where it is known

    @property
    def best(self) -> str | None:
        """The fastest of the others."""
        others = self.seconds.keys() - {OURS, *OWN}
        return min(others, key=self.seconds.__getitem__) if others else None

    @property
    def ratio(self) -> float | None:
        """How many times as long the best of the others takes."""
        return self.against(self.best) if self.best else None

    def against(self, name: str) -> float | None:
        """How many times as long this library takes."""
        return self.seconds[name] / self.seconds[OURS] if name in self.seconds else None

    def memory_ratio(self, name: str = OURS) -> float | None:
        """How many times PyTorch's peak memory that of a call of ours is."""
        return self.memory[name] / self.memory[PYTORCH] if {name, PYTORCH} <= self.memory.keys() else None
