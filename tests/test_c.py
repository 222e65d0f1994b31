# SPDX-License-Identifier: MIT
"""The C primitives on their own: tests/c, built and run here, as they are shipped and under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "c"
PROGRAMS = {"activations", "apart", "cells", "products", "threads"}


@pytest.mark.parametrize("target", ["check", "check-sanitize"])
def test_primitives(target, tmp_path):
    """No compiler is a failure: the kernels could not have been built without one."""
    command = ["make", "-j2", "-s", "-C", str(HERE), target, f"BUILD={tmp_path}", f"CC={os.environ.get('CC', 'cc')}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[1].rstrip(",") for line in lines if line[0] == "ok"} == PROGRAMS
