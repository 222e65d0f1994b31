# SPDX-License-Identifier: MIT
"""With all frameworks installed: who brings which. tests/test_house.py asks the same where there may be none."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

FRAMEWORKS = {"torch", "onnx", "onnxruntime", "keras", "h5py", "sklearn", "jax"}
USE = "import numpy as np; fastrnn.LSTM(2, 3)(np.zeros((4, 1, 2), np.float32))"
BROUGHT = {
    "import fastrnn": set(),
    f"import fastrnn; {USE}": set(),
    "import fastrnn.keras": set(),  # whose user has imported Keras, or has a file
    "import fastrnn.torch": {"torch"},
    "import fastrnn.onnx": {"onnx"},
    "import fastrnn.sklearn": {"sklearn"},
}


@pytest.mark.parametrize(("code", "brought"), BROUGHT.items())
def test_import_brings_no_other_framework(code, brought):
    assert all(map(find_spec, FRAMEWORKS))
    shown = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}; {shown}"], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fastrnn" in loaded and loaded & FRAMEWORKS == brought


def test_a_torch_that_lacks_something_is_named():
    code = "import torch; del torch._C._dynamo.eval_frame.get_eval_frame_callback; import fastrnn.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "\nImportError: fastrnn.torch needs torch 2.6 or newer, tested with 2.13, got 2." in done.stderr
