# SPDX-License-Identifier: MIT
"""fastrnn.torch in real use: training, models taken over, copies, loaders, several processes, layers made from modules.

T times, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch_cases import (
    CELLS,
    B,
    H,
    I,
    T,
    assert_close,
    call,
    each_cell,
    each_dtype,
    inputs,
    modules,
    quiet,
    watched_ways,
)

import fastrnn
from fastrnn.torch import accelerate

pytestmark = quiet
ways = pytest.fixture(watched_ways)
HERE = Path(__file__).parent


class Tagger(nn.Module):
    """Two stacks, one of them used twice, on ragged batches."""

    def __init__(self, cell, dtype=torch.float32, **options):
        super().__init__()
        kind, more = CELLS[cell]
        self.first = kind(I, H, 2, **more, dtype=dtype, batch_first=True, dropout=0.3, **options)
        width = (self.first.proj_size or H) * (1 + self.first.bidirectional)
        self.inner = nn.ModuleDict({"tied": nn.Sequential(kind(width, H, **more, dtype=dtype), nn.Identity())})
        self.again = self.inner["tied"][0]
        self.last = nn.Linear(self.again.proj_size or H, 1, dtype=dtype)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, state = self.first(packed)
        padded, _ = pad_packed_sequence(packed)
        _, state = self.again(padded)
        return self.last(state[0][0] if isinstance(state, tuple) else state[0])


def tagger(cell, **options):
    torch.manual_seed(0)
    return Tagger(cell, **options)


# -- training --------------------------------------------------------------------------------------------------------


def losses(model, dtype, epochs=15):
    """Of learning which of two ragged kinds of sequences is which, with dropout and momentum."""
    rng = torch.Generator().manual_seed(1)
    x, lengths = torch.randn(12, T, I, generator=rng, dtype=dtype), torch.tensor([1, 2, 3, 4, 5, 6] * 2)
    y = (x.sum((1, 2), keepdim=False) > 0).to(dtype)[:, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    torch.manual_seed(2)
    found = []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x, lengths), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


@each_dtype
@each_cell
def test_the_same_loss_curve(cell, dtype, ways):
    theirs, ours = (tagger(cell, dtype=dtype, bidirectional=True) for _ in range(2))
    wanted = losses(theirs, dtype)
    assert len(ways) == 0
    np.testing.assert_allclose(losses(accelerate(ours), dtype), wanted, rtol=1e-3 if dtype is torch.float32 else 1e-9)
    assert len(ways) == 30 and ways.kernels_only() and wanted[-1] < wanted[0]


def test_two_processes_have_the_gradients_of_one(tmp_path):
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "FASTRNN_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "torch_ddp.py"), str(tmp_path / "meeting")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6


def test_in_forked_workers_of_a_loader():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / "torch_loader.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.stdout == "True\n", done.stderr


# -- models ----------------------------------------------------------------------------------------------------------


@each_cell
def test_accelerating_a_model(cell):
    """In place: parameters, ties, hooks and names are the same objects as before."""
    model = tagger(cell).eval()
    x, lengths = torch.randn(B, T, I), torch.tensor([2, T, 1])
    seen = []
    model.first.register_forward_hook(lambda *_: seen.append("called"))
    before, wanted = dict(model.named_parameters()), model(x, lengths)
    state, shown = copy.deepcopy(model.state_dict()), repr(model)
    assert accelerate(model) is model
    kind = getattr(fastrnn.torch, CELLS[cell][0].__name__)
    assert type(model.first) is type(model.again) is kind and model.again is model.inner["tied"][0]
    assert all(part is before[name] for name, part in model.named_parameters())
    assert model.state_dict().keys() == state.keys() and repr(model) == shown
    assert_close(model(x, lengths), wanted)
    assert seen == ["called", "called"]
    plain = tagger(cell)
    plain.load_state_dict(model.state_dict())
    assert_close(plain.eval()(x, lengths), wanted)
    assert accelerate(model) is model and type(model.first) is kind


class Named(nn.LSTM):
    """Somebody's own."""


def test_accelerate_leaves_other_modules_alone():
    model = nn.ModuleList([Named(I, H), nn.LSTMCell(I, H), nn.Linear(I, H), nn.GRU(I, H)])
    parametrize.register_parametrization(model[3], "weight_hh_l0", nn.Identity())
    kinds = [type(module) for module in model]
    accelerate(model)
    assert [type(module) for module in model] == kinds
    alone = nn.GRU(I, H)
    assert accelerate(alone) is alone and type(alone) is fastrnn.torch.GRU
    with pytest.raises(TypeError, match=r"model: needs a torch\.nn\.Module, got 'lstm'"):
        accelerate("lstm")


@pytest.mark.parametrize("used", [False, True])
@each_cell
def test_copies(cell, used):
    """Pickled, deep, through torch.save; each with weights of its own."""
    theirs, ours = modules(cell, num_layers=2)
    x, states = inputs(ours, "time-first")
    if used:
        ours(x)[0].sum().backward()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    wanted = call(ours, x, states)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert type(other) is type(ours) and other.__dict__.keys() == theirs.__dict__.keys()
        assert_close(call(other, x, states), wanted)
        with torch.no_grad():
            other.weight_hh_l0.zero_()
        assert not torch.equal(call(other, x, states)[0], wanted[0])
    assert_close(call(ours, x, states), wanted)


# -- layers ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.5},
    "no-bias": {"bias": False, "num_layers": 2},
}


@each_dtype
@pytest.mark.parametrize("options", OPTIONS)
@each_cell
def test_from_torch(cell, options, dtype):
    for module in modules(cell, dtype=dtype, **OPTIONS[options]):
        layer = fastrnn.from_torch(module)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            assert getattr(layer, name) == getattr(module, name)
        x, states = inputs(module, "batch-first" if module.batch_first else "time-first")
        with torch.no_grad():
            wanted = call(module.eval(), x, states)
        arrays = tuple(part.numpy() for part in states)
        out, state = layer(x.numpy(), arrays if len(arrays) == 2 else arrays[0])
        found = [torch.from_numpy(part) for part in (out, *(state if isinstance(state, tuple) else (state,)))]
        assert_close(found, wanted)
        before = layer.flat_params.copy()
        with torch.no_grad():
            module.weight_hh_l0.zero_()
        assert (layer.flat_params == before).all()


def pruned():
    return prune.l1_unstructured(nn.GRU(I, H), "weight_hh_l0", 0.5)


def normed():
    return parametrize.register_parametrization(nn.GRU(I, H), "weight_hh_l0", nn.Identity())


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        (nn.Linear(2, 3), TypeError, "module: needs torch.nn.RNN, LSTM or GRU, got 'Linear'"),
        (nn.LSTMCell(2, 3), TypeError, "got 'LSTMCell'"),
        (Named(I, H), TypeError, "got 'Named'"),
        (normed(), TypeError, "got 'ParametrizedGRU'"),
        (pruned(), ValueError, "module.weight_hh_l0: needs a parameter, got something made from others"),
        ("lstm.pt", TypeError, "got 'str'"),
        (nn.GRU(I, H, dtype=torch.bfloat16), TypeError, "module.weight_ih_l0: needs float32 or float64.*bfloat16"),
        (nn.GRU(I, H, device="meta"), ValueError, "module.weight_ih_l0: needs numbers.*meta"),
    ],
    ids=str,
)
def test_from_torch_refuses_by_name(module, error, said):
    with pytest.raises(error, match=said):
        fastrnn.from_torch(module)


def test_from_torch_of_two_dtypes():
    module = nn.GRU(I, H)
    module.bias_hh_l0.data = module.bias_hh_l0.data.double()
    with pytest.raises(TypeError, match="one for all weights"):
        fastrnn.from_torch(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_layer_takes_tensors_of_any_width(dtype):
    state_dict = {name: value.to(dtype) for name, value in nn.LSTM(I, H).state_dict().items()}
    layer = fastrnn.LSTM(I, H)
    layer.load_state_dict(state_dict)
    for name, value in state_dict.items():
        assert (layer.params[name] == value.float().numpy()).all()


@pytest.mark.parametrize(
    "value", [torch.zeros(4 * H, I, device="meta"), torch.zeros(4 * H, I, dtype=torch.int32)], ids=["meta", "integers"]
)
def test_a_layer_takes_no_tensor_without_floats(value):
    layer = fastrnn.LSTM(I, H, seed=0)
    before = layer.flat_params.copy()
    with pytest.raises(TypeError, match=r"state_dict\['weight_ih_l0'\]: needs an array of floats, got"):
        layer.load_state_dict(layer.state_dict() | {"weight_ih_l0": value})
    assert (layer.flat_params == before).all()


def test_without_torch():
    """ImportError, with what to type."""
    code = "import sys; sys.modules['torch'] = None; import fastrnn; fastrnn.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode and 'pip install "fastrnn[torch]"' in done.stderr


def test_a_layer_and_a_module_have_the_same_bits():
    _, ours = modules("gru", hidden_size=19)
    x, states = inputs(ours, "time-first")
    layer = fastrnn.from_torch(ours)
    out, h = layer(x.numpy(), states[0].numpy())
    with torch.no_grad():
        found = call(ours, x, states)
    assert (found[0].numpy() == out).all() and (found[1].numpy() == h).all()
    out, h, tape = layer.forward(x.numpy(), states[0].numpy())
    grads = layer.backward(tape, np.ones_like(out))
    ours(x, states[0])[0].sum().backward()
    for name, part in ours.named_parameters():
        assert (part.grad.numpy() == grads.params[name]).all()


@each_cell
def test_gradients_pile_up(cell):
    _, ours = modules(cell)
    x, _ = inputs(ours, "time-first")
    once = torch.autograd.grad(ours(x)[0].sum(), list(ours.parameters()))
    for _ in range(2):
        ours(x)[0].sum().backward()
    assert_close([part.grad for part in ours.parameters()], [2 * part for part in once])
