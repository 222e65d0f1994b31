# SPDX-License-Identifier: MIT
"""ONNX: a backend for models made of RNN, GRU and LSTM nodes, and `from_onnx`, which finds these nodes in any model.

In the order of their imports: `activations` and `nodes` read a node, `cells` runs one direction of it, `backend` a
whole model; `graphs` knows where a model's values come from, `convert` makes layers of its recurrent nodes.

An LSTM's `clip` also bounds c on its way into h(c), as the standard says; ONNX Runtime does not clip there.
"""

try:
    import onnx as _onnx  # noqa: F401
except ImportError as problem:
    raise ImportError('fastrnn.onnx needs onnx, which is not installed: pip install "fastrnn[onnx]"') from problem

from .backend import FastrnnBackend, Prepared
from .convert import from_onnx

__all__ = [
    "FastrnnBackend",
    "Prepared",
    "from_onnx",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

is_compatible = FastrnnBackend.is_compatible
prepare = FastrnnBackend.prepare
run_model = FastrnnBackend.run_model
run_node = FastrnnBackend.run_node
supports_device = FastrnnBackend.supports_device
