# SPDX-License-Identifier: MIT
"""Runs the Python on a page of this documentation: ``python docs/pages.py docs/start.md`` runs it in this folder.

All blocks of a page share their names, one after the other, as somebody would type them. One that begins with ``>>>``
is a session, whose printed results must be those on the page.
"""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def run(page: Path) -> dict[str, Any]:
    """Run all blocks of a page in the current folder; return the names that they leave."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        code, line = block[1], text.count("\n", 0, block.start(1))
        if code.startswith(">>>"):
            check(code, names, page, line)
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)
    return names


def check(session: str, names: dict[str, Any], page: Path, line: int) -> None:
    """Run a session; raise if anything else is printed than the page says."""
    test = doctest.DocTestParser().get_doctest(session, names, page.name, str(page), line)
    failures, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    names.update(test.globs)
    if failures:
        raise AssertionError(f"{page}: the session at line {line + 1} does not print what the page says")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
