# SPDX-License-Identifier: MIT
"""Fixtures: the compiled kernels on each instruction set, behind the public API, and on as many threads as wanted.

And which bridges are tested: those whose frameworks are installed, or, with FASTRNN_BRIDGES=all, all of them.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastrnn import _bptt, _kernels, _unroll, config, native

USABLE = [name for name, runs in _kernels.instruction_sets().items() if runs]
IN_USE = config._isa or USABLE[-1]

_kernels.use(IN_USE)  # with FASTRNN_BACKEND=numpy nobody has


@pytest.fixture(scope="module", params=USABLE)
def isa(request):
    """Each instruction set that this machine runs, in turn. What was packed for one is of no use to the next."""
    _kernels.use(request.param)
    yield request.param
    _kernels.use(IN_USE)


@pytest.fixture(scope="module")
def compiled():
    """The public API on the compiled kernels, whatever FASTRNN_BACKEND says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_backend", native)
        yield


@pytest.fixture
def threads():
    """A function that sets the number of threads. Meanwhile every call is shared out, however small."""
    flops, weights = _unroll.set_shared_flops(0), _unroll.set_shared_weights(0)
    yield _unroll.set_threads
    _unroll.set_shared_flops(flops)
    _unroll.set_shared_weights(weights)
    _unroll.set_threads(config.get_num_threads(), config._processors())


@pytest.fixture
def near_bytes():
    """A function that sets what a near cache is taken to hold."""
    so_far = _bptt.set_near_bytes(0)
    _bptt.set_near_bytes(so_far)
    yield _bptt.set_near_bytes
    _bptt.set_near_bytes(so_far)


# -- bridges ---------------------------------------------------------------------------------------------------------

NEEDED = {
    "test_onnx.py": ("onnx",),
    "test_onnx_runtime.py": ("onnx", "onnxruntime"),
    "test_from_onnx.py": ("onnx", "onnxruntime"),
    "test_onnx_export.py": ("onnx", "onnxruntime", "onnxscript", "torch"),
    "test_keras*.py": ("keras", "h5py", "torch"),
    "test_keras_backends.py": ("jax",),
    "test_sklearn*.py": ("sklearn",),
    "test_sklearn_rules.py": ("pandas", "torch"),
    "test_torch*.py": ("torch", "expecttest"),
    "test_examples.py": ("torch", "dask", "mpi4py"),
    "test_imports.py": ("torch", "onnx", "keras", "h5py", "sklearn", "jax"),
    "test_pages.py": ("torch", "onnx", "onnxruntime", "keras", "h5py", "sklearn", "matplotlib"),
}


def missing(name: str) -> list[str]:
    """The packages that a file of tests needs and that are not there."""
    needed = [package for pattern, packages in NEEDED.items() if fnmatch(name, pattern) for package in packages]
    return [package for package in needed if find_spec(package) is None]


FILES = sorted(path.name for path in Path(__file__).parent.glob("bridges/test_*.py"))
LEFT_OUT = {name: lacking for name in FILES if (lacking := missing(name))}

if LEFT_OUT and os.environ.get("FASTRNN_BRIDGES") == "all":
    raise ImportError(f"FASTRNN_BRIDGES=all, but packages are missing: {LEFT_OUT}")

collect_ignore = [f"bridges/{name}" for name in LEFT_OUT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so, or nobody would know."""
    for name, lacking in LEFT_OUT.items():
        terminalreporter.write_line(f"not tested: bridges/{name}, without {', '.join(lacking)}")
