# SPDX-License-Identifier: MIT
"""Does an installed wheel work? Its path is the argument. Run it outside of the checkout, in a bare environment."""

import importlib.metadata
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

import fastrnn

MOST_OF_WHEEL, MOST_OF_CODE = 1_000_000, 1_000_000

files = [Path(file.locate()) for file in importlib.metadata.files("fastrnn") if file.suffix != ".pyc"]
wheel, installed = Path(sys.argv[1]).stat().st_size, sum(file.stat().st_size for file in files)
data = sum(file.stat().st_size for file in files if file.suffix == ".npz")
print(f"wheel {wheel / 1e6:.2f} MB, installed {installed / 1e6:.2f} MB, {data / 1e6:.2f} MB of it data")
assert wheel < MOST_OF_WHEEL and installed - data < MOST_OF_CODE
assert Path(fastrnn.__file__).with_name("py.typed").exists()
assert "site-packages" in fastrnn.__file__ and fastrnn.config.backend() is not fastrnn.reference

rng = np.random.default_rng(0)
x = rng.standard_normal((9, 3, 5)).astype(np.float32)
layer = fastrnn.LSTM(5, 7, num_layers=2, seed=0)
out, state, tape = layer.forward(x)
grads = layer.backward(tape, grad_out=np.ones_like(out))
assert out.shape == (9, 3, 7) and grads.flat.shape == layer.flat_params.shape and np.abs(grads.flat).max() > 0
stream = layer.stream(batch_size=3)
assert all(np.array_equal(stream(x_t), out_t) for x_t, out_t in zip(x, out, strict=True))


def milliseconds(module):
    """The median time of an import in a process of its own."""
    code = f"import time; t = time.perf_counter(); import {module}; print(1e3 * (time.perf_counter() - t))"
    command = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(9))


numpy, both = milliseconds("numpy"), milliseconds("numpy, fastrnn")
print(f"import: NumPy {numpy:.1f} ms, fastrnn {both - numpy:.1f} ms more")
