# SPDX-License-Identifier: MIT
"""``fastrnn demo``: five short chapters, every figure computed on the spot, and a report with plots.

A chapter is a module with a ``TITLE`` and ``run(report, progress)``, which writes its part of the report and returns
its figures. ``progress(items, text)`` yields the items and may show how far they are.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import fastrnn

from . import learned, memory, one_network, prices, speech
from ._report import Progress, Report

CHAPTERS = {1: one_network, 2: learned, 3: memory, 4: prices, 5: speech}


def quiet(items: Iterable[Any], text: str) -> Iterable[Any]:
    """Progress that shows nothing."""
    return items


def configuration() -> list[str]:
    """What ``fastrnn.show_config()`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        fastrnn.show_config()
    return printed.getvalue().splitlines()


def run(folder: Path, chapters: Sequence[int] = tuple(CHAPTERS), progress: Progress = quiet) -> dict[int, Any]:
    """Run chapters, print their findings and where the report is.

    Parameters
    ----------
    folder : Path
        For ``report.md`` and the plots; made if it is not there.
    chapters : sequence of int
        Which chapters, 1 to 5.
    progress : callable
        As above.

    Returns
    -------
    dict of int to Any
        What each chapter's ``run`` returned.
    """
    start = perf_counter()
    report = Report(folder)
    report.title("fastrnn demo")
    report.text("Written by `fastrnn demo`; every figure was computed on this machine, with this configuration:")
    report.code(configuration())
    results = {}
    for number in chapters:
        chapter = CHAPTERS[number]
        print(f"{number}. {chapter.TITLE}", flush=True)
        report.chapter(f"{number}. {chapter.TITLE}")
        results[number] = chapter.run(report, progress)
    written = [report.save(), *report.plots]
    print(f"\n{perf_counter() - start:.1f} s. Written:", *written, sep="\n   ")
    return results
