# SPDX-License-Identifier: MIT
"""Two pictures of what `peers.py` measured: `python benchmarks/pictures.py PEERS.json KERNELS.json FOLDER`.

speedups.svg: how many times as long as fastrnn every other library takes, case by case.
roofline.svg: the speed of fastrnn's calls on one thread in float32 against their arithmetic intensity, under the roof
that the processor's multiply-adds and the bandwidths of its caches make.
PEERS.json is written by `peers.py --json`, KERNELS.json by `kernels.py --json`; `peers.py --pictures FOLDER` draws both
at once. Needs matplotlib: `fastrnn[bench]`. T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from math import atan, degrees
from operator import itemgetter
from pathlib import Path
from typing import Any

from cases import CELLS, Case

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter
except ImportError as missing:
    raise ImportError('the pictures need matplotlib: pip install "fastrnn[bench]"') from missing

Row = Mapping[str, Any]  # of the record: a result

# Colours that are told apart by colour-blind readers too (Okabe and Ito), in a frame that stands out on a dark page.
PAPER, INK, GRID, LOSS = "#fdfdfb", "#222222", "#dddddd", "#f6e3df"
PEER_STYLES = {
    "torch": ("o", "#d55e00"),
    "torch-plain": ("v", "#e69f00"),
    "onnxruntime": ("s", "#0072b2"),
    "openvino": ("D", "#56b4e9"),
    "jax": ("^", "#009e73"),
    "numpy": ("x", "#888888"),
}
CELL_COLOURS = {"rnn": "#009e73", "lstm": "#d55e00", "gru": "#0072b2"}
MODE_MARKERS = {"step": "D", "inference": "o", "training": "^"}
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 10,
    "svg.hashsalt": "fastrnn",  # the same figures give the same file
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": GRID,
    "axes.axisbelow": True,
}
TINY = 1e-9  # left of every ratio: an axis of logarithms has no 0
PLAIN = FuncFormatter(lambda number, _: f"{number:g}")


def draw(record: Mapping[str, Any], roofs: Mapping[str, Any], folder: Path) -> None:
    """Both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    speedups(record, folder / "speedups.svg")
    roofline(record, roofs, folder / "roofline.svg")


def case_of(row: Row) -> Case:
    """The sizes of a result."""
    return Case(*(row[name] for name in ("T", "B", "I", "H", "dtype", "shortest")))


def about(record: Mapping[str, Any]) -> str:
    """Which processor, and when."""
    return f"{record['processor']} ({record['instruction set']}), {record['date']}"


def marked(label: str, marker: str, colour: str) -> Line2D:
    """A line of a legend."""
    return Line2D([], [], linestyle="", marker=marker, markersize=4.5, color=colour, label=label)


def saved(figure: Figure, path: Path) -> None:
    """Into a file, without a date."""
    figure.savefig(path, metadata={"Date": None})


# -- speed-ups ---------------------------------------------------------------------------------------------------------


def speedups(record: Mapping[str, Any], path: Path) -> None:
    """Draw how many times as long as fastrnn the others take: a line for each case, a mark for each library."""
    results = record["results"]
    at, heads = places(results)
    threads = sorted({row["threads"] for row in results})
    panels = [
        (cell, mode)
        for mode, cell in product(("inference", "training"), CELLS)
        if any(row["cell"] == cell and is_in(row, mode) for row in results)
    ]
    height = 1 + len(threads) * (0.4 + 0.15 * max(at.values()))
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 1.6 * len(panels), height), layout="constrained")
        grid = figure.subplots(len(threads), len(panels), sharex=True, sharey=True, squeeze=False)
        for line, number in zip(grid, threads, strict=True):
            for axes, (cell, mode) in zip(line, panels, strict=True):
                mine = [row for row in results if (row["threads"], row["cell"]) == (number, cell) and is_in(row, mode)]
                draw_ratios(axes, mine, at)
                axes.set_title(f"{cell.upper()} {mode}\n{number} thread{'s' * (number > 1)}")
            label_cases(line[0], at, heads)
        show_reach(grid[0, 0], results)
        figure.legend(
            handles=[marked(name, *style) for name, style in PEER_STYLES.items() if name in compared(results)],
            loc="outside lower center",
            ncols=len(PEER_STYLES),
            frameon=False,
        )
        figure.suptitle(f"Time of others / time of fastrnn on {about(record)}; shaded: the other is faster")
        saved(figure, path)


def compared(results: Sequence[Row]) -> set[str]:
    """The other libraries that some result has a time of."""
    return {name for row in results for name in row["seconds"]} - {"fastrnn"}


def is_in(row: Row, mode: str) -> bool:
    """Whether a panel shows a result: single steps stand with inference."""
    return row["mode"] == mode or (row["mode"], mode) == ("step", "inference")


def places(results: Sequence[Row]) -> tuple[dict[tuple[str, Case], float], dict[str, float]]:
    """Where each case of a regime stands on the axis, and the head of each regime."""
    order = dict.fromkeys((row["regime"], case_of(row)) for row in results)
    at: dict[tuple[str, Case], float] = {}
    heads, now = {}, 0.0
    for regime, members in groupby(order, key=itemgetter(0)):
        heads[regime] = now
        for member in members:
            now += 1
            at[member] = now
        now += 1.4
    return at, heads


def ratios_of(results: Sequence[Row], name: str) -> list[float]:
    """How many times as long as fastrnn a library takes."""
    return [row["seconds"][name] / row["seconds"]["fastrnn"] for row in results]


def draw_ratios(axes: Axes, results: Sequence[Row], at: Mapping[tuple[str, Case], float]) -> None:
    """The marks of a panel, the side where another library is faster shaded."""
    axes.axvspan(TINY, 1, color=LOSS, linewidth=0)
    axes.axvline(1, color=INK, linewidth=0.8)
    for height in at.values():
        axes.axhline(height, color=GRID, linewidth=0.6, zorder=0)
    for name, (marker, colour) in PEER_STYLES.items():
        rows = [row for row in results if name in row["seconds"]]
        heights = [at[row["regime"], case_of(row)] for row in rows]
        axes.scatter(ratios_of(rows, name), heights, s=14, marker=marker, color=colour)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def show_reach(axes: Axes, results: Sequence[Row]) -> None:
    """The axis that all panels share: from the worst loss to the best gain."""
    ratios = [ratio for name in PEER_STYLES for ratio in ratios_of([r for r in results if name in r["seconds"]], name)]
    axes.set(xscale="log", xlim=(min([0.5, *ratios]) / 1.25, max([2, *ratios]) * 1.25))
    axes.xaxis.set_major_formatter(PLAIN)


def label_cases(axes: Axes, at: Mapping[tuple[str, Case], float], heads: Mapping[str, float]) -> None:
    """The names of regimes and cases, from top to bottom."""
    axes.set_yticks([*heads.values(), *at.values()], [*heads, *(str(case) for _, case in at)])
    axes.set_ylim(max(at.values()) + 0.8, -0.8)
    for label in axes.get_yticklabels()[: len(heads)]:
        label.set_fontweight("bold")


# -- the roofline ------------------------------------------------------------------------------------------------------


def roofline(record: Mapping[str, Any], roofs: Mapping[str, Any], path: Path) -> None:
    """Draw the speed of our calls under the roof of the processor.

    roofs has "fma", floating-point operations a second, and "read", bytes a second by the name of the memory.
    """
    mine = [row for row in record["results"] if (row["threads"], row["dtype"]) == (1, "float32")]
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes = figure.subplots()
        draw_roof(axes, roofs, [row["flops"] / row["bytes"] for row in mine])
        for row in mine:
            style = {"marker": MODE_MARKERS[row["mode"]], "color": CELL_COLOURS[row["cell"]]}
            speed = row["flops"] / row["seconds"]["fastrnn"] / 1e9
            axes.scatter(row["flops"] / row["bytes"], speed, s=22, alpha=0.8, linewidths=0, **style)
        axes.set(xscale="log", yscale="log", xlabel="flops for each byte that a call needs", ylabel="GFLOP/s")
        axes.xaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_major_formatter(PLAIN)
        axes.grid()
        cells = [marked(cell.upper(), "s", colour) for cell, colour in CELL_COLOURS.items()]
        modes = [marked(mode, marker, INK) for mode, marker in MODE_MARKERS.items()]
        axes.legend(handles=[*cells, *modes], loc="lower right", ncols=2)
        axes.set_title(f"fastrnn on one thread of {about(record)}, float32")
        saved(figure, path)


def draw_roof(axes: Axes, roofs: Mapping[str, Any], intensities: Sequence[float]) -> None:
    """The multiply-adds as a level, each bandwidth as a slope up to it."""
    left, right, peak = min(intensities, default=1) / 2, max(intensities, default=1) * 2, roofs["fma"] / 1e9
    axes.hlines(peak, left, right, color=INK, linewidth=1)
    axes.text(right, peak, f"multiply-adds, {peak:.0f} GFLOP/s", ha="right", va="bottom")
    for name, rate in roofs["read"].items():
        slope = rate / 1e9
        axes.plot([left, peak / slope], [left * slope, peak], color=INK, linewidth=0.8, linestyle="--")
        along = {"rotation": degrees(atan(slope)), "rotation_mode": "anchor", "transform_rotates_text": True}
        axes.text(left, left * slope, f" {name}, {slope:.0f} GB/s", va="bottom", **along)


# -- the command -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description="Draw speedups.svg and roofline.svg.")
    parser.add_argument("peers", type=Path, metavar="PEERS.json", help="written by peers.py --json")
    parser.add_argument("kernels", type=Path, metavar="KERNELS.json", help="written by kernels.py --json")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made if it is not there")
    args = parser.parse_args()
    limits = json.loads(args.kernels.read_text())["limits"]
    draw(json.loads(args.peers.read_text()), limits["float32"], args.folder)


if __name__ == "__main__":
    main()
