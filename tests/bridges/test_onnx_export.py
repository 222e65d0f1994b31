# SPDX-License-Identifier: MIT
"""from_onnx and the backend on what PyTorch exports, against PyTorch and ONNX Runtime.

T time steps, B batch, I input size, H hidden size, L layers, D directions.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import fastrnn.onnx
import fastrnn.torch

T, B, I, H = 6, 2, 3, 5
CELLS = {"rnn": (nn.RNN, {}), "relu": (nn.RNN, {"nonlinearity": "relu"}), "gru": (nn.GRU, {}), "lstm": (nn.LSTM, {})}
STACKS = {
    "plain": {},
    "stacked": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "both": {"num_layers": 2, "bidirectional": True},
    "batch-first": {"num_layers": 2, "batch_first": True},
    "no-bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}


class Tagger(nn.Module):
    """A Linear layer, a recurrent stack, another Linear layer."""

    def __init__(self, cell, hidden_size=H, **options):
        super().__init__()
        kind, more = CELLS[cell]
        self.before = nn.Linear(4, I)
        self.stack = kind(I, hidden_size, **more, **options)
        self.after = nn.Linear(hidden_size * (1 + self.stack.bidirectional), 2)

    def forward(self, x):
        return self.after(self.stack(self.before(x))[0])


def exported(module, *inputs, names, free=False, fold=True):
    """The model that the TorchScript exporter writes; ``free``: for any T and B."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and knows that T and B may vary
        torch.onnx.export(
            module.eval(),
            inputs,
            file,
            dynamo=False,
            input_names=names,
            dynamic_axes={name: {0: "m", 1: "n"} for name in names} if free else None,
            do_constant_folding=fold,
        )
    return onnx.load_from_string(file.getvalue())


def exported_by_dynamo(module, x, free=False):
    """The model that the exporter on torch.export writes."""
    shapes = ({0: torch.export.Dim("m"), 1: torch.export.Dim("n")},) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False, dynamic_shapes=shapes).model_proto


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def check(module, model, x):
    """The one layer in the model computes what PyTorch's stack and ONNX Runtime do."""
    (layer,) = fastrnn.onnx.from_onnx(model).values()
    stack = module.stack
    assert (layer.num_layers, layer.bidirectional) == (stack.num_layers, stack.bidirectional)
    with torch.no_grad():
        given = module.before(x)
        expected, ends = stack(given)
        if stack.batch_first:  # the graph transposes around the nodes
            given, expected = given.swapaxes(0, 1), expected.swapaxes(0, 1)
        out, state = layer(given.numpy())
        close(out, expected)
        for ours, theirs in zip(state, ends, strict=True) if layer.cell == "lstm" else [(state, ends)]:
            close(ours, theirs)
        out = torch.from_numpy(out)
        whole = module.after(out.swapaxes(0, 1) if stack.batch_first else out)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    close(whole, session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("free", [False, True])
def test_what_torchscript_exports(cell, stack, free):
    torch.manual_seed(0)
    module, x = Tagger(cell, **STACKS[stack]), torch.randn(T, B, 4)
    check(module, exported(module, x, names=["x"], free=free), x)


def test_weights_that_are_not_folded():
    torch.manual_seed(0)
    module, x = Tagger("lstm", num_layers=2, bidirectional=True), torch.randn(T, B, 4)
    model = exported(module, x, names=["x"], fold=False)
    assert "Slice" in {node.op_type for node in model.graph.node}
    check(module, model, x)


BY_DYNAMO = {  # whether T and B may vary; a hidden size: large weights it does not fold. Both take it seconds
    "plain": (True, H),
    "stacked": (False, 72),
    "bidirectional": (False, H),
    "both": (True, 72),
    "batch-first": (True, H),
    "no-bias": (False, 72),
}


@pytest.mark.parametrize("cell", ["gru", "lstm"])  # RNN it unrolls
@pytest.mark.parametrize("stack", BY_DYNAMO)
def test_what_dynamo_exports(cell, stack, caplog):
    caplog.set_level(logging.CRITICAL)
    torch.manual_seed(0)
    free, hidden_size = BY_DYNAMO[stack]
    module, x = Tagger(cell, hidden_size, **STACKS[stack]), torch.randn(T, B, 4)
    check(module, exported_by_dynamo(module, x, free), x)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_our_modules_are_exported_as_those_of_pytorch(cell, exporter, caplog):
    caplog.set_level(logging.CRITICAL)
    torch.manual_seed(0)
    module, x = Tagger(cell, num_layers=2, bidirectional=True), torch.randn(T, B, 4)
    twin = fastrnn.torch.accelerate(copy.deepcopy(module))
    assert type(twin.stack).__module__ == "fastrnn.torch"
    theirs, ours = (
        exported(one, x, names=["x"]) if exporter == "torchscript" else exported_by_dynamo(one, x)
        for one in (module, twin)
    )
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]
    session = onnxruntime.InferenceSession(ours.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        close(session.run(None, {"x": x.numpy()})[0], module(x))


def test_initial_states_are_given_to_the_layer():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = nn.LSTM(I, H, 2)

        def forward(self, x, h, c):
            return self.stack(x, (h, c))

    torch.manual_seed(0)
    module, x, h, c = Decoder(), torch.randn(T, B, I), torch.randn(2, B, H), torch.randn(2, B, H)
    (layer,) = fastrnn.onnx.from_onnx(exported(module, x, h, c, names=["x", "h", "c"])).values()
    out, state = layer(x.numpy(), (h.numpy(), c.numpy()))
    with torch.no_grad():
        expected, ends = module(x, h, c)
    close(out, expected)
    for ours, theirs in zip(state, ends, strict=True):
        close(ours, theirs)


def test_two_stacks_in_one_model():
    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.GRU(I, H, 2, bidirectional=True), nn.GRU(2 * H, H)

        def forward(self, x):
            return self.decoder(torch.relu(self.encoder(x)[0]))[0]

    torch.manual_seed(0)
    module, x = Translator(), torch.randn(T, B, I)
    encoder, decoder = (layers := fastrnn.onnx.from_onnx(exported(module, x, names=["x"]))).values()
    assert [name.split("/")[1] for name in layers] == ["encoder", "decoder"]
    with torch.no_grad():
        close(decoder(np.maximum(encoder(x.numpy())[0], 0))[0], module(x))


@pytest.mark.parametrize("cell", CELLS)
def test_an_exported_node_runs_on_the_backend(cell):
    """The node alone, with its weights, cut out of the model that PyTorch wrote."""
    torch.manual_seed(0)
    module, x = Tagger(cell, bidirectional=True), torch.randn(T, B, 4)
    model = exported(module, x, names=["x"])
    (node,) = (node for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM"))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    with torch.no_grad():
        given = module.before(x)
        expected = module.stack(given)[0].reshape(T, B, 2, H).swapaxes(1, 2)
    node.input[:] = [*node.input[:4]]
    Y = fastrnn.onnx.run_node(node, [given.numpy(), *(weights[name] for name in node.input[1:])])[0]
    close(Y, expected)
