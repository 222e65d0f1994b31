# SPDX-License-Identifier: MIT
"""from_keras on other backends of Keras than that of test_keras.py: each needs a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPARED = ["SimpleRNN", "LSTM", "GRU", "GRU-before", "Bidirectional", "Sequential", "file"]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_backend_agrees(backend, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "keras_backend.py"), str(tmp_path)],
        env=os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    used, *lines = done.stdout.splitlines()
    differences = {name: float(difference) for name, difference in map(str.split, lines)}
    assert used == backend and list(differences) == COMPARED
    assert all(difference <= 1e-5 for difference in differences.values()), differences
