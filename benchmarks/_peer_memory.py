# SPDX-License-Identifier: MIT
"""The peak memory of a call: by how much it makes the resident memory of a process grow, at its highest.

Libraries keep memory for later calls: fastrnn blocks of up to 256 MiB in all, ONNX Runtime and OpenVINO arenas, the C
library what was freed. Whoever measures a later call sees nothing of it. So a process that has loaded the library but
never called it forks; its child warms up with a tiny case of the same kind (code is read in, threads start), prepares
the case (the model with its weights, what is packed or compiled beforehand), gives back to the system all that the C
library holds, resets the high-water mark, and the first call after that is the one that counts: its result, what it
keeps for the backward pass, gradients and workspaces. ONNX Runtime and OpenVINO write into arrays that stand before.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from _peer_task import Peak, Run, Task

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_HIGH_WATER = "5"  # proc(5)
LARGEST = 31 << 20  # bytes of a block that glibc, having seen it freed, does not give back to the system any more


def keep_what_is_freed() -> None:
    """Let the C library keep memory, as it does in a process that has once freed as much as this. Before, it is chance
    whether a library has to ask the system for its pages in every call: up to half of the time of a small one."""
    bytearray(LARGEST)


def resident(name: str) -> int:
    """Bytes: VmRSS is now, VmHWM at most since the reset."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1])


def first_call(prepare: Callable[[Task], Run], asked: Peak) -> int:
    """Bytes."""
    warm_up = prepare(asked.tiny)
    warm_up()
    warm_up()
    del warm_up
    run = prepare(asked.task)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text(RESET_HIGH_WATER)
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def peak(prepare: Callable[[Task], Run], asked: Peak) -> int | None:
    """Bytes of a first call, in a child process; None where there is no Linux, or the library cannot do the task."""
    if not CLEAR_REFS.exists():
        return None
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of forks after it has started threads
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(first_call(prepare, asked)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text) if text else None
