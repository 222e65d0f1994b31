# SPDX-License-Identifier: MIT
"""The compiled kernels beside the NumPy fallback, case by case: `python -m pytest benchmarks --benchmark-enable`.

Without the option each case runs once, untimed: its results are compared.
H hidden size, the input size too.
"""

from __future__ import annotations

import functools

import cases
import pytest

pytestmark = pytest.mark.benchmark(min_rounds=5, max_time=0.5)

each_cell = pytest.mark.parametrize("cell", cases.CELLS)
sides = functools.lru_cache(maxsize=1)(cases.sides)  # compared once for both
same_calls = functools.lru_cache(maxsize=1)(cases.same_calls)
streamed_sides = functools.lru_cache(maxsize=1)(cases.streamed_sides)


@pytest.mark.parametrize("side", cases.SIDES)
@pytest.mark.parametrize("case", cases.CASES, ids=str)
@pytest.mark.parametrize("mode", cases.MODES)
@each_cell
def test_sequences(benchmark, cell, mode, case, side):
    benchmark.group = f"{cell} {mode}, {case}"
    benchmark(sides(mode, cell, case)[side])


@pytest.mark.parametrize("way", cases.CALLS)
@each_cell
def test_calls(benchmark, cell, way):
    benchmark.group = f"{cell} called for a step, B=1 I=H=32"
    benchmark(same_calls(cell, 32)[way])


@pytest.mark.parametrize("way", cases.WAYS)
@pytest.mark.parametrize("H", cases.STREAMED)
@each_cell
def test_steps(benchmark, cell, H, way):
    benchmark.group = f"{cell} streamed, B=1 I=H={H}"
    benchmark(streamed_sides(cell, H)[way])
