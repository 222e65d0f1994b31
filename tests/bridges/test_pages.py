# SPDX-License-Identifier: MIT
"""The documentation: every block of Python on its pages runs, with the real frameworks, and no name is left out."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn
import fastrnn.onnx
import fastrnn.sklearn
import fastrnn.torch

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if "```python\n" in path.read_text("utf-8"))
PUBLIC = {name for name in fastrnn.__all__ if name not in ("__version__", "optim", "reference")}
PUBLIC |= {"from_torch", "from_keras", "from_onnx"}
PUBLIC |= {f"fastrnn.torch.{name}" for name in fastrnn.torch.__all__ if name != "from_torch"}
PUBLIC |= {f"fastrnn.sklearn.{name}" for name in fastrnn.sklearn.__all__}
PUBLIC |= {f"fastrnn.optim.{name}" for name in ("SGD", "Adam", "clip_grad_norm")}
RUNNER = [sys.executable, str(DOCS / "pages.py")]


def run(page, folder):
    environment = {"KERAS_BACKEND": "torch"} | os.environ
    return subprocess.run(
        [*RUNNER, str(page)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("module", ["fastrnn.sklearn", "fastrnn.onnx.convert"])
def test_examples_of_docstrings_run(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted and not results.failed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path):
    done = run(page, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.findall(r"\]\(_pictures/(\w+\.svg)\)", page.read_text("utf-8"))
    assert all((tmp_path / name).stat().st_size > 1000 for name in shown)  # what conf.py relies on


@pytest.mark.parametrize("block", ["assert 1 == 2", ">>> 1 + 1\n3", "import a_module_that_is_not_there"])
def test_a_page_with_a_mistake_does_not(block, tmp_path):
    (tmp_path / "page.md").write_text(f"# Page\n\n```python\nx = 1\n```\n\n```python\n{block}\n```\n")
    assert run(tmp_path / "page.md", tmp_path).returncode != 0


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_reference_has_every_name(name):
    assert re.search(rf"^\.\. auto\w+:: {re.escape(name)}(\(\))?$", (DOCS / "api.md").read_text("utf-8"), re.M)
