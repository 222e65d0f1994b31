# SPDX-License-Identifier: MIT
"""The process of one peer: `python _peer_worker.py MODULE FUNCTION`, started by `peers.py` with all threads set.

It reads from stdin, and answers:
a Task with the arrays of its first runs, or why it cannot;
a number of calls with the seconds of one of the last task, after one that is not timed: it finds in the caches what the
other libraries left there;
a Peak, to be asked before any Task, with bytes or None.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from importlib import import_module
from timeit import timeit
from typing import Any

import numpy as np
from _peer_memory import keep_what_is_freed, peak
from _peer_task import Peak, Run, Task, UnableError

STEPS = 3  # of a stream that are compared


def arrays_of(result: Any) -> Iterator[np.ndarray]:
    """Copies of all arrays in a result, without the axes that some peers have more than others."""
    if isinstance(result, (tuple, list)):
        for part in result:
            yield from arrays_of(part)
    elif result is not None:
        yield np.asarray(result).squeeze().copy()


def first_results(run: Run, task: Task) -> tuple[np.ndarray, ...]:
    """What is compared."""
    return tuple(array for _ in range(STEPS if task.mode == "step" else 1) for array in arrays_of(run()))


def main(module: str, function: str) -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    prepare, run = getattr(import_module(module), function), None
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if isinstance(asked, Task):
            keep_what_is_freed()
            try:
                run = prepare(asked)
                answer = first_results(run, asked)
            except UnableError as reason:
                answer = str(reason)
        elif isinstance(asked, Peak):
            answer = peak(prepare, asked)
        else:
            if asked > 1:
                run()
            answer = timeit(run, number=asked) / asked
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
