# SPDX-License-Identifier: MIT
"""Where fastrnn.torch leaves the kernels: PyTorch's own ways, and what comes of them is right.

T times, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import copy
import gc
import io
import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch_cases import (
    CELLS,
    B,
    I,
    T,
    assert_close,
    call,
    each_cell,
    flat,
    gradients,
    inputs,
    modules,
    quiet,
    watched_ways,
)

import fastrnn.torch

pytestmark = [
    *quiet,
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is not supported in Python 3.14"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    ),  # the compiler's
    pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning"),
]
ways = pytest.fixture(watched_ways)
BOTH = {"num_layers": 2, "bidirectional": True}


def example(dtype=torch.float32):
    return torch.randn(T, B, I, generator=torch.Generator().manual_seed(7), dtype=dtype)


class Model(nn.Module):
    """A recurrent module among others."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(torch.tanh(x))[0].sum(0)


# -- kinds of tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@each_cell
def test_half_precision(cell, dtype, ways):
    theirs, ours = (module.to(dtype) for module in modules(cell, **BOTH))
    x = example().to(dtype)
    torch.testing.assert_close(flat(ours(x)), flat(theirs(x)))
    assert ways.torch_only()


@each_cell
def test_autocast(cell, ways):
    theirs, ours = modules(cell)
    with torch.autocast("cpu"):
        found, wanted = flat(ours(example())), flat(theirs(example()))
    torch.testing.assert_close(found, wanted)
    assert ways.torch_only()
    with torch.autocast("cpu", enabled=False):
        ours(example())
    assert ways[-1] == "kernels"


@each_cell
def test_autocast_under_a_transform(cell):
    found = []
    for module in modules(cell):

        def loss(x, module=module):
            results = flat(module(x))
            found.append([part.dtype for part in results])
            return results[0].float().sum()

        with torch.autocast("cpu"):
            torch.func.grad(loss)(example())
    assert found[0] == found[1]


@each_cell
def test_tensors_without_numbers(cell, ways):
    _, ours = modules(cell, **BOTH)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert ours(torch.randn(T, B, I))[0].shape[:2] == (T, B)
    out, state = ours.to("meta")(example().to("meta"))
    assert out.is_meta and flat(state)[0].is_meta
    assert ways.torch_only()


@each_cell
def test_nested_and_sparse_tensors(cell):
    """What PyTorch says to them."""
    theirs, ours = modules(cell, batch_first=True)
    x = example()
    for given in (torch.nested.nested_tensor([x[0], x[1, :2]]), x.to_sparse(), x.to_mkldnn()):
        with pytest.raises(RuntimeError) as wanted:
            theirs(given)
        with pytest.raises(type(wanted.value)) as found:
            ours(given)
        assert str(found.value) == str(wanted.value)


class Watched(torch.Tensor):
    """A subclass that says nothing of what it is for."""


@each_cell
def test_subclasses_of_tensors(cell, ways):
    theirs, ours = modules(cell)
    x = example().as_subclass(Watched)
    assert type(ours(x)[0]) is type(theirs(x)[0]) is Watched
    assert ways.torch_only()


class Functions(TorchFunctionMode):
    """A mode that writes down the functions that are called."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_function__(self, function, types, arguments=(), options=None):
        self.called.add(function.__name__)
        return function(*arguments, **(options or {}))


class Operations(TorchDispatchMode):
    """Likewise the operations."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.called.add(str(function))
        return function(*arguments, **(options or {}))


@each_cell
def test_a_mode_beside_a_device(cell, ways):
    _, ours = modules(cell)
    x = example()
    with torch.device("cpu"), Functions() as mode:
        ours(x)
    assert mode.called and ways == ["torch"]


@each_cell
def test_modes(cell, ways):
    """Those that watch see what PyTorch's do; a default device changes nothing for tensors elsewhere."""
    theirs, ours = modules(cell, **BOTH, dropout=0.5)
    for kind in (Functions, Operations):
        seen = []
        for module in (theirs, ours):
            with kind() as mode:
                module(example())
            seen.append(mode.called)
        assert seen[0] <= seen[1] and len(seen[0]) > 1
    x = example()
    wanted = call(theirs, x, None)
    with torch.device("meta"):
        found = call(ours, x, None)
        gradient = torch.autograd.grad(found[0].sum(), ours.weight_hh_l0)
    assert_close(found, wanted)
    assert_close(gradient, torch.autograd.grad(wanted[0].sum(), theirs.weight_hh_l0))
    assert ways == ["torch", "torch", "kernels"]


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@each_cell
def test_weights_made_from_others(cell, ways):
    pair = modules(cell, **BOTH)
    for module in pair:
        parametrize.register_parametrization(module, "weight_hh_l0", Doubled())
    x, states = inputs(pair[0], "time-first") if cell != "projected" else (example(), None)
    theirs, ours = (gradients(module, x, states) for module in pair)
    assert_close(ours, theirs)
    for module in pair:
        parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert_close(gradients(pair[1], x, states), gradients(pair[0], x, states))
    assert ways == ["torch", "kernels"]


@each_cell
def test_weights_of_other_dtypes(cell):
    """As PyTorch says it."""
    for module in modules(cell):
        module.weight_hh_l0.data = module.weight_hh_l0.data.double()
        with pytest.raises((RuntimeError, ValueError)):
            module(example())


@each_cell
def test_weights_in_other_layouts(cell, ways):
    theirs, ours = modules(cell, dtype=torch.float64)
    for module in (theirs, ours):
        module.weight_ih_l0.data = module.weight_ih_l0.data.t().contiguous().t()
    x, states = inputs(theirs, "time-first")
    assert_close(gradients(ours, x, states), gradients(theirs, x, states))
    assert ways.torch_only()


# -- compilers and tracers -------------------------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """PyTorch's default backend, which writes C++ and has it compiled, knows nothing yet and leaves nothing behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with inductor.patch(compile_threads=1, cpp_cache_precompile_headers=False):  # these are large, and kept elsewhere
        yield
    torch._dynamo.reset()


INTO_ONE_GRAPH = [*itertools.product(["gru", "rnn"], ["eager", "aot_eager"]), ("rnn", "inductor")]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("cell", "backend"), INTO_ONE_GRAPH)
def test_compiled_into_one_graph(cell, backend, ways):
    theirs, ours = modules(cell, **({} if backend == "inductor" else BOTH))
    x = example()[: 2 if backend == "inductor" else T]  # it unrolls them, and the compiler takes its time
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(Model(ours), backend=backend, fullgraph=True)
        assert_close(compiled(x), Model(theirs)(x))
        found, wanted = (
            torch.autograd.grad(model(x).sum(), list(module.parameters()))
            for model, module in ((compiled, ours), (Model(theirs), theirs))
        )
    assert_close(found, wanted)
    assert "kernels" not in ways


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_an_lstm_compiled_into_one_graph(backend, ways):
    """For inference: in training all but the eager backend fail with torch.nn's, too."""
    theirs, ours = modules("lstm")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True), torch.no_grad():
        compiled = torch.compile(Model(ours), backend=backend, fullgraph=True)
        assert_close(compiled(example()), Model(theirs)(example()))
    assert "kernels" not in ways


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("cell", "backend"), [*((cell, "eager") for cell in CELLS), ("lstm", "inductor")])
def test_compiled_around(cell, backend, ways):
    """By default the compiler does not look into recurrent modules, and they run as they are, backward too."""
    results = []
    for module in modules(cell, **BOTH):
        torch._dynamo.reset()
        counters.clear()
        model, x = Model(module), example().requires_grad_()

        def step(x, model=model):
            loss = model(x).pow(2).sum()
            loss.backward()
            return loss * 2

        loss = torch.compile(step, backend=backend)(x)
        assert counters["stats"]["unique_graphs"]
        results.append([loss, x.grad, *(part.grad for part in model.parameters())])
    assert_close(results[1], results[0])
    assert ways == ["kernels"]


@each_cell
def test_compiled_around_what_overrides_it(cell):
    """A forward of a subclass, or put on a module, runs once."""

    def doubled(module):
        old = module.forward
        module.forward = lambda x, hx=None: old(2 * x, hx)
        return module

    results = []
    for module in modules(cell):
        Twice = type("Twice", (type(module),), {"forward": lambda self, x: super(type(self), self).forward(2 * x)})
        for changed in (doubled(copy.deepcopy(module)), copy.deepcopy(module)):
            if "forward" not in vars(changed):
                changed.__class__ = Twice
            torch._dynamo.reset()
            results.append(torch.compile(Model(changed), backend="eager")(example()))
    assert_close(results[2:], results[:2])


@pytest.mark.parametrize("strict", [True, False])
@each_cell
def test_exported(cell, strict):
    theirs, ours = modules(cell, **BOTH)
    program = torch.export.export(Model(ours), (example(),), strict=strict)
    assert_close(program.module()(example() + 1), Model(theirs)(example() + 1))


@each_cell
def test_traced_and_scripted(cell, ways):
    theirs, ours = modules(cell, **BOTH)
    model = Model(ours)
    traced, scripted = torch.jit.trace(model, (example(),), check_trace=False), torch.jit.script(model)
    assert "kernels" not in ways
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    for compiled in (traced, scripted, torch.jit.load(file)):
        assert f"aten::{'rnn' if cell in ('rnn', 'relu') else CELLS[cell][0].__name__.lower()}" in str(
            compiled.inlined_graph
        )
        assert_close(compiled(example() + 1), Model(theirs)(example() + 1))


class Silent(fastrnn.torch.GRU):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return x * 0


def test_a_scripted_subclass_keeps_its_methods():
    scripted = torch.jit.script(nn.Sequential(Silent(I, I)))
    assert torch.equal(scripted(example()), example() * 0)


@each_cell
def test_symbolic_traces_have_it_as_a_leaf(cell):
    theirs, ours = modules(cell, **BOTH)
    found, wanted = (torch.fx.symbolic_trace(Model(module)) for module in (ours, theirs))
    assert found.code == wanted.code
    assert_close(found(example()), wanted(example()))


class Decoder(Model):
    """What is traced comes in as the state."""

    def forward(self, h):
        return self.recurrent(torch.ones(T, B, I), h)[0]


class LstmDecoder(Model):
    """Likewise, of two parts."""

    def forward(self, h, c):
        return self.recurrent(torch.ones(T, B, I), (h, c))[0]


@each_cell
def test_symbolic_traces_by_the_state(cell):
    theirs, ours = modules(cell)
    _, states = inputs(theirs, "time-first")
    decoder = Decoder if len(states) == 1 else LstmDecoder
    found, wanted = (torch.fx.symbolic_trace(decoder(module))(*states) for module in (ours, theirs))
    assert_close(found, wanted)


@each_cell
def test_traced_operation_by_operation(cell, ways):
    theirs, ours = modules(cell, **BOTH)
    with torch.no_grad():
        graph = make_fx(Model(ours))(example())
        assert "kernels" not in ways
        assert_close(graph(example() + 1), Model(theirs)(example() + 1))


# -- transforms ------------------------------------------------------------------------------------------------------


@each_cell
def test_vmap(cell, ways):
    """Over inputs and over weights."""
    theirs, ours = modules(cell, **BOTH)
    xs = torch.randn(3, T, B, I)
    wanted = torch.stack([Model(theirs)(x) for x in xs])
    assert_close(torch.vmap(Model(ours))(xs), wanted)
    several = {name: torch.stack([part, 2 * part]) for name, part in ours.named_parameters()}
    found = torch.vmap(lambda weights: torch.func.functional_call(ours, weights, (xs[0],))[0])(several)
    for k, scale in enumerate((1, 2)):
        weights = {name: scale * part for name, part in theirs.named_parameters()}
        assert_close(found[k], torch.func.functional_call(theirs, weights, (xs[0],))[0])
    assert "kernels" not in ways


@each_cell
def test_gradients_of_functions(cell):
    theirs, ours = modules(cell, dtype=torch.float64, **BOTH)
    x = example(torch.float64)
    found, wanted = (
        torch.func.grad(lambda weights, m=module: torch.func.functional_call(m, weights, (x,))[0].pow(2).sum())(
            {name: part.detach() for name, part in module.named_parameters()}
        )
        for module in (ours, theirs)
    )
    assert_close(list(found.values()), list(wanted.values()))


@each_cell
def test_forward_mode(cell):
    """Against a difference quotient."""
    theirs, ours = modules(cell, dtype=torch.float64, **BOTH)
    x, direction, step = example(torch.float64), example(torch.float64).flip(0), 1e-6
    wanted = (Model(theirs)(x + step * direction) - Model(theirs)(x - step * direction)) / (2 * step)
    _, found = torch.func.jvp(Model(ours), (x,), (direction,))
    torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-6)
    with forward_ad.dual_level():
        dual = Model(ours)(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, wanted, atol=1e-8, rtol=1e-6)


@each_cell
def test_forward_mode_over_backward(cell):
    """The way back is linear in what comes in."""
    _, ours = modules(cell, **BOTH)
    x = example().requires_grad_()
    out = ours(x)[0]
    direction = torch.randn_like(out)
    with forward_ad.dual_level():
        (grad,) = torch.autograd.grad(out, x, forward_ad.make_dual(torch.ones_like(out), direction), retain_graph=True)
        found = forward_ad.unpack_dual(grad).tangent
    assert_close(found, torch.autograd.grad(out, x, direction)[0])


@each_cell
def test_transforms_raise_the_errors_of_pytorch(cell):
    _, ours = modules(cell)
    for x, said in (torch.zeros(T, B, I + 1), "input_size"), (torch.zeros(0, B, I), "larger than 0"):
        with pytest.raises(RuntimeError, match=said):
            torch.func.jvp(lambda x: ours(x)[0], (x,), (x,))


@pytest.mark.parametrize("layout", ["time-first", "batch-first", "unsorted", "unbatched"])
@each_cell
def test_second_order(cell, layout):
    """A gradient penalty; for float32 PyTorch needs a switch that ours does without."""
    theirs, ours = modules(cell, dtype=torch.float64, dropout=0.5, batch_first=layout == "batch-first", **BOTH)
    x, states = inputs(theirs, layout)
    found = []
    for module in (theirs, ours):
        _, grads = gradients(module, x, states, create_graph=True)
        penalty = sum(grad.pow(2).sum() for grad in grads)
        found.append([*grads, *torch.autograd.grad(penalty, list(module.parameters()))])
    assert_close(found[1], found[0])


@each_cell
def test_batches_of_gradients(cell):
    _, ours = modules(cell, **BOTH)
    x = example().requires_grad_()
    out = call(ours, x, None)[0]
    batch = torch.randn(3, *out.shape)
    (found,) = torch.autograd.grad(out, x, batch, is_grads_batched=True, retain_graph=True)
    assert_close(found, torch.stack([torch.autograd.grad(out, x, grad, retain_graph=True)[0] for grad in batch]))


@each_cell
def test_functional_call_with_other_weights(cell, ways):
    """They are the inputs of autograd, on the kernels; the module's own are back afterwards."""
    theirs, ours = modules(cell, **BOTH)
    x, results = example(), []
    for module in (theirs, ours):
        weights = {name: (2 * part).detach().requires_grad_() for name, part in module.named_parameters()}
        out = torch.func.functional_call(module, weights, (x,))[0]
        results.append((out, *torch.autograd.grad(out.sum(), list(weights.values())), module(x)[0]))
    assert_close(results[1], results[0])
    assert ways.kernels_only()


# -- around autograd -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
@each_cell
def test_checkpoints(cell, reentrant):
    theirs, ours = modules(cell, dtype=torch.float64, dropout=0.5, **BOTH)
    results = []
    for module in (theirs, ours):
        x = example(torch.float64).requires_grad_()
        torch.manual_seed(1)
        out = checkpoint(Model(module), x, use_reentrant=reentrant)
        results.append(
            (out, *torch.autograd.grad(out.pow(2).sum(), list(module.parameters()))) if not reentrant else ()
        )
        if reentrant:
            out.pow(2).sum().backward()
            results[-1] = (out, x.grad, *(part.grad for part in module.parameters()))
    assert_close(results[1], results[0])


@each_cell
def test_saved_tensors_kept_elsewhere(cell):
    theirs, ours = modules(cell, dtype=torch.float64, **BOTH, dropout=0.5)
    x, states = inputs(theirs, "unsorted")
    found = []
    for module in (theirs, ours):
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            found.append(gradients(module.train(), x, states, create_graph=True))
    assert_close(found[1], found[0])


LAID_OUT_ANEW = {
    "columns": lambda t: t.t().contiguous().t() if t.dim() == 2 else t,
    "sign": lambda t: torch._neg_view(-t),
}


@pytest.mark.parametrize("way", LAID_OUT_ANEW)
@each_cell
def test_saved_tensors_laid_out_anew(cell, way):
    x, found = example(torch.float64), []
    for module, unpack in zip(modules(cell, dtype=torch.float64), (lambda t: t, LAID_OUT_ANEW[way]), strict=True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), unpack):
            out = module(x)[0]
        found.append(torch.autograd.grad(out.pow(2).sum(), list(module.parameters())))
    assert_close(found[1], found[0])


@each_cell
def test_saved_tensors_kept_nowhere(cell):
    """What stays for the way back is autograd's alone: where that is recomputed, no tape, input or noise waits."""
    _, ours = modules(cell, **BOTH, dropout=0.5)
    inputs_ = []

    def run(x):
        inputs_.append((y := 2 * x).untyped_storage()._weak_ref())
        return Model(ours)(y)

    out = checkpoint(run, example().requires_grad_(), use_reentrant=False)
    gc.collect()
    assert torch.UntypedStorage._expired(inputs_[0])
    nodes, recurrences = [out.grad_fn], []
    while nodes:
        node = nodes.pop()
        recurrences += [node] if hasattr(node, "run") else []
        nodes += [following for following, _ in node.next_functions if following is not None]
    assert len(recurrences) == 1 and not (recurrences[0].run.tapes or recurrences[0].run.noise)


@pytest.mark.parametrize("way", ["kernels", "replay", "hooks"])
@each_cell
def test_weights_and_inputs_put_aside_meanwhile(cell, way):
    """What goes back is what came: the memory, not what a parameter has become."""
    theirs, ours = modules(cell, dtype=torch.float64)
    changes = (
        lambda module, x: setattr(module.weight_hh_l0, "data", torch.zeros_like(module.weight_hh_l0)),
        lambda module, x: setattr(x, "data", torch.zeros_like(x)),
        lambda module, x: module.float(),
        lambda module, x: module.requires_grad_(False),
    )
    wanted = torch.autograd.grad(theirs(x := example(torch.float64).requires_grad_())[0].sum(), x)
    for change in changes:
        module, x = copy.deepcopy(ours), example(torch.float64).requires_grad_()
        kept = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
        with kept if way == "hooks" else nullcontext():
            out = module(x)[0]
        change(module, x)
        assert_close(torch.autograd.grad(out.sum(), x, create_graph=way == "replay"), wanted)


@each_cell
def test_second_derivatives_by_weights_put_aside_meanwhile(cell):
    found = []
    for module in modules(cell, dtype=torch.float64):
        x = example(torch.float64).requires_grad_()
        loss = module(x)[0].pow(2).sum()
        module.weight_hh_l0.data = 2 * module.weight_hh_l0.data
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append(torch.autograd.grad(grad.pow(2).sum(), [x, *module.parameters()]))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
@each_cell
def test_storages_given_up_for_good(cell, name):
    _, ours = modules(cell, dtype=torch.float64)
    x = example(torch.float64).requires_grad_()
    out = ours(x)[0]
    getattr(ours, name).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(out.sum(), [x, *ours.parameters()])


@pytest.mark.parametrize("layout", ["sorted", "even"])
@each_cell
def test_batch_sizes_changed_meanwhile(cell, layout):
    theirs, ours = modules(cell, dtype=torch.float64)
    x, _ = inputs(theirs, layout)
    found = []
    for module in (theirs, ours):
        sizes = x.batch_sizes.clone()
        out, _ = module(PackedSequence(x.data, sizes))
        sizes.fill_(1)
        found.append(torch.autograd.grad(out.data.pow(2).sum(), list(module.parameters())))
    assert_close(found[1], found[0])


def test_a_weight_that_has_no_part():
    theirs, ours = modules("projected", dtype=torch.float64)
    x, found = example(torch.float64)[:1], []
    for module in (theirs, ours):
        c = module(x)[1][1]
        weights = list(module.parameters())
        found.append(torch.autograd.grad(c.pow(2).sum(), weights, create_graph=True, allow_unused=True))
    for mine, its in zip(found[1], found[0], strict=True):
        assert (mine is None) == (its is None) or not (mine if its is None else its).any()


def test_states_of_another_dtype():
    for module in modules("gru"):
        with pytest.raises(RuntimeError):
            module(example(), torch.zeros(1, B, module.hidden_size, dtype=torch.float64))


@pytest.mark.parametrize("name", ["x", "weight_ih_l0", "weight_hh_l0"])
@each_cell
def test_storages_given_up_meanwhile(cell, name):
    """As sharded training does with weights between forward and backward."""
    theirs, ours = modules(cell, dtype=torch.float64)
    x = example(torch.float64).requires_grad_()
    out = ours(x)[0]
    part = x if name == "x" else getattr(ours, name)
    values, storage = part.detach().clone(), part.untyped_storage()
    size = storage.size()
    storage.resize_(0)
    others = [torch.full_like(values, torch.nan) for _ in range(100)]  # one of them where it was
    storage.resize_(size)
    part.data.copy_(values)
    assert part.data_ptr() not in (other.data_ptr() for other in others)
    found = torch.autograd.grad(out.sum(), [x, *ours.parameters()])
    assert_close(found, torch.autograd.grad(theirs(x)[0].sum(), [x, *theirs.parameters()]))


class Stop(torch.autograd.Function):
    """Lets nothing back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
@pytest.mark.parametrize("create_graph", [False, True])
@each_cell
def test_no_gradient_comes_of_none(cell, create_graph):
    for module in modules(cell):
        Stop.apply(module(example())[0]).sum().backward(create_graph=create_graph)
        assert all(part.grad is None for part in module.parameters())


@each_cell
def test_hooks_are_called(cell):
    _, ours = modules(cell)
    seen = []
    ours.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    ours.register_forward_hook(lambda module, arguments, result: seen.append("after"))
    ours.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append("back"))
    ours.weight_hh_l0.register_hook(lambda grad: seen.append("weight"))
    ours(example().requires_grad_())[0].sum().backward()
    assert seen[:2] == ["before", "after"] and set(seen[2:]) == {"back", "weight"}
