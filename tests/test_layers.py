# SPDX-License-Identifier: MIT
"""Layers against a composition of function calls by hand, their gradients against differences, and their keeping.

T time steps, B batch, I input size, H hidden size, P size of the projected h, L layers, D directions.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from trials import changes_in_place

from fastrnn import functional, native
from fastrnn.layers import GRU, LSTM, RNN, Layer, LayerTape
from fastrnn.optim import Adam
from fastrnn.parameters import orthogonal_matrix

T, B, I, H = 5, 4, 3, 6
KINDS = {
    "rnn": (RNN, {}),
    "relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "projected": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
    "reset-before": (GRU, {"reset_after": False}),
}
STACKS = {
    "plain": {},
    "no-bias": {"bias": False},
    "stacked": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "both": {"num_layers": 2, "bidirectional": True},
}
LENGTHS = [3, 5, 0, 1]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_stack = pytest.mark.parametrize("stack", STACKS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


def make(kind, stack="plain", dtype=np.float64, **more) -> Layer:
    cls, options = KINDS[kind]
    return cls(I, H, **{"seed": 1, **options, **STACKS[stack], "dtype": dtype, **more})


def parts(state):
    """h, or h and c, as a list."""
    return list(state) if isinstance(state, tuple) else [state]


def arguments(layer, rows=B, seed=2):
    """x (T, B, I) and a state for a layer."""
    rng = np.random.default_rng(seed)
    K = layer.num_layers * layer.num_directions
    x, h, c = (
        rng.standard_normal(shape).astype(layer.dtype)
        for shape in ((T, rows, I), (K, rows, layer.output_size), (K, rows, H))
    )
    return x, (h, c) if layer.cell == "lstm" else h


def close(actual, expected, dtype=np.float64):
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, strict=True)


def by_hand(layer, x, state, lengths):
    """The layer's outputs and final states, from one function call for each direction of each layer."""
    D, ends, k = layer.num_directions, [], 0
    for l in range(layer.num_layers):
        halves = []
        for suffix in ("", "_reverse")[:D]:
            w = {
                name: layer.params.get(f"{name}_l{l}{suffix}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            initial = tuple(part[k] for part in parts(state))
            options = {"lengths": lengths, "reverse": bool(suffix)}
            if layer.cell == "lstm":
                options["w_hr"] = layer.params.get(f"weight_hr_l{l}{suffix}")
            elif layer.cell == "gru":
                options["reset_after"] = layer.reset_after
            else:
                options["nonlinearity"] = layer.nonlinearity
            start = initial if layer.cell == "lstm" else initial[0]
            out, end = getattr(functional, layer.cell)(x, *w.values(), start, **options)
            halves.append(out)
            ends.append(parts(end))
            k += 1
        x = np.concatenate(halves, axis=2)
    return x, [np.stack(part) for part in zip(*ends, strict=True)]


# -- forward ---------------------------------------------------------------------------------------------------------


@each_kind
@each_stack
@each_dtype
@each_lengths
def test_a_layer_is_its_function_calls(kind, stack, dtype, lengths):
    layer = make(kind, stack, dtype)
    x, state = arguments(layer)
    out, end = layer(x, state, lengths)
    expected_out, expected_end = by_hand(layer, x, state, lengths)
    close(out, expected_out, dtype)
    assert isinstance(end, tuple) == (layer.cell == "lstm")
    for part, expected in zip(parts(end), expected_end, strict=True):
        close(part, expected, dtype)


@each_kind
@each_stack
def test_training_computes_what_inference_does(kind, stack):
    layer = make(kind, stack)
    x, state = arguments(layer)
    out, end = layer(x, state, LENGTHS)
    trained, trained_end, _ = layer.forward(x, state, LENGTHS)
    close(trained, out)
    for part, expected in zip(parts(trained_end), parts(end), strict=True):
        close(part, expected)


@each_kind
@each_lengths
def test_batch_first_is_transposed(kind, lengths):
    layer, other = make(kind, "both"), make(kind, "both", batch_first=True)
    x, state = arguments(layer)
    out, end, tape = layer.forward(x, state, lengths)
    swapped, swapped_end, swapped_tape = other.forward(x.swapaxes(0, 1).copy(), state, lengths)
    close(swapped, out.swapaxes(0, 1))
    assert swapped.flags.c_contiguous
    for part, expected in zip(parts(swapped_end), parts(end), strict=True):
        close(part, expected)
    grads, swapped_grads = layer.backward(tape, out), other.backward(swapped_tape, swapped)
    close(swapped_grads.x, grads.x.swapaxes(0, 1))
    close(swapped_grads.flat, grads.flat)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_is_a_batch_of_one(kind, batch_first):
    layer = make(kind, "both", batch_first=batch_first)
    x, state = arguments(layer, rows=1)
    alone = x[:, 0]
    alone_state = tuple(part[:, 0] for part in state) if layer.cell == "lstm" else state[:, 0]
    out, end, tape = layer.forward(x.swapaxes(0, 1) if batch_first else x, state)
    alone_out, alone_end, alone_tape = layer.forward(alone, alone_state)
    close(alone_out, out[0] if batch_first else out[:, 0])
    grads, alone_grads = layer.backward(tape, out), layer.backward(alone_tape, alone_out)
    close(alone_grads.x, grads.x[0] if batch_first else grads.x[:, 0])
    for ours, expected in ((alone_end, end), (alone_grads.state, grads.state)):
        for part, whole in zip(parts(ours), parts(expected), strict=True):
            close(part, whole[:, 0])


@each_kind
@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)], ids=str)
def test_no_steps_or_no_rows(kind, shape):
    layer = make(kind, "both")
    out, end, tape = layer.forward(np.zeros((*shape, I)))
    grads = layer.backward(tape, out, end)
    assert out.shape == (*shape, 2 * layer.output_size) and grads.x.shape == (*shape, I)
    assert [part.shape[:2] for part in parts(end)] == [(4, shape[1])] * len(parts(end))
    assert not grads.flat.any()


def test_arrays_of_any_layout_are_taken():
    layer = make("lstm", "both")
    x, (h, c) = arguments(layer)
    out, _ = layer(x, (h, c), LENGTHS)
    wide = np.repeat(x, 2, axis=2)
    for same in (wide[:, :, ::2], np.asfortranarray(x), x[::-1].copy()[::-1], x.astype(">f8")):
        close(layer(same, (np.asfortranarray(h), c.astype(">f8")), np.array(LENGTHS, np.uint8))[0], out)


def test_half_a_state_is_zeros():
    layer = make("lstm")
    x, (h, c) = arguments(layer)
    close(layer(x, (h, None))[0], layer(x, (h, np.zeros_like(c)))[0])
    close(layer(x, [None, c])[0], layer(x, (np.zeros_like(h), c))[0])


# -- gradients -------------------------------------------------------------------------------------------------------


def check_gradients(layer, x, state, lengths):
    """BPTT against central differences along random directions, the dropout masks drawn anew from the same state."""
    rng, drawing = np.random.default_rng(3), layer.rng.bit_generator.state
    seeds = None

    def loss(flat, x, *state):
        nonlocal seeds
        layer.flat_params = flat
        layer.rng.bit_generator.state = drawing
        out, end, tape = layer.forward(x, state if layer.cell == "lstm" else state[0], lengths)
        if seeds is None:
            seeds = [rng.standard_normal(array.shape) for array in (out, *parts(end))]
        return sum((array * seed).sum() for array, seed in zip((out, *parts(end)), seeds, strict=True)), tape

    values = [layer.flat_params.copy(), x, *parts(state)]
    _, tape = loss(*values)
    grad_state = tuple(seeds[1:]) if layer.cell == "lstm" else seeds[1]
    grads = layer.backward(tape, seeds[0], grad_state)
    for k, grad in enumerate((grads.flat, grads.x, *parts(grads.state))):
        assert grad.shape == values[k].shape
        for _ in range(3):
            direction = rng.standard_normal(grad.shape)
            ends = []
            for sign in (1, -1):
                moved = list(values)
                moved[k] = values[k] + sign * 1e-6 * direction
                ends.append(loss(*moved)[0])
            np.testing.assert_allclose((grad * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-7)


@each_kind
@each_stack
@each_lengths
def test_gradients(kind, stack, lengths):
    layer = make(kind, stack)
    check_gradients(layer, *arguments(layer), lengths)


@each_kind
@pytest.mark.parametrize("dropout", [0.4, 1.0])
def test_gradients_through_dropout(kind, dropout):
    layer = make(kind, "both", dropout=dropout)
    check_gradients(layer, *arguments(layer), LENGTHS)


def test_float32_gradients_are_float64_s():
    layer, double = make("projected", "both", np.float32), make("projected", "both")
    double.load_state_dict(layer.state_dict())
    x, state = arguments(layer)
    out, end, tape = layer.forward(x, state, LENGTHS)
    grads = layer.backward(tape, out, end)
    wide = [part.astype(np.float64) for part in state]
    double_out, double_end, tape = double.forward(x.astype(np.float64), tuple(wide), LENGTHS)
    expected = double.backward(tape, double_out, double_end)
    assert grads.flat.dtype == grads.x.dtype == grads.state[0].dtype == np.float32
    np.testing.assert_allclose(grads.flat, expected.flat, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads.x, expected.x, rtol=1e-4, atol=1e-5)


def test_gradients_of_part_of_the_results():
    layer = make("lstm", "both")
    x, state = arguments(layer)
    out, (h, c), tape = layer.forward(x, state, LENGTHS)
    total = layer.backward(tape, out, (h, c)).flat
    halves = [
        layer.backward(tape, out),
        layer.backward(tape, grad_state=(h, None)),
        layer.backward(tape, None, (None, c)),
    ]
    close(sum(grads.flat for grads in halves), total)
    assert not layer.backward(tape).flat.any()


def test_backward_twice_is_backward_once():
    layer = make("gru", "both", dropout=0.5)
    out, end, tape = layer.forward(*arguments(layer), LENGTHS)
    once, twice = layer.backward(tape, out, end), layer.backward(tape, out, end)
    assert np.array_equal(once.flat, twice.flat) and np.array_equal(once.x, twice.x)
    assert not np.shares_memory(once.flat, twice.flat)


def test_gradients_are_named_views_like_the_parameters():
    layer = make("projected", "both")
    out, _, tape = layer.forward(*arguments(layer))
    assert isinstance(tape, LayerTape)
    grads = layer.backward(tape, out)
    assert list(grads.params) == list(layer.params)
    for name, grad in grads.params.items():
        assert grad.shape == layer.params[name].shape and np.shares_memory(grad, grads.flat)
    close(np.concatenate([grad.ravel() for grad in grads.params.values()]), grads.flat)


# -- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_is_for_training_between_layers():
    layer, without = make("rnn", "stacked", dropout=0.5), make("rnn", "stacked")
    x, state = arguments(layer)
    close(layer(x, state)[0], without(x, state)[0])
    assert np.abs(layer.forward(x, state)[0] - without(x, state)[0]).max() > 0.01
    single = make("rnn", dropout=0.5)
    close(single.forward(x, state[:1])[0], single(x, state[:1])[0])


def test_dropout_scales_what_it_keeps():
    layer = RNN(1, 50, 2, nonlinearity="relu", dropout=0.25, seed=0, dtype=np.float64)
    layer.flat_params = 0
    layer.params["bias_ih_l0"] = 1  # the first layer says 1
    layer.params["weight_ih_l1"] = np.eye(50)  # and the second repeats it
    out, _, _ = layer.forward(np.zeros((40, 5, 1)))
    dropped = out == 0
    close(out[~dropped], np.full(np.count_nonzero(~dropped), 4 / 3))
    assert 0.23 < dropped.mean() < 0.27  # 10000 draws, four standard deviations
    layer.dropout = 1.0
    assert not layer.forward(np.zeros((3, 2, 1)))[0].any()


def test_dropout_is_drawn_from_the_layer_s_generator():
    layer, same = make("gru", "stacked", dropout=0.5), make("gru", "stacked", dropout=0.5)
    x, state = arguments(layer)
    first, second = layer.forward(x, state)[0], layer.forward(x, state)[0]
    assert not np.array_equal(first, second)
    close(same.forward(x, state)[0], first)
    close(same.forward(x, state)[0], second)


def test_what_a_layer_does_besides_the_kernels_is_as_silent():
    """Infinities times 0 and their differences, for those who have NumPy raise errors."""
    layer = make("relu", "both", dropout=0.5)
    layer.flat_params = 1e300
    x, state = arguments(layer)
    found = []
    for way in ("ignore", "raise"):
        layer.rng = 3
        with np.errstate(all=way):
            out, _, tape = layer.forward(x, state)
            grads = layer.backward(tape, out)
        found.append((out, grads.x, grads.flat))
    assert not np.isfinite(found[0][1]).all()
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, expected)


# -- parameters ------------------------------------------------------------------------------------------------------


def test_names_and_order_are_pytorch_s():
    layer = LSTM(3, 5, 2, bidirectional=True, proj_size=2)
    assert {name: array.shape for name, array in layer.params.items()} == {
        "weight_ih_l0": (20, 3),
        "weight_hh_l0": (20, 2),
        "bias_ih_l0": (20,),
        "bias_hh_l0": (20,),
        "weight_hr_l0": (2, 5),
        "weight_ih_l0_reverse": (20, 3),
        "weight_hh_l0_reverse": (20, 2),
        "bias_ih_l0_reverse": (20,),
        "bias_hh_l0_reverse": (20,),
        "weight_hr_l0_reverse": (2, 5),
        "weight_ih_l1": (20, 4),
        "weight_hh_l1": (20, 2),
        "bias_ih_l1": (20,),
        "bias_hh_l1": (20,),
        "weight_hr_l1": (2, 5),
        "weight_ih_l1_reverse": (20, 4),
        "weight_hh_l1_reverse": (20, 2),
        "bias_ih_l1_reverse": (20,),
        "bias_hh_l1_reverse": (20,),
        "weight_hr_l1_reverse": (2, 5),
    }
    assert list(layer.params)[:5] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"]
    assert list(GRU(3, 5, bias=False).params) == ["weight_ih_l0", "weight_hh_l0"]


@each_kind
@each_stack
def test_parameters_are_views_of_one_array(kind, stack):
    layer = make(kind, stack)
    flat = layer.flat_params
    assert flat.flags.c_contiguous and flat.size == sum(array.size for array in layer.params.values())
    flat[...] = np.arange(flat.size)
    close(np.concatenate([array.ravel() for array in layer.params.values()]), np.arange(flat.size, dtype=np.float64))


def test_assigning_parameters_writes_into_the_flat_array():
    layer = make("rnn")
    flat, x = layer.flat_params, np.ones((T, B, I))
    layer.flat_params = np.zeros(flat.size)
    layer.params["bias_hh_l0"] = np.ones(H)
    layer.params["bias_hh_l0"] += 1
    layer.flat_params *= 0.5
    assert layer.flat_params is flat and flat.sum() == H
    close(layer(x)[0], np.full((T, B, H), np.tanh(1.0)))
    with pytest.raises(ValueError, match="broadcast"):
        layer.flat_params = np.zeros(3)
    with pytest.raises(AttributeError, match="params"):
        layer.params = {}
    with pytest.raises(KeyError, match="bias_hh_l1"):
        layer.params["bias_hh_l1"] = 0
    assert repr(make("rnn", "no-bias").params) == "Views(weight_ih_l0 (6, 3), weight_hh_l0 (6, 6))"


def test_parameters_are_told_apart_as_objects():
    layer, other = make("gru"), make("gru")
    assert layer.params == layer.params != other.params and len({layer.params, other.params}) == 2


@changes_in_place
@pytest.mark.parametrize("change", [{"shape": (-1, 2)}, {"dtype": np.float32}, {"dtype": np.int64}], ids=str)
def test_what_changes_of_the_flat_array_in_place_reaches_no_layer(change):
    layer = make("projected", "both")
    x, state = arguments(layer)
    out, _, tape = layer.forward(x, state)
    grads, saved, flat = layer.backward(tape, out), layer.state_dict(), layer.flat_params
    for name, value in change.items():
        setattr(flat, name, value)
    assert layer.flat_params is flat and np.array_equal(layer.backward(tape, out).flat, grads.flat)
    for twin in (layer.freeze(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(twin(x, state)[0], out)
    layer.flat_params = 0
    assert not layer(x)[0].any() and not flat.any()
    layer.load_state_dict(saved)
    assert np.array_equal(layer(x, state)[0], out)


def test_a_copy_with_its_optimizer_goes_on_learning():
    layer = make("gru")
    pair = layer, Adam(layer.flat_params)
    for twin, adam in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        adam.step(np.ones_like(adam.params))
        assert twin.flat_params is adam.params and (twin.params["bias_hh_l0"] < layer.params["bias_hh_l0"]).all()


def test_parameters_too_small_for_float32_are_zero():
    """Whatever NumPy is told to raise elsewhere."""
    layer = RNN(2, 3)
    with np.errstate(all="raise"):
        layer.load_state_dict({name: np.full(array.shape, 1e-300) for name, array in layer.params.items()})
        assert not layer.flat_params.any()
        layer.flat_params = np.full(layer.flat_params.shape, -1e300)
        assert np.isneginf(layer.flat_params).all()
        layer.params["bias_ih_l0"] = 1e-300
        assert not layer.params["bias_ih_l0"].any()


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_uniform_initialisation(kind):
    flat = make(kind, "both").flat_params
    bound = 1 / np.sqrt(H)
    assert -bound <= flat.min() < -0.9 * bound and 0.9 * bound < flat.max() <= bound
    assert np.array_equal(flat, make(kind, "both").flat_params)
    assert not np.array_equal(flat, make(kind, "both", seed=2).flat_params)


def test_uniform_initialisation_of_a_projection():
    assert np.abs(LSTM(3, 6, proj_size=2, seed=0).flat_params).max() <= 6**-0.5


def test_orthogonal_matrices_of_both_signs():
    """Uniform among all of them: Mezzadri 2007."""
    rng = np.random.default_rng(0)
    assert {float(orthogonal_matrix(rng, 1, 1)[0, 0]) for _ in range(50)} == {-1, 1}


@each_kind
def test_orthogonal_initialisation(kind):
    layer = make(kind, "both", init="orthogonal")
    for name, array in layer.params.items():
        if name.startswith("bias"):
            expected = np.zeros_like(array)
            if layer.cell == "lstm" and name.startswith("bias_ih"):
                expected[H : 2 * H] = 1
            assert np.array_equal(array, expected)
        elif name.startswith("weight_ih"):
            bound = np.sqrt(6 / (H + array.shape[1]))
            assert 0.8 * bound < np.abs(array).max() <= bound
        else:
            for block in [array] if name.startswith("weight_hr") else array.reshape(-1, H, array.shape[1]):
                small = block @ block.T if len(block) < block.shape[1] else block.T @ block
                close(small, np.eye(len(small)))


def test_a_generator_is_taken_as_it_is():
    rng = np.random.default_rng(5)
    layer = RNN(2, 3, seed=rng)
    assert layer.rng is rng
    assert np.array_equal(layer.flat_params, RNN(2, 3, seed=5).flat_params)


# -- state_dict ------------------------------------------------------------------------------------------------------


@each_kind
@each_stack
def test_state_dict_round_trip(kind, stack):
    layer, other = make(kind, stack), make(kind, stack, seed=9)
    saved = layer.state_dict()
    assert list(saved) == list(layer.params)
    assert not any(np.shares_memory(array, layer.flat_params) for array in saved.values())
    other.load_state_dict(saved)
    assert np.array_equal(other.flat_params, layer.flat_params)


def test_loading_casts_to_the_layer_s_dtype():
    single, double = make("gru", dtype=np.float32), make("gru", seed=9)
    halves = {name: array.astype(np.float16) for name, array in double.params.items()}
    single.load_state_dict(halves)
    assert all(np.array_equal(single.params[name], half) for name, half in halves.items())
    double.flat_params[0] = 1e300
    single.load_state_dict(double.state_dict())
    assert single.flat_params[0] == np.inf and single.flat_params.dtype == np.float32
    assert np.array_equal(single.flat_params[1:], double.flat_params[1:].astype(np.float32))


def test_loading_reads_before_it_writes():
    layer = RNN(H, H, seed=0)
    before = layer.state_dict()
    layer.load_state_dict(
        {**layer.params, "weight_ih_l0": layer.params["weight_hh_l0"], "weight_hh_l0": layer.params["weight_ih_l0"]}
    )
    assert np.array_equal(layer.params["weight_ih_l0"], before["weight_hh_l0"])
    assert np.array_equal(layer.params["weight_hh_l0"], before["weight_ih_l0"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias_hh_l0": None}, TypeError, r"state_dict\['bias_hh_l0'\]: needs an array of floats, got NoneType"),
        ({"bias_hh_l0": np.zeros(H, int)}, TypeError, r"state_dict\['bias_hh_l0'\]: .*got ndarray of dtype int64"),
        ({"bias_hh_l0": np.zeros(H, complex)}, TypeError, r"state_dict\['bias_hh_l0'\]: .*of dtype complex128"),
        ({"bias_hh_l0": np.ma.zeros(H)}, TypeError, r"state_dict\['bias_hh_l0'\]: .*got MaskedArray"),
        (
            {"bias_hh_l0": [[1.0], [1.0, 2.0]]},
            TypeError,
            r"state_dict\['bias_hh_l0'\]: needs an array of floats, got list",
        ),
        ({"bias_hh_l0": np.zeros(H + 1)}, ValueError, r"state_dict\['bias_hh_l0'\]: needs shape \(6,\), got \(7,\)"),
        (
            {"weight_hh_l0": np.zeros(H * H)},
            ValueError,
            r"state_dict\['weight_hh_l0'\]: needs shape \(6, 6\), got \(36,\)",
        ),
        ({"bias_hh_l1": np.zeros(H)}, ValueError, r"state_dict: needs no entry 'bias_hh_l1'"),
        ({7: np.zeros(H)}, ValueError, r"state_dict: needs no entry 7"),
    ],
)
def test_a_bad_entry_is_named(change, error, message):
    layer = make("rnn")
    before = layer.flat_params.copy()
    with pytest.raises(error, match=message):
        layer.load_state_dict({**make("rnn", seed=9).state_dict(), **change})
    assert np.array_equal(layer.flat_params, before)


def test_a_missing_entry_is_named():
    layer = make("rnn")
    before = layer.flat_params.copy()
    entries = make("rnn", seed=9).state_dict()
    del entries["bias_ih_l0"]
    with pytest.raises(ValueError, match="state_dict: needs an entry 'bias_ih_l0', got none"):
        layer.load_state_dict(entries)
    with pytest.raises(TypeError, match="state_dict: needs a mapping from names to arrays, got list"):
        layer.load_state_dict(list(entries.values()))
    assert np.array_equal(layer.flat_params, before)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (RNN, {"input_size": 0}, ValueError, "input_size: needs an integer >= 1, got 0"),
        (RNN, {"hidden_size": 2.0}, TypeError, "hidden_size: needs an integer, got 2.0"),
        (LSTM, {"hidden_size": -1}, ValueError, "hidden_size: needs an integer >= 1, got -1"),
        (RNN, {"num_layers": True}, TypeError, "num_layers: needs an integer, got True"),
        (RNN, {"hidden_size": 2**40}, ValueError, r"need fewer than 2\*\*50 bytes of weights"),
        (GRU, {"num_layers": 2**60}, ValueError, r"need fewer than 2\*\*50 bytes of weights"),
        (RNN, {"bias": 1}, TypeError, "bias: needs True or False, got 1"),
        (RNN, {"batch_first": None}, TypeError, "batch_first: needs True or False, got None"),
        (RNN, {"bidirectional": "yes"}, TypeError, "bidirectional: needs True or False, got 'yes'"),
        (RNN, {"dropout": float("nan")}, ValueError, "dropout: needs a finite number >= 0 and <= 1, got nan"),
        (RNN, {"dropout": 1.5}, ValueError, "dropout: needs a finite number >= 0 and <= 1, got 1.5"),
        (RNN, {"dropout": "half"}, TypeError, "dropout: needs a number, got 'half'"),
        (RNN, {"dtype": np.float16}, TypeError, "dtype: needs float32 or float64"),
        (RNN, {"dtype": None}, TypeError, "dtype: needs float32 or float64, got None"),
        (RNN, {"init": "zeros"}, ValueError, "init: needs one of 'uniform', 'orthogonal', got 'zeros'"),
        (RNN, {"init": None}, TypeError, "init: needs one of 'uniform', 'orthogonal', got None"),
        (RNN, {"seed": -1}, ValueError, "seed: needs None, an integer >= 0 or a numpy.random.Generator, got -1"),
        (RNN, {"seed": 1.5}, TypeError, "seed: needs None, an integer"),
        (RNN, {"nonlinearity": "elu"}, ValueError, "nonlinearity: needs one of 'tanh', 'relu', got 'elu'"),
        (RNN, {"proj_size": 2}, TypeError, "proj_size"),
        (GRU, {"reset_after": 1}, TypeError, "reset_after: needs True or False, got 1"),
        (LSTM, {"proj_size": 4}, ValueError, r"proj_size: needs an integer in 0..3, got 4"),
    ],
)
def test_bad_options(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls(**{"input_size": 3, "hidden_size": 4, **options})


def zeros(*shape, dtype=np.float64):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("training", [False, True], ids=["call", "forward"])
@pytest.mark.parametrize(
    ("kind", "args", "error", "message"),
    [
        ("rnn", [None], TypeError, "x: needs dtype float32 or float64, got object"),
        ("rnn", [zeros(T, B, I, dtype=np.float32)], TypeError, "x: needs dtype float64 like the layer, got float32"),
        ("rnn", [zeros(T, B, I, dtype=int)], TypeError, "x: needs dtype float32 or float64, got int64"),
        ("rnn", [np.ma.zeros((T, B, I))], TypeError, "x: needs a plain array, got a masked one"),
        (
            "rnn",
            [zeros(T, B, I + 1)],
            ValueError,
            r"x: needs shape \(T, B, I\) or \(T, I\) with I = 3, got \(5, 4, 4\)",
        ),
        ("rnn", [zeros(I)], ValueError, r"x: needs shape \(T, B, I\) or \(T, I\) with I = 3, got \(3,\)"),
        (
            "rnn",
            [zeros(T, B, I), zeros(2, 3, H)],
            ValueError,
            r"state: needs shape \(L\*D, B, P\) = \(2, 4, 6\), got \(2, 3, 6\)",
        ),
        ("rnn", [zeros(T, B, I), (zeros(2, B, H),) * 2], ValueError, r"state: needs shape .* got \(2, 2, 4, 6\)"),
        (
            "gru",
            [zeros(T, B, I), zeros(2, B, H, dtype=np.float32)],
            TypeError,
            "state: needs dtype float64 like the layer",
        ),
        ("lstm", [zeros(T, B, I), zeros(2, B, H)], TypeError, r"state: needs a pair \(h, c\) or None"),
        (
            "lstm",
            [zeros(T, B, I), (None, zeros(2, H))],
            ValueError,
            r"state\[1\]: needs shape \(L\*D, B, H\) = \(2, 4, 6\)",
        ),
        (
            "projected",
            [zeros(T, B, I), (zeros(2, B, H), None)],
            ValueError,
            r"state\[0\]: needs shape \(L\*D, B, P\) = \(2, 4, 2\)",
        ),
        ("rnn", [zeros(T, B, I), None, [1, 2]], ValueError, r"lengths: needs shape \(B,\) = \(4,\), got \(2,\)"),
        ("rnn", [zeros(T, B, I), None, [1, 2, 3, 6]], ValueError, r"lengths: needs values in 0..T = 0..5, got 1..6"),
        ("rnn", [zeros(T, B, I), None, [1.0, 2, 3, 4]], TypeError, "lengths: needs integers, got dtype float64"),
    ],
)
def test_bad_arguments(kind, args, error, message, training):
    layer = make(kind, num_layers=2, dropout=0.5)
    before, drawing = layer.flat_params.copy(), layer.rng.bit_generator.state
    with pytest.raises(error, match=message):
        (layer.forward if training else layer)(*args)
    assert np.array_equal(layer.flat_params, before) and layer.rng.bit_generator.state == drawing


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([zeros(T, B, H)], ValueError, r"grad_out: needs the shape of out, \(5, 4, 12\), got \(5, 4, 6\)"),
        ([zeros(T, B, 2 * H, dtype=np.float32)], TypeError, "grad_out: needs dtype float64 like the layer"),
        ([None, zeros(2, B, H)], TypeError, r"grad_state: needs a pair"),
        ([None, (zeros(1, B, H), None)], ValueError, r"grad_state\[0\]: needs shape \(L\*D, B, P\) = \(2, 4, 6\)"),
    ],
)
def test_bad_gradients(args, error, message):
    layer = make("lstm", "bidirectional")
    _, _, tape = layer.forward(zeros(T, B, I))
    with pytest.raises(error, match=message):
        layer.backward(tape, *args)


def test_backward_wants_its_own_tape():
    layer, other = make("gru"), make("gru")
    out, _, tape = other.forward(zeros(T, B, I))
    with pytest.raises(ValueError, match="tape: needs one made by this layer's forward"):
        layer.backward(tape, out)
    with pytest.raises(TypeError, match="tape: needs what forward returned, got ndarray"):
        layer.backward(out)


# -- copies ----------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"]
)
def test_copies_are_whole_and_independent(kind, copied):
    layer = make(kind, "both", dropout=0.5)
    twin = copied(layer)
    assert twin.options() == layer.options() and np.array_equal(twin.flat_params, layer.flat_params)
    x, state = arguments(layer)
    out, _, tape = layer.forward(x, state)
    twin_out, _, twin_tape = twin.forward(x, state)  # the generators are in the same state too
    close(twin_out, out)
    close(twin.backward(twin_tape, out).flat, layer.backward(tape, out).flat)
    twin.flat_params[...] = 7
    assert all((array == 7).all() for array in twin.params.values())
    assert not (layer.flat_params == 7).any()


def test_repr_is_torch_s():
    assert repr(LSTM(8, 16)) == "LSTM(8, 16)"
    assert (
        repr(RNN(8, 16, 2, nonlinearity="relu", bias=False))
        == "RNN(8, 16, num_layers=2, nonlinearity=relu, bias=False)"
    )
    assert repr(GRU(1, 2, batch_first=True, dropout=0.5, reset_after=False)) == (
        "GRU(1, 2, reset_after=False, batch_first=True, dropout=0.5)"
    )
    assert repr(LSTM(3, 5, bidirectional=True, proj_size=2, dtype="f8")) == (
        "LSTM(3, 5, bidirectional=True, proj_size=2, dtype=float64)"
    )


@pytest.mark.parametrize("name", ["cell", "variant"])
def test_a_subclass_has_the_cell_of_its_base(name):
    with pytest.raises(TypeError, match="Mine: needs the cell and the variant of its base, got others"):
        type("Mine", (LSTM,), {name: "gru"})


def test_a_subclass_is_shown_with_the_layer_s_arguments():
    class Mine(LSTM):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.note = "mine"

    layer = Mine(8, 16, proj_size=2)
    assert repr(layer) == "Mine(8, 16, proj_size=2)"
    assert layer.options() == LSTM(8, 16, proj_size=2).options()


# -- frozen ----------------------------------------------------------------------------------------------------------


@each_kind
@each_dtype
@each_lengths
def test_frozen_has_the_layer_s_bits(kind, dtype, lengths):
    layer = make(kind, "both", dtype, dropout=0.5)
    x, state = arguments(layer)
    out, end = layer(x, state, lengths)
    frozen_out, frozen_end = layer.freeze()(x, state, lengths)
    assert np.array_equal(frozen_out, out)
    assert all(np.array_equal(a, b) for a, b in zip(parts(frozen_end), parts(end), strict=True))


def test_frozen_packs_once(compiled, monkeypatch):
    frozen = GRU(3, 4).freeze()
    monkeypatch.setattr(native, "_CELLS", {})  # where whoever packs again looks
    frozen(np.ones((5, 2, 3), np.float32))
    frozen(np.ones((5, 2, 3), np.float32), lengths=[5, 2])


def test_frozen_is_a_snapshot():
    layer = make("gru", "both")
    x, state = arguments(layer)
    frozen, before = layer.freeze(), layer(x, state)[0]
    layer.flat_params[...] = 0
    assert np.array_equal(frozen(x, state)[0], before)
    assert layer.flat_params.flags.writeable
    for array in frozen.params.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    with pytest.raises(ValueError, match=r"params\['bias_hh_l0'\]: needs parameters that can be written to, got those"):
        frozen.params["bias_hh_l0"] = 1
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert np.array_equal(twin(x, state)[0], before)
        assert not twin.params["bias_hh_l0"].flags.writeable
    with pytest.raises(AttributeError, match="params"):
        frozen.params = {}
    assert repr(frozen) == "Frozen(GRU(3, 6, num_layers=2, bidirectional=True, dtype=float64))"


def test_frozen_checks_its_arguments():
    with pytest.raises(ValueError, match=r"x: needs shape"):
        make("rnn").freeze()(zeros(T, B, I + 1))


@each_kind
@each_dtype
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_the_short_way_of_one_layer_is_the_long_one(kind, dtype, batch_first):
    """Plain arrays without lengths take it, frozen or not; lengths, even if all are T, and other layouts do not."""
    layer = make(kind, dtype=dtype, batch_first=batch_first)
    x, state = arguments(layer)
    x = x.swapaxes(0, 1).copy() if batch_first else x
    for start in (None, state):
        out, end = layer(x, start, [T] * B)
        for run in (layer, layer.freeze()):
            for array in (x, np.asfortranarray(x)):
                found, found_end = run(array, start)
                assert np.array_equal(found, out) and found.dtype == dtype
                for part, wanted in zip(parts(found_end), parts(end), strict=True):
                    assert np.array_equal(part, wanted) and part.shape == wanted.shape


def test_backward_is_as_silent():
    layer = RNN(1, 1, bidirectional=True, bias=False, dtype=np.float64)
    layer.flat_params = 0
    layer.params["weight_ih_l0"], layer.params["weight_ih_l0_reverse"] = 1e300, -1e300
    with np.errstate(all="raise"):
        _, _, tape = layer.forward(np.zeros((1, 1, 1)))
        assert np.isnan(layer.backward(tape, np.full((1, 1, 2), 1e300)).x).all()


def test_parameters_beyond_float32_are_infinite_and_silent():
    layer = GRU(3, 4)
    layer.flat_params = 1e300
    assert np.isinf(layer.flat_params).all()


@changes_in_place
def test_assigning_to_a_flat_array_of_another_shape():
    layer = GRU(3, 4)
    values = np.arange(layer.flat_params.size, dtype=np.float32)
    layer.flat_params.shape = 2, -1
    layer.flat_params = values
    assert layer.params["weight_ih_l0"][0, 1] == 1


def test_without_dropout_nothing_is_drawn():
    layer = GRU(3, 4, num_layers=2, seed=0)
    before = layer.rng.bit_generator.state
    layer.forward(np.ones((2, 1, 3), np.float32))
    assert layer.rng.bit_generator.state == before
