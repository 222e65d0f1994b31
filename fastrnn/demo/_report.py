# SPDX-License-Identifier: MIT
"""The report that the chapters write into: ``report.md`` and its plots, in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Progress = Callable[[Iterable[Any], str], Iterable[Any]]  # the items again, shown as they pass under a text

COLOURS = {"RNN": "#d55e00", "GRU": "#009e73", "LSTM": "#0072b2"}  # of Okabe and Ito: told apart by everybody
SHADES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#e6ab02")  # an ordered set, dark to bright
GREY = "#8c8c8c"


class Report:
    """A report that grows chapter by chapter.

    Parameters
    ----------
    folder : Path
        Where ``report.md`` and the plots go; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plots: list[Path] = []
        self._blocks: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def title(self, text: str) -> None:
        """The title of the whole report."""
        self._blocks.append(f"# {text}")

    def chapter(self, text: str) -> None:
        """A chapter's heading."""
        self._blocks.append(f"## {text}")

    def text(self, paragraph: str) -> None:
        """A paragraph of Markdown, its line breaks taken for spaces."""
        self._blocks.append(" ".join(paragraph.split()))

    def finding(self, text: str) -> None:
        """A chapter's outcome in a sentence: bold in the report, and printed at once."""
        self._blocks.append(f"**{text}**")
        print(f"   {text}", flush=True)

    def code(self, lines: Iterable[str]) -> None:
        """Lines to be read as they stand."""
        self._blocks.append("\n".join(["```", *lines, "```"]))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table, its first column to the left and the others to the right."""
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)]
        self._blocks.append("\n".join(lines))

    def plot(self, figure: Figure, name: str, caption: str) -> None:
        """Write a figure as ``name`` beside the report and show it there."""
        path = self.folder / name
        figure.savefig(path, dpi=120)
        self.plots.append(path)
        self._blocks.append(f"![{caption}]({name})")

    def save(self) -> Path:
        """Write ``report.md``."""
        path = self.folder / "report.md"
        path.write_text("\n\n".join(self._blocks) + "\n", encoding="utf-8")
        return path


def panels(columns: int = 1, *, width: float = 7.0, height: float = 3.8, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``columns`` plots side by side, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, columns, squeeze=False, **shared)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return figure, axes
