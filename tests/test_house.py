# SPDX-License-Identifier: MIT
"""The house rules that no other test would notice: who imports whom, what is said and shown, what is exported."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastrnn"
MOST_COLUMNS = 120
MOST_LINES = 550  # about 500: more is a second room
FRAMEWORKS = {"torch", "tensorflow", "keras", "h5py", "jax", "onnx", "sklearn", "joblib", "threadpoolctl"}
FRAMEWORKS |= {"matplotlib", "tqdm", "pytest"}
COMMANDS = (
    'python3 -m venv .venv && .venv/bin/pip install ".[demo]" && .venv/bin/fastrnn demo',
    'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest',
)


def sources(*patterns):
    """Our own files: what Cython makes is not among them."""
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path for path in found if path.is_file() and not (path.suffix == ".c" and path.parent == PACKAGE)]


def stem(path):
    return path.name.partition(".")[0]


# -- imports ---------------------------------------------------------------------------------------------------------


def test_imports_point_down():
    """The contract stands in pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "below"),
    [
        ("_arrays", set()),
        ("_kernels", {"_arrays"}),
        ("_rows", {"_kernels"}),
        ("_unroll", {"_arrays", "_kernels", "_rows"}),
        ("_bptt", {"_arrays", "_kernels", "_rows", "_unroll", "_records"}),
        ("_rnn", {"_kernels", "_unroll", "_bptt"}),
        ("_lstm", {"_kernels", "_unroll", "_bptt"}),
        ("_gru", {"_kernels", "_unroll", "_bptt"}),
        ("_stepper", {"_arrays", "_kernels", "_unroll", "_records"}),
    ],
)
def test_compiled_modules_import_down(module, below):
    """And know NumPy as Python does, so that the build needs Cython alone."""
    text = "".join(path.read_text("utf-8") for path in sources(f"fastrnn/{module}.p??"))
    assert set(re.findall(r"^ *from (?:fastrnn)?\.(\w+) c?import", text, re.M)) - {module} <= below
    assert "import" in text and not re.search(r"^ *cimport numpy|^ *from numpy cimport", text, re.M)


def test_import_leaves_to_numpy_what_it_loads_on_first_use():
    """numpy.random takes twice as long as all of ours."""
    code = "import sys, numpy; before = set(sys.modules); import fastrnn; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("numpy")]


def test_import_brings_no_framework():
    code = "import sys, fastrnn; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded and not FRAMEWORKS & loaded


def test_config_alone_reads_the_settings():
    assert {path.name for path in sources("fastrnn/**/*.py") if '"FASTRNN_' in path.read_text("utf-8")} == {"config.py"}


# -- the core in C ---------------------------------------------------------------------------------------------------


def without_comments(path):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text("utf-8"), flags=re.S)


@pytest.mark.parametrize("path", sources("csrc/*.[ch]"), ids=lambda path: path.name)
def test_core_neither_allocates_nor_speaks(path):
    assert not re.search(
        r"\b(Python\.h|malloc|calloc|realloc|free|printf|fprintf|abort|exit)\b", without_comments(path)
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("_*.so")), ids=stem)
def test_exports_nothing_but_its_init(path):
    options = ["-gU"] if sys.platform == "darwin" else ["-D", "--defined-only"]
    lines = subprocess.run(["nm", *options, str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1].lstrip("_") for line in lines] == [f"PyInit_{stem(path)}"]


# -- what is said ----------------------------------------------------------------------------------------------------

ARRAYS = {"x", "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "state0", "lengths", "state", "out", "params", "grad"}
PUBLIC = {name: getattr(fastrnn, name) for name in fastrnn.__all__ if callable(getattr(fastrnn, name))}
LAYERS = (fastrnn.RNN, fastrnn.LSTM, fastrnn.GRU)


def entries(docstring):
    """The parameters that a numpydoc docstring describes: name -> all that is said of it."""
    said = {}
    _, _, rest = docstring.partition("Parameters\n----------\n")
    for entry in re.split(r"\n(?! )", rest.partition("\n\n")[0]) if rest else ():
        names, _, kind = entry.partition("\n")[0].partition(" : ")
        said |= dict.fromkeys(names.split(", "), kind + entry.partition("\n")[2])
    return said


def methods(cls):
    return [f for name, f in inspect.getmembers(cls, inspect.isfunction) if name == "__call__" or name[0] != "_"]


DESCRIBED = {*PUBLIC.values(), *(f for cls in (*LAYERS, fastrnn.Stream) for f in methods(cls))}


@pytest.mark.parametrize(
    "described", sorted(DESCRIBED, key=lambda it: it.__qualname__), ids=lambda described: described.__qualname__
)
def test_docstring_says_what_it_takes(described):
    """One that lists parameters lists all, and the shape of each array, or where that is said."""
    said = entries(inspect.getdoc(described) or "")
    taken = set(inspect.signature(described).parameters) - {"self"}
    assert inspect.getdoc(described)
    assert not said or set(said) == taken
    assert all(re.search(r"\bshapes?\b|\b[Aa]s (for|in)\b", said[name]) for name in ARRAYS & set(said))


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isfunction(value)])
def test_function_is_described_in_full(name):
    function = PUBLIC[name]
    signature, text = inspect.signature(function), inspect.getdoc(function)
    assert set(entries(text)) == set(signature.parameters)
    assert ("\nReturns\n-------\n" in text) == (signature.return_annotation != "None")


EXAMPLES = [
    path for path in sources("fastrnn/*.py") if ">>>" in path.read_text("utf-8") and path.stem not in FRAMEWORKS
]


@pytest.mark.parametrize("path", EXAMPLES, ids=stem)
def test_examples_of_docstrings_run(path):
    results = doctest.testmod(importlib.import_module(f"fastrnn.{path.stem}"))
    assert results.attempted and not results.failed


# -- the README ------------------------------------------------------------------------------------------------------


def test_readme_examples(tmp_path, monkeypatch):
    """All blocks of Python, one after the other, as somebody would type them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert blocks
    known = {"__name__": "__main__"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"README.md, block {number}", "exec"), known)


def included():
    """(document, file, text): what an include of the documentation begins after or ends before."""
    for path in sources("docs/*.md"):
        for file, options in re.findall(r"```\{(?:literal)?include\} (\S+)\n((?::.*\n)*)", path.read_text("utf-8")):
            for text in re.findall(r":(?:start-after|start-at|end-before|end-at): (.+)", options):
                yield path.name, file, text.strip('"')
            for name in re.findall(r":pyobject: (.+)", options):
                yield path.name, file, f"def {name}("


@pytest.mark.parametrize(("document", "file", "text"), list(included()))
def test_what_documents_include_is_there(document, file, text):
    assert text in (ROOT / "docs" / file).read_text("utf-8"), document


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_gives_the_two_commands(command):
    assert command in (ROOT / "README.md").read_text("utf-8")


PAGES = sources("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "examples/*.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_prose_is_narrow(path):
    """Tables, pictures and what the benchmarks print aside."""
    lines = re.sub(r"<!-- floors: begin.*floors: end -->", "", path.read_text("utf-8"), flags=re.S).splitlines()
    assert not [line for line in lines if len(line) > MOST_COLUMNS and not line.startswith(("|", "!["))]


# -- the files -------------------------------------------------------------------------------------------------------

OURS = sources(
    "setup.py",
    ".ci/run",
    "csrc/*",
    "fastrnn/**/*.py",
    "fastrnn/*.p[yx][xd]",
    "tests/**/*.py",
    "tests/c/*",
    "benchmarks/*.py",
    "docs/*.py",
    "examples/*.py",
)


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_says_its_license(path):
    assert "SPDX-License-Identifier: MIT" in "".join(path.read_text("utf-8").splitlines()[:2])


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_is_narrow(path):
    assert all(len(line) <= MOST_COLUMNS for line in path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("path", sources("fastrnn/**/*.py", "fastrnn/*.p[yx][xd]"), ids=lambda path: path.name)
def test_stays_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES
