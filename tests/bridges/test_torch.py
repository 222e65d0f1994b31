# SPDX-License-Identifier: MIT
"""fastrnn.torch's modules are torch.nn's: results, gradients, errors, dropout, packed sequences, whatever the options.

T times, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence
from torch.testing._internal.common_modules import (
    ModuleErrorEnum,
    module_db,
    module_error_inputs_torch_nn_RNN_GRU,
    module_inputs_torch_nn_RNN_GRU,
)
from torch_cases import (
    CELLS,
    STACKS,
    B,
    H,
    I,
    T,
    assert_close,
    call,
    each_cell,
    each_dtype,
    each_layout,
    each_stack,
    flat,
    gradients,
    inputs,
    modules,
    options_of,
    packed,
    quiet,
    watched_ways,
)

import fastrnn.torch

pytestmark = quiet
ways = pytest.fixture(watched_ways)

RECURRENT = {info.module_cls.__name__: info for info in module_db if info.module_cls in (nn.RNN, nn.GRU, nn.LSTM)}
OURS = {"RNN": fastrnn.torch.RNN, "GRU": fastrnn.torch.GRU, "LSTM": fastrnn.torch.LSTM}


# -- PyTorch's own inputs --------------------------------------------------------------------------------------------


def agree(theirs, ours, example, dtype):
    """Forward, backward and second order on an input of PyTorch's."""
    results = []
    for module in (theirs, ours):
        arguments = example.forward_input.args
        found = [part for part in flat(module(*arguments)) if part.dtype is dtype]
        wanted = [part for part in flat(arguments) if part.requires_grad and part.is_leaf] + list(module.parameters())
        loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=dtype).view(part.shape)).sum() for part in found)
        results.append([*found, *torch.autograd.grad(loss, wanted)])
    assert_close(results[1], results[0])


@each_dtype
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", OURS)
def test_on_the_inputs_of_pytorch(name, training, dtype, ways):
    torch.manual_seed(0)
    info = RECURRENT[name]
    make = [info.module_inputs_func]
    if name != "LSTM":
        make.append(partial(module_inputs_torch_nn_RNN_GRU, is_rnn=name == "RNN", with_packed_sequence=True))
    for function in make:
        for example in function(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
            arguments = example.constructor_input
            theirs = info.module_cls(*arguments.args, **arguments.kwargs, dtype=dtype).train(training)
            ours = OURS[name](*arguments.args, **arguments.kwargs, dtype=dtype).train(training)
            ours.load_state_dict(theirs.state_dict())
            agree(theirs, ours, example, dtype)
    assert ways.kernels_only()


@pytest.mark.parametrize("name", OURS)
def test_errors_are_those_of_pytorch(name):
    info, seen = RECURRENT[name], 0
    for example in module_error_inputs_torch_nn_RNN_GRU(info, "cpu", torch.float32, False, False):
        arguments = example.module_error_input.constructor_input
        if example.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(example.error_type, match=example.error_regex):
                OURS[name](*arguments.args, **arguments.kwargs)
            seen += 1
    assert seen > 5


def state(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("cell", "arguments"),
    [
        ("gru", (torch.zeros(T, B, I + 1),)),
        ("gru", (torch.zeros(T, B, I, 1),)),
        ("gru", (torch.zeros(I),)),
        ("gru", (torch.zeros(0, B, I),)),
        ("gru", (torch.zeros(T, B, I, dtype=torch.float64),)),
        ("gru", (torch.zeros(T, B, I, dtype=torch.int64),)),
        ("gru", (torch.zeros(T, B, I), state(1, B, H + 1))),
        ("gru", (torch.zeros(T, B, I), state(1, B + 1, H))),
        ("gru", (torch.zeros(T, B, I), state(B, H))),
        ("gru", (torch.zeros(T, I), state(1, 1, H))),
        ("lstm", (torch.zeros(T, B, I), (state(1, B, H), state(1, B, H + 1)))),
        ("lstm", (torch.zeros(T, B, I), (state(1, B, H),))),
        ("lstm", (torch.zeros(T, B, I), state(1, B, H))),
        ("lstm", (torch.zeros(T, I), (state(1, 1, H), state(1, 1, H)))),
        ("projected", (torch.zeros(T, B, I), (state(1, B, H), state(1, B, H)))),
        ("rnn", (pack_sequence([torch.zeros(3, I), torch.zeros(2, I)]), state(1, 3, H))),
        ("rnn", (np.zeros((T, B, I), np.float32),)),
        ("rnn", (None,)),
    ],
    ids=str,
)
def test_errors_of_a_call_are_those_of_pytorch(cell, arguments):
    theirs, ours = modules(cell)
    with pytest.raises(Exception) as wanted:
        theirs(*arguments)
    with pytest.raises(type(wanted.value)) as found:
        ours(*arguments)
    assert str(found.value) == str(wanted.value)


# -- options and layouts ---------------------------------------------------------------------------------------------


@each_dtype
@each_layout
@each_stack
@each_cell
def test_results_and_gradients_are_those_of_pytorch(cell, stack, layout, dtype, ways):
    theirs, ours = modules(cell, dtype=dtype, **STACKS[stack], **options_of(layout))
    x, states = inputs(theirs, layout)
    for given in (None, states):
        assert_close(gradients(ours, x, given), gradients(theirs, x, given))
        with torch.no_grad():
            assert_close(call(ours, x, given), call(theirs, x, given))
    for module in (theirs, ours):
        module.eval()
    assert_close(gradients(ours, x, states), gradients(theirs, x, states))
    assert ways.kernels_only()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (7, 1, 5), (7, 3, 1), (40, 17, 33)], ids=str)
@each_cell
def test_every_size(cell, shape, ways):
    T, B, H = shape
    if cell == "projected" and H < 4:
        H += 3
    theirs, ours = modules(cell, hidden_size=H, dtype=torch.float64, bidirectional=True)
    for layout in ("time-first", "unsorted"):
        x, states = inputs(theirs, layout, T, B)
        assert_close(gradients(ours, x, states), gradients(theirs, x, states))
    assert ways.kernels_only()


@each_cell
def test_empty_batches(cell):
    """Of no sequence; one of no steps is an error."""
    theirs, ours = modules(cell, num_layers=2)
    x = torch.zeros(T, 0, I)
    for results in (call(theirs, x, None), call(ours, x, None)):
        assert results[0].shape[:2] == (T, 0) and results[1].shape[1] == 0


@each_cell
def test_packed_results_are_packed_alike(cell):
    theirs, ours = modules(cell, bidirectional=True)
    lengths = torch.tensor([2, 6, 0, 6, 1]) + 0  # as a tensor
    x = torch.randn(T, 5, I)
    with pytest.raises(RuntimeError, match="greater than 0"):
        pack_padded_sequence(x, lengths, enforce_sorted=False)
    x = pack_padded_sequence(x, lengths.clamp(min=1), enforce_sorted=False)
    found, wanted = ours(x)[0], theirs(x)[0]
    assert type(found) is PackedSequence
    assert_close((found.data,), (wanted.data,))
    for part in (1, 2, 3):
        torch.testing.assert_close(found[part], wanted[part])


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module.weight_hh_l0, "data", module.weight_hh_l0.data.view(-1)),
        lambda module: setattr(module.weight_ih_l0, "data", module.weight_ih_l0.data[:, 1:].contiguous()),
        lambda module: setattr(module.bias_ih_l0, "data", module.bias_ih_l0.data[1:]),
        lambda module: setattr(module.weight_hh_l0, "data", module.weight_hh_l0.data.view(torch.complex64)),
        lambda module: setattr(module, "hidden_size", H + 1),
        lambda module: setattr(module, "input_size", I + 1),
    ],
    ids=["flat", "narrow", "short", "complex", "hidden_size", "input_size"],
)
@each_cell
def test_modules_at_odds_with_themselves(cell, change, used):
    """Weights of other shapes than the options say: PyTorch's error, which oneDNN's LSTM in float32 lacks."""
    pair, said = modules(cell, dtype=torch.float64), []
    for module in pair:
        if used:
            module(torch.zeros(T, B, I, dtype=torch.float64))
        change(module)
        with pytest.raises((RuntimeError, ValueError)) as problem:
            module(torch.zeros(T, B, module.input_size, dtype=torch.float64))
        said.append(str(problem.value))
    assert said[0] == said[1]


def test_rows_that_are_no_packed_sequence():
    """Some of a sequence's rows are missing: PyTorch has its own words for it."""
    theirs, ours = modules("gru")
    broken = PackedSequence(torch.randn(5, I), torch.tensor([3, 3]))
    with pytest.raises(RuntimeError) as wanted:
        theirs(broken)
    with pytest.raises(RuntimeError) as found:
        ours(broken)
    assert str(found.value) == str(wanted.value)


@each_cell
def test_strides_of_all_kinds(cell, ways):
    theirs, ours = modules(cell, bidirectional=True, batch_first=True)
    rows = torch.randn(B, T, 2 * I)
    for x in (
        rows[:, :, ::2],
        rows[:, :, I:],
        rows.flip(1)[:, ::2, :I],
        torch.randn(I, B, T).permute(1, 2, 0),
        torch.randn(1, T, I).expand(B, T, I),
        torch.randn(B, 1, 1).expand(B, T, I),
    ):
        results = []
        for module in (theirs, ours):
            source = x.detach().requires_grad_()
            out, state = module(source)
            wanted = [source, *module.parameters()]
            grad = torch.autograd.grad(out.sum() + packed(state)[0].sum(), wanted)  # gradients of stride 0
            results.append((out, *grad))
        assert_close(results[1], results[0])
    assert ways.kernels_only()


def test_numbers_behind_a_sign():
    """The imaginary part of a conjugate is stored with the other sign."""
    theirs, ours = modules("gru", dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.complex128).conj().imag
    assert x.is_neg()
    assert_close(call(ours, x, None), call(theirs, x, None))


def test_weights_behind_a_sign_or_without_a_place():
    """After a call with others, at the same place."""
    theirs, ours = modules("gru")
    x = torch.randn(T, B, I)
    with torch.no_grad():
        for module in (theirs, ours):
            module(x)
            module.weight_hh_l0 = nn.Parameter(torch._neg_view(module.weight_hh_l0))
        assert_close(ours(x), theirs(x))
        for module in (theirs, ours):
            module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.to_sparse())
        assert_close(ours(x), theirs(x))


def test_gradients_of_nan_pass_relu_as_in_pytorch():
    grads = []
    for module in modules("relu"):
        with torch.no_grad():
            module.bias_ih_l0[0] = torch.nan
            module.weight_hh_l0.zero_()
        module(torch.ones(1, B, I))[0].sum().backward()
        grads.append(module.bias_ih_l0.grad)
    assert torch.equal(grads[1], grads[0])


def test_zeros_that_nobody_wrote():
    theirs, ours = modules("gru", dtype=torch.float64)
    x = torch._efficientzerotensor((T, B, I), dtype=torch.float64)
    assert x.data_ptr() == 0
    assert_close(call(ours, x, None), call(theirs, x, None))
    out = ours(torch.randn(T, B, I, dtype=torch.float64))[0]
    zeros = torch._efficientzerotensor(out.shape, dtype=torch.float64)
    for grad in torch.autograd.grad(out, list(ours.parameters()), zeros):
        assert not grad.any()


# -- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["time-first", "unsorted", "unbatched"])
@pytest.mark.parametrize("stack", ["plain", "no-bias", "both", "dropout"])
@each_cell
def test_gradcheck(cell, stack, layout):
    _, ours = modules(cell, hidden_size=4, dtype=torch.float64, **STACKS[stack])
    x, states = inputs(ours, layout, T=3, B=2)
    leaves = [packed(x).clone().requires_grad_(), *(part.clone().requires_grad_() for part in states)]

    def run(x_, *rest):
        source = PackedSequence(x_, *x[1:]) if isinstance(x, PackedSequence) else x_
        return tuple(packed(part) for part in call(ours, source, rest[: len(states)]))

    # the parameters are inputs that gradcheck moves in place
    every = (*leaves, *ours.parameters())
    assert torch.autograd.gradcheck(run, every, check_batched_grad=True, fast_mode=stack != "plain")
    assert torch.autograd.gradgradcheck(run, every, fast_mode=True)


@each_cell
def test_only_wanted_gradients(cell):
    _, ours = modules(cell, num_layers=2)
    x, states = inputs(ours, "time-first")
    ours.weight_hh_l0.requires_grad_(False)
    out = call(ours, x, states)[0]
    out.sum().backward()
    assert x.grad is None and ours.weight_hh_l0.grad is None
    assert all(part.grad is not None for name, part in ours.named_parameters() if name != "weight_hh_l0")
    ours.requires_grad_(False)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(call(ours, x, states)[0].sum(), x)
    assert grad.shape == x.shape


@each_cell
def test_a_loss_of_the_states_alone(cell):
    theirs, ours = modules(cell, dtype=torch.float64, num_layers=2, bidirectional=True)
    x, states = inputs(theirs, "unsorted")
    found = []
    for module in (theirs, ours):
        _, *last = call(module, x, states)
        found.append([torch.autograd.grad(part.sum(), list(module.parameters()), retain_graph=True) for part in last])
    for mine, wanted in zip(found[1], found[0], strict=True):
        assert_close(mine, wanted)


@each_cell
def test_a_parameter_in_two_places(cell):
    """Its gradient is the sum of both, also of the second order."""
    pair = modules(cell, hidden_size=4, dtype=torch.float64, num_layers=2)
    results = []
    for module in pair:
        module.weight_hh_l1 = module.weight_hh_l0
        x, states = inputs(module, "time-first")
        with torch.backends.mkldnn.flags(enabled=False):
            _, grads = gradients(module, x, states, create_graph=True)
        again = torch.autograd.grad(sum(grad.pow(2).sum() for grad in grads), list(module.parameters()))
        results.append((*grads, *again))
    assert_close(results[1], results[0])


@each_cell
def test_what_changed_in_place_is_noticed(cell):
    _, ours = modules(cell)
    x, states = inputs(ours, "time-first")
    x.requires_grad_()
    for changed in (ours.weight_hh_l0, x):
        out = call(ours, x, states)[0]
        with torch.no_grad():
            changed.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@each_cell
def test_results_may_be_changed_in_place(cell):
    theirs, ours = modules(cell, dtype=torch.float64)
    for layout in ("time-first", "sorted", "even", "unbatched"):
        x, states = inputs(theirs, layout)
        wanted = gradients(theirs, x, states)[1]
        source = packed(x).clone().requires_grad_()
        states = [part.clone().requires_grad_() for part in states]
        results = call(ours, PackedSequence(source, *x[1:]) if isinstance(x, PackedSequence) else source, states)
        rng = torch.Generator().manual_seed(3)
        parts = [packed(part) for part in results]
        loss = sum((part * torch.randn(part.shape, dtype=part.dtype, generator=rng)).sum() for part in parts)
        for part in parts:
            part.data.fill_(7)
        assert_close(torch.autograd.grad(loss, [source, *states, *ours.parameters()]), wanted)


@each_cell
def test_backward_twice(cell):
    _, ours = modules(cell, num_layers=2)
    x, states = inputs(ours, "sorted")
    out = packed(call(ours, x, states)[0])
    wanted = list(ours.parameters())
    first = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
    assert_close(torch.autograd.grad(out.sum(), wanted), first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out.sum(), wanted)


# -- dropout ---------------------------------------------------------------------------------------------------------


@each_cell
def test_dropout_follows_the_generator(cell):
    theirs, ours = modules(cell, num_layers=2, dropout=0.5)
    x, states = inputs(theirs, "time-first")
    first, same, other = (call(ours, x, states, seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], same[0]) and not torch.equal(first[0], other[0])
    call(theirs, x, states, 5)
    after = torch.rand(1)
    call(ours, x, states, 5)
    assert torch.equal(torch.rand(1), after)  # both drew as much
    ours.eval()
    before = torch.get_rng_state()
    assert torch.equal(ours(x)[0], ours(x)[0]) and torch.equal(torch.get_rng_state(), before)


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("stack", ["plain", "both"])
@each_cell
def test_inference_keeps_no_tape(cell, stack, mode, monkeypatch):
    _, ours = modules(cell, **STACKS[stack])
    x, states = inputs(ours, "time-first")
    kept, backend = [], fastrnn.config.backend()
    forward = backend.forward

    def watched(call, training, *rest):
        kept.append(training)
        return forward(call, training, *rest)

    monkeypatch.setattr(backend, "forward", watched)
    with mode():
        out, *last = call(ours, x, states)
    assert not any(kept) and out.grad_fn is None and not any(part.requires_grad for part in (out, *last))
    ours.requires_grad_(False)
    assert call(ours, x, states)[0].grad_fn is None and not any(kept)


def test_the_tape_goes_before_the_graph():
    _, ours = modules("lstm")
    out = ours(torch.randn(T, B, I))[0]
    node = out.grad_fn
    out.sum().backward(retain_graph=True)
    assert node.run.tapes
    out.sum().backward()
    assert node.run is None


@each_cell
def test_weights_are_never_stale(cell, ways):
    """However they are written to, moved or replaced, with and without autograd's knowledge."""
    theirs, ours = modules(cell, hidden_size=8)

    def transposed(module):
        data = module.weight_hh_l0.data
        module.weight_hh_l0.data = data.t() if len(data) == data.shape[1] else data.t().contiguous().t()

    def assigned(module):
        module.weight_ih_l0 = nn.Parameter(module.weight_ih_l0.detach() + 1)

    changes = (
        lambda module: module.weight_hh_l0.data.mul_(0.5),
        lambda module: module.weight_ih_l0.detach().numpy().__imul__(0.5),
        lambda module: setattr(module.bias_ih_l0, "data", module.bias_ih_l0.data + 1),
        assigned,
        lambda module: module.load_state_dict({k: v * 0.5 for k, v in module.state_dict().items()}),
        lambda module: module.load_state_dict({k: v * 2 for k, v in module.state_dict().items()}, assign=True),
        lambda module: module.share_memory(),
        lambda module: module.double(),
        transposed,
    )
    for change in changes:
        for module in (theirs, ours):
            change(module)
        x, states = inputs(theirs, "time-first")
        with torch.no_grad():
            assert_close(call(ours, x, states), call(theirs, x, states))
        assert_close(gradients(ours, x, states), gradients(theirs, x, states))
    assert ways.count("kernels") >= 2 * (len(changes) - 1)


@each_cell
def test_weights_are_those_that_torch_would_take(cell, ways):
    """Whoever sets what torch.nn's read besides its parameters."""

    def put(module):
        module._flat_weights = [weight * 0.5 for weight in module._flat_weights]

    def put_one(module):
        module._flat_weights[0] = module._flat_weights[0] * 0.5

    def hidden(module):
        module.__dict__["weight_hh_l0"] = module.weight_hh_l0 * 0.5

    def replaced(module):
        module._parameters["weight_hh_l0"] = nn.Parameter(module.weight_hh_l0.detach() * 2)

    for change, way in ((put, "torch"), (put_one, "torch"), (hidden, "torch"), (replaced, "kernels")):
        theirs, ours = modules(cell)
        x, states = inputs(theirs, "time-first")
        call(ours, x, states)
        for module in (theirs, ours):
            change(module)
        assert_close(call(ours, x, states), call(theirs, x, states))
        assert ways[-1] == way, change


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@each_cell
def test_nothing_is_computed_that_nobody_wants(cell, bidirectional, monkeypatch):
    theirs, ours = modules(cell, num_layers=2, bidirectional=bidirectional)
    D, seen = 1 + bidirectional, []
    backend = fastrnn.config.backend()

    def watched(tape, *arguments):
        seen.append(arguments[4:])
        return backend_backward(tape, *arguments)

    backend_backward = backend.backward
    monkeypatch.setattr(backend, "backward", watched)
    for data, frozen, wanted in (
        (True, (), [(True, True)] * D + [(False, True)] * D),
        (False, ("weight", "bias"), [(True, False)] * D + [(True, False)] * D),
        (True, ("weight_ih_l1", "weight_hh_l1", "weight_hr_l1", "bias_ih_l1", "bias_hh_l1"), None),
    ):
        results = []
        for module in (theirs, ours):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(not name.startswith(frozen) if frozen else True)
            x, states = inputs(module, "time-first")
            x.requires_grad_(not data)
            leaves = [part for part in (x, *module.parameters()) if part.requires_grad]
            loss = sum(part.square().sum() for part in flat(call(module, x, states)))
            results.append(torch.autograd.grad(loss, leaves))
        assert_close(results[1], results[0])
        assert seen == (wanted or [(True, False)] * D + [(False, True)] * D)
        seen.clear()


def test_old_weights_are_not_kept():
    """After a module has moved, even if it never comes back to the kernels."""
    for move in (nn.Module.half, lambda module: setattr(module.weight_ih_l0, "data", module.weight_ih_l0.data.half())):
        _, ours = modules("gru")
        with torch.no_grad():
            ours(torch.randn(T, B, I))
            kept = weakref.ref(ours._lent.stack.weights[0][0])
            move(ours)
            with contextlib.suppress(RuntimeError, ValueError):
                ours(torch.randn(T, B, I, dtype=torch.float16))
        gc.collect()
        assert kept() is None


def test_weights_of_a_functional_call_are_not_kept():
    """But by torch.nn's own list of them."""
    _, ours = modules("gru")
    weights = {name: torch.zeros_like(part) for name, part in ours.named_parameters()}
    torch.func.functional_call(ours, weights, (torch.randn(T, B, I),))
    assert "_lent" not in vars(ours)
    ours(torch.randn(T, B, I))
    assert "_lent" in vars(ours)


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "x"])
@each_cell
def test_what_stands_between_the_places_of_numbers(cell, name, tmp_path):
    """As a file mapped from an odd byte on does."""
    results, x = [], torch.randn(T, B, I)
    for module in modules(cell):
        original = x if name == "x" else getattr(module, name).detach()
        (tmp_path / "file").write_bytes(b"x" + original.numpy().tobytes())
        mapped = np.memmap(tmp_path / "file", np.float32, "r+", offset=1, shape=tuple(original.shape))
        odd = torch.from_numpy(mapped)
        assert odd.data_ptr() % 4
        if name != "x":
            module.load_state_dict({**module.state_dict(), name: odd}, assign=True)
        out = module(odd if name == "x" else x)[0]
        out.square().sum().backward()
        results.append([out, *(part.grad for part in module.parameters())])
    assert_close(results[1], results[0])


def test_tensors_stay_resizable():
    """As NumPy's view of them would not be."""
    _, ours = modules("gru")
    x = torch.randn(T, B, I)
    ours(x)[0].sum().backward()
    x.resize_(2 * T, B, I)
    ours.weight_ih_l0.data.resize_(100, I)


def test_modules_are_those_of_pytorch():
    for cell, (kind, more) in CELLS.items():
        theirs, ours = modules(cell, num_layers=2, dropout=0.5)
        assert isinstance(ours, kind) and repr(ours) == repr(theirs)
        made = OURS[kind.__name__](I, H, **more, num_layers=2, dropout=0.5)
        assert repr(made) == repr(theirs) and made.state_dict().keys() == theirs.state_dict().keys()
        made.load_state_dict(theirs.state_dict())
        x = torch.randn(T, B, I)
        assert torch.equal(made.eval()(x)[0], ours.eval()(x)[0])


def test_packed_rows_of_rows():
    for module in modules("gru"):
        with pytest.raises(RuntimeError):
            module(PackedSequence(torch.zeros(5, 1, I), torch.tensor([3, 2])))
