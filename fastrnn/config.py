# SPDX-License-Identifier: MIT
"""Backend, instruction set and threads, as the environment sets them: the only door to the compiled half.

FASTRNN_BACKEND      native or numpy; unset: native where it can be loaded, else numpy with a warning
FASTRNN_ISA          the highest instruction set to use: portable, avx2 or avx512
FASTRNN_NUM_THREADS  the most threads a call may use; unset: as many as the processors this process may use, or
                     its container's CPU quota, rounded up, if that is less
"""

from __future__ import annotations

import math
import os
import platform
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from . import _check, reference

__version__ = "0.1.0"

BACKENDS = ("native", "numpy")
ISAS = ("portable", "avx2", "avx512")
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu"))  # v2 and v1, as a container sees its own
MOST_THREADS = 64  # csrc/frnn.h has FRNN_MOST_THREADS: these, or 1 where there is no pool

_backend: ModuleType = reference
_kernels: Any = None  # the compiled modules, None without them
_unroll: Any = None
_isa = ""
_threads = 1
_why = ""


def backend() -> ModuleType:
    """The module that computes: `fastrnn.native` or `fastrnn.reference`."""
    return _backend


def get_num_threads() -> int:
    """The most threads that a call may use.

    Returns
    -------
    int
    """
    return _threads


def set_num_threads(n: int) -> None:
    """Set the most threads that a call may use.

    A call uses fewer where more would not pay, and no more than the processors this process may use now, or its
    container's CPU quota when it began. Results have the same bits with any number. The NumPy backend takes no notice:
    its threads are those of NumPy's BLAS.

    Parameters
    ----------
    n : int
        In 1..64.

    Raises
    ------
    TypeError, ValueError
        If `n` is not such an integer.
    """
    global _threads
    _threads = _check.integer("n", n, 1, MOST_THREADS)
    if _unroll is not None:
        _threads = _unroll.set_threads(_threads, _processors())


def describe() -> dict[str, str]:
    """What `show_config` prints: version, backend and why, instruction sets, threads, NumPy, compiler, Python."""
    native = _kernels is not None
    sets = _kernels.instruction_sets() if native else {}
    return {
        "fastrnn": __version__,
        "backend": f"{'native' if native else 'numpy'} ({_why})",
        "instruction set": _isa or "NumPy's own",
        "available": ", ".join(name for name, usable in sets.items() if usable) or "none: no compiled kernels in use",
        "threads": str(_threads),
        "NumPy": np.__version__,
        "compiler": _kernels.compiler() if native else "none",
        "Python": f"{platform.python_version()} on {sys.platform} {platform.machine()}",
    }


def show_config() -> None:
    """Print version, backend and why, instruction set in use and available, threads, NumPy and compiler."""
    rows = describe()
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:<{width}}{value}")


# -- at import -------------------------------------------------------------------------------------------------------


def _setting(name: str, known: tuple[str, ...]) -> str | None:
    value = os.environ.get(name) or None
    return None if value is None else _check.choice(name, value, known)


def _choose_backend() -> None:
    global _backend, _kernels, _unroll, _isa, _why
    limit = _setting("FASTRNN_ISA", ISAS)
    wanted = _setting("FASTRNN_BACKEND", BACKENDS)
    if wanted == "numpy":
        _why = "FASTRNN_BACKEND=numpy"
        return
    compiled = ("_kernels", "_unroll", "native")
    try:
        _kernels, _unroll, native = (import_module(f"{__package__}.{name}") for name in compiled)
    except ImportError as problem:
        _kernels = _unroll = None
        _why = f"the compiled kernels could not be loaded: {problem}"
        if Path(__file__).with_name("_kernels.pyx").exists():
            _why += "; this is the source folder: start Python elsewhere, or pip install -e ."
        if wanted == "native":
            raise ImportError(f"FASTRNN_BACKEND=native, but {_why}") from problem
        warnings.warn(f"fastrnn runs on NumPy alone, many times slower: {_why}", RuntimeWarning, stacklevel=2)
        return
    usable = [name for name, runs in _kernels.instruction_sets().items() if runs]
    allowed = ISAS[: ISAS.index(limit) + 1] if limit else ISAS
    _isa = [name for name in usable if name in allowed][-1]
    _kernels.use(_isa)
    _backend = native
    _check.dimensions = _kernels.dimensions
    _why = "FASTRNN_BACKEND=native" if wanted else "compiled kernels"


def _default_threads() -> int:
    value = os.environ.get("FASTRNN_NUM_THREADS")
    if value:
        if not value.strip().isdecimal():
            raise ValueError(f"FASTRNN_NUM_THREADS: needs an integer in 1..{MOST_THREADS}, got {value!r}")
        return _check.integer("FASTRNN_NUM_THREADS", int(value), 1, MOST_THREADS)
    return min(_processors(), MOST_THREADS)


def _cpu_quota() -> float:
    """The CPU quota of a container in processors; infinite without one."""
    found = math.inf
    for folder in CGROUPS:
        with suppress(OSError, ValueError, ZeroDivisionError):  # no limit says "max", an older one -1
            names = ("cpu.max",) if folder.joinpath("cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int(part) for name in names for part in folder.joinpath(name).read_text().split())
            found = min(found, quota / period if quota > 0 else found)
    return found


def _processors() -> int:
    """How many this process may use: those it may run on, or its container's quota, rounded up."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(usable, CPU_QUOTA)))


CPU_QUOTA = _cpu_quota()  # asked once: it takes 50 us, and calls may set their threads
_choose_backend()
set_num_threads(_default_threads())
