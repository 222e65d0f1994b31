# SPDX-License-Identifier: MIT
"""from_keras against Keras itself: numbers, names, files of every kind, and what is refused.

T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # it must be known before the first import

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl

import fastrnn
from fastrnn.keras import from_keras

# NumPy 2 deprecates how Keras 3.15 turns PyTorch's tensors into arrays, as it does in get_weights and when it saves.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

I, H = 3, 4
DOUBLE = keras.backend.backend() == "tensorflow"  # the others multiply float64 in float32
CELLS = {
    "rnn": lambda **options: kl.SimpleRNNCell(H, **options),
    "relu": lambda **options: kl.SimpleRNNCell(H, activation="relu", **options),
    "lstm": lambda **options: kl.LSTMCell(H, **options),
    "gru": lambda **options: kl.GRUCell(H, **options),
    "gru before": lambda **options: kl.GRUCell(H, reset_after=False, **options),
}
LAYERS = {
    "rnn": lambda **options: kl.SimpleRNN(H, **options),
    "relu": lambda **options: kl.SimpleRNN(H, activation="relu", **options),
    "lstm": lambda **options: kl.LSTM(H, **options),
    "gru": lambda **options: kl.GRU(H, **options),
    "gru before": lambda **options: kl.GRU(H, reset_after=False, **options),
}
each_kind = pytest.mark.parametrize("kind", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def counted_from_the_start():
    """The names that Keras makes up, in each test."""
    keras.utils.clear_session(free_memory=False)


def filled(layer, shape=(None, None, I), seed=0):
    """The layer, built, with random weights: Keras' biases begin as 0."""
    if not layer.built:
        layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.standard_normal(array.shape) / 2 for array in layer.get_weights()])
    return layer


def batch(layer, B=3, T=6, seed=1):
    """Sequences for one of our layers."""
    return np.random.default_rng(seed).standard_normal((B, T, layer.input_size)).astype(layer.dtype)


def states(state):
    """Ours as Keras returns them: of each cell h, or h and c."""
    return [part for pair in zip(*state, strict=True) for part in pair] if isinstance(state, tuple) else list(state)


def numbers(results):
    return [keras.ops.convert_to_numpy(result) for result in keras.tree.flatten(results)]


def close(ours, theirs, dtype):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype == dtype and our.shape == their.shape
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-13 if DOUBLE and dtype == "float64" else 1e-5)


def agree(layer, ours, B=3, T=6, rows=None):
    """Outputs and final states are those of a layer that returns both."""
    x = batch(ours, B, T)
    out, state = ours(x)
    close([out, *states(state)], numbers(layer(x)), ours.dtype)
    assert ours.batch_first


# -- layers ----------------------------------------------------------------------------------------------------------

BOTH = {"return_sequences": True, "return_state": True}


@each_dtype
@each_kind
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (3, 6)])
def test_layer_agrees(kind, dtype, bias, B, T):
    layer = filled(LAYERS[kind](**BOTH, dtype=dtype, use_bias=bias))
    ours = from_keras(layer)
    agree(layer, ours, B, T)
    assert (ours.input_size, ours.hidden_size, ours.num_layers, ours.bias) == (I, H, 1, bias)
    assert repr(from_keras(layer)) == repr(ours) and ours.dtype == dtype


@each_dtype
@each_kind
@pytest.mark.parametrize("bias", [1, 0])
def test_bidirectional_agrees(kind, dtype, bias):
    layer = filled(kl.Bidirectional(LAYERS[kind](**BOTH, dtype=dtype, use_bias=bias), dtype=dtype))
    ours = from_keras(layer)
    assert ours.bidirectional
    agree(layer, ours)


@each_kind
def test_one_of_everything(kind):
    layer = filled(LAYERS[kind](**BOTH), (None, None, 1))
    agree(layer, from_keras(layer), B=1, T=1)


@each_dtype
@each_kind
def test_cell_agrees(kind, dtype):
    layer = filled(kl.RNN(CELLS[kind](dtype=dtype), **BOTH, dtype=dtype))
    agree(layer, from_keras(layer))
    twice = filled(kl.Bidirectional(kl.RNN(CELLS[kind](dtype=dtype), **BOTH, dtype=dtype), dtype=dtype))
    agree(twice, from_keras(twice))


@each_dtype
@each_kind
@pytest.mark.parametrize("L", [1, 3])
def test_stack_of_cells_agrees(kind, dtype, L):
    cells = kl.StackedRNNCells([CELLS[kind](dtype=dtype) for _ in range(L)], dtype=dtype)
    layer = filled(kl.RNN(cells, **BOTH, dtype=dtype))
    ours = from_keras(layer)
    assert ours.num_layers == L
    agree(layer, ours)


def test_directions_made_apart_agree():
    layer = kl.Bidirectional(kl.GRU(H, **BOTH), backward_layer=kl.GRU(H, **BOTH, go_backwards=True, name="own"))
    agree(filled(layer), from_keras(layer))


@each_kind
def test_initial_state_agrees(kind):
    layer = filled(LAYERS[kind](**BOTH))
    ours = from_keras(layer)
    x, h, c = batch(ours), *np.random.default_rng(2).standard_normal((2, 3, H)).astype(np.float32)
    initial = (h[None], c[None]) if kind == "lstm" else h[None]
    out, state = ours(x, initial)
    close([out, *states(state)], numbers(layer(x, initial_state=states(initial))), "float32")


@each_kind
def test_last_step_is_in_the_state(kind):
    one = filled(LAYERS[kind]())
    both = filled(kl.Bidirectional(LAYERS[kind]()))
    for layer in (one, both):
        ours = from_keras(layer)
        x = batch(ours)
        _, state = ours(x)
        h = state[0] if kind == "lstm" else state
        last = np.concatenate([h[0], h[1]], axis=-1) if layer is both else h[-1]
        close([last], numbers(layer(x)), "float32")


@each_kind
def test_stateful_layer_is_a_stream(kind):
    layer = filled(LAYERS[kind](stateful=True), (2, 1, I))
    ours = from_keras(layer)
    stream = ours.stream(batch_size=2)
    for x_t in batch(ours, B=2, T=5).swapaxes(0, 1):
        close([stream(x_t)], numbers(layer(x_t[:, None])), "float32")


@each_kind
@pytest.mark.parametrize("wrapper", ["repeats", "zeros", "bidirectional"])
def test_mask_on_the_right_is_lengths(kind, wrapper):
    layer = LAYERS[kind](**BOTH, **({"zero_output_for_mask": True} if wrapper == "zeros" else {}))
    layer = filled(kl.Bidirectional(layer) if wrapper == "bidirectional" else layer)
    ours = from_keras(layer)
    x, lengths = batch(ours, B=5), np.array([6, 2, 0, 5, 1])
    valid = np.arange(6) < lengths[:, None]
    out, state = ours(x, lengths=lengths)
    theirs = numbers(layer(x, mask=keras.ops.convert_to_tensor(valid)))
    repeated = theirs[0].copy()
    theirs[0][~valid] = 0
    close([out, *states(state)], theirs, "float32")
    assert np.array_equal(repeated, theirs[0]) == (wrapper != "repeats")


@each_kind
def test_options_of_training_and_calling_change_nothing(kind):
    options = {"dropout": 0.5, "recurrent_dropout": 0.5, "unroll": True, "trainable": False, "seed": 1}
    options |= {"kernel_regularizer": "l2", "recurrent_constraint": "max_norm", "bias_initializer": "ones"}
    layer = filled(LAYERS[kind](**BOTH, **options))
    agree(layer, from_keras(layer))


def test_mixed_precision_has_variables_of_float32():
    layer = filled(kl.LSTM(H, **BOTH, dtype="mixed_bfloat16"))
    ours = from_keras(layer)
    twin = kl.LSTM(H, **BOTH)
    agree(filled(twin), ours)


def test_weights_are_copies():
    layer = filled(kl.GRU(H))
    ours = from_keras(layer)
    ours.flat_params[...] = 0
    assert all(array.all() for array in layer.get_weights())


# -- models ----------------------------------------------------------------------------------------------------------


def sequential():
    return keras.Sequential(
        [
            keras.Input((None,)),
            kl.Embedding(10, I, mask_zero=True),
            kl.LSTM(H, return_sequences=True),
            kl.Dropout(0.5),
            kl.LSTM(H, return_sequences=True, name="second"),
            kl.Bidirectional(kl.GRU(5, return_sequences=True, reset_after=False, use_bias=False), name="both"),
            kl.SimpleRNN(2, use_bias=False, name="last"),
            kl.Dense(2),
        ]
    )


def branches():
    """Names that sort otherwise than the layers come, two dtypes, two outputs."""
    x = keras.Input((None, I))
    a = kl.SimpleRNN(H, return_sequences=True, activation="relu", name="z")(x)
    b = kl.RNN([kl.LSTMCell(H), kl.LSTMCell(H)], return_sequences=True, name="y")(x)
    c = kl.RNN(kl.GRUCell(H), return_sequences=True, name="x")(kl.Add()([a, b]))
    d = kl.LSTM(H, dtype="float64", name="w")(c)
    return keras.Model(x, [d, kl.GlobalMaxPooling1D()(kl.Concatenate()([a, b, c]))])


def nested():
    """Models and wrappers in a model; weights that are not trained, in the midst of others that are."""
    encoder = keras.Sequential(
        [
            keras.Input((None, I)),
            kl.LSTM(H, return_sequences=True, name="same"),
            kl.BatchNormalization(),
            kl.GRU(H, return_sequences=True, trainable=False),
            kl.Bidirectional(kl.LSTM(H, return_sequences=True), name="both"),
            kl.RNN([kl.GRUCell(H), kl.GRUCell(H)], return_sequences=True, name="cells"),
        ],
        name="encoder",
    )
    encoder.get_layer("both").forward_layer.trainable = False
    encoder.get_layer("cells").cell.cells[0].trainable = False
    x = keras.Input((None, 5, I))
    frames = kl.TimeDistributed(kl.LSTM(I, name="inner"), name="frames")(x)
    inner = keras.Input((None, 2 * H))
    head = keras.Model(inner, kl.SimpleRNN(H, name="same")(inner), name="head")
    y = kl.Bidirectional(kl.LSTM(H, return_sequences=True), name="outer")(encoder(frames))
    return keras.Model(x, head(y))


MODELS = {
    sequential: ["lstm", "second", "both", "last"],
    branches: ["z", "y", "x", "w"],
    nested: ["frames/inner", "encoder/same", "encoder/gru", "encoder/both", "encoder/cells", "outer", "head/same"],
}


@pytest.fixture(params=MODELS, ids=lambda make: make.__name__)
def model(request):
    return filled(request.param())


def at(model, name):
    for part in name.split("/"):
        model = model.get_layer(part) if hasattr(model, "get_layer") else model.layer
    return model


def same(layers, others):
    """The very same layers under the same names."""
    assert list(layers) == list(others)
    for name, layer in layers.items():
        assert repr(layer) == repr(others[name])
        assert np.array_equal(layer.flat_params, others[name].flat_params)


def test_model_gives_its_layers_by_name(model, request):
    layers = from_keras(model)
    assert list(layers) == MODELS[request.node.callspec.params["model"]]
    for name, ours in layers.items():
        layer = at(model, name)
        for one in (layer, getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)):
            one.return_sequences = one.return_state = True
        agree(layer, ours)


def test_stack_of_layers_is_a_chain():
    model = filled(
        keras.Sequential(
            [
                keras.Input((None, I)),
                *(kl.GRU(H, return_sequences=True) for _ in range(2)),
                kl.Bidirectional(kl.LSTM(H)),
            ]
        )
    )
    layers = from_keras(model)
    x = batch(layers["gru"])
    expected = numbers(model(x))
    for layer in layers.values():
        x, state = layer(x)
    close([np.concatenate(list(state[0]), axis=-1)], expected, "float32")


class Block(kl.Layer):
    def __init__(self):
        super().__init__(name="block")
        self.rnn = kl.LSTM(H, name="rnn")

    def call(self, x):
        return self.rnn(x)


class Subclassed(keras.Model):
    def __init__(self, *names):
        super().__init__()
        self.parts = [kl.GRU(I, return_sequences=True, name=name) for name in names]
        self.block = Block()

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return self.block(x)


def test_subclassed_models_and_layers_are_looked_through():
    model = Subclassed("one", "two")
    model(np.zeros((1, 2, I), np.float32))
    layers = from_keras(model)
    assert list(layers) == ["one", "two", "block/rnn"] and layers["block/rnn"].hidden_size == H
    assert list(from_keras(model.block)) == ["rnn"]


def test_two_of_one_name_are_refused():
    model = Subclassed("one", "one")
    model(np.zeros((1, 2, I), np.float32))
    with pytest.raises(ValueError, match="needs recurrent layers of different names, got 'one' twice"):
        from_keras(model)


def test_model_without_recurrent_layers_is_refused():
    with pytest.raises(ValueError, match="needs a recurrent layer in it, got none"):
        from_keras(keras.Sequential([keras.Input((I,)), kl.Dense(2)]))


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".hdf5"])
def test_file_gives_the_same_as_the_model(model, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model.save(path)
    same(from_keras(path), from_keras(model))
    same(from_keras(str(path)), from_keras(model))


@pytest.mark.parametrize("first", [".keras", ".h5"])
@pytest.mark.parametrize("second", [".keras", ".h5"])
def test_file_of_a_loaded_model_gives_the_same(model, first, second, tmp_path):
    """Such a model has other names for its weights."""
    expected = from_keras(model)
    model.save(tmp_path / f"first{first}")
    model = keras.saving.load_model(tmp_path / f"first{first}", compile=False)
    model.save(tmp_path / f"second{second}")
    same(from_keras(tmp_path / f"second{second}"), expected)


def test_file_of_a_frozen_model_gives_the_same(model, tmp_path):
    expected = from_keras(model)
    model.trainable = False
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        same(from_keras(tmp_path / f"model{suffix}"), expected)


def test_file_of_a_frozen_layer_with_others_in_it_gives_the_same(tmp_path):
    """What is trained inside of a frozen layer is not, as Keras counts."""
    model = filled(nested())
    model.get_layer("encoder").trainable = False
    model.get_layer("encoder").get_layer("both").backward_layer.trainable = True
    model.save(tmp_path / "model.h5")
    same(from_keras(tmp_path / "model.h5"), from_keras(model))


def two_in_a_model():
    inner = [kl.LSTM(I, return_sequences=True, name=name) for name in "ab"]
    return keras.Sequential([keras.Input((None, I)), keras.Sequential([keras.Input((None, I)), *inner], name="inner")])


def both_directions():
    return keras.Sequential([keras.Input((None, I)), kl.Bidirectional(kl.LSTM(H), name="both")])


FROZEN = {  # by itself, which no configuration says
    "cell of a direction": (both_directions, lambda model: model.layers[0].forward_layer.cell),
    "cell of a layer": (two_in_a_model, lambda model: model.layers[0].layers[0].cell),
    "kernel": (both_directions, lambda model: model.layers[0].forward_layer.cell.kernel),
    "recurrent kernel": (two_in_a_model, lambda model: model.layers[0].layers[0].cell.recurrent_kernel),
}


@pytest.mark.parametrize("case", FROZEN)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_file_gives_the_same_whatever_was_frozen(case, suffix, tmp_path):
    make, part = FROZEN[case]
    model = filled(make())
    part(model).trainable = False
    model.save(tmp_path / f"model{suffix}")
    same(from_keras(tmp_path / f"model{suffix}"), from_keras(model))


def test_legacy_file_whose_names_and_order_disagree_is_refused(tmp_path):
    model, path = filled(both_directions()), tmp_path / "model.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/both"]
        names = list(group.attrs["weight_names"])
        for name in names[:3]:
            group.move(name, name.replace("forward_lstm", "elsewhere/backward_lstm"))
        group.attrs["weight_names"] = [name.replace("forward_lstm", "elsewhere/backward_lstm") for name in names]
    refused(path, "both: needs weights in the order of its cells, got those of .*elsewhere/backward_lstm/lstm_cell")


def test_operations_that_are_no_layers_are_passed_over(tmp_path):
    x = keras.Input((None, I))
    y = keras.ops.add(kl.LSTM(H, return_sequences=True)(x) * 2, 1)
    model = keras.Model(x, keras.ops.tanh(kl.LSTM(H)(y)))
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        same(from_keras(tmp_path / f"model{suffix}"), from_keras(model))


def as_keras_2(path):
    """Rewrite a legacy file as TensorFlow's Keras 2 does: no modules, ``:0`` after the names of weights, of the
    directions the first alone, and lists of names that are cut in two."""

    def simplified(value):
        if isinstance(value, list):
            return [simplified(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "merge_mode" in value:
            value = {key: part for key, part in value.items() if key != "backward_layer"}
        return {key: simplified(part) for key, part in value.items() if key not in ("module", "registered_name")}

    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(simplified(json.loads(file.attrs["model_config"]))).encode()
        for group in file["model_weights"].values():
            names = list(group.attrs["weight_names"])
            if names:
                for name in names:
                    group.move(name, f"{name}:0")
                del group.attrs["weight_names"]
                group.attrs["weight_names0"] = [f"{name}:0".encode() for name in names[:2]]
                group.attrs["weight_names1"] = [f"{name}:0".encode() for name in names[2:]]


@pytest.mark.parametrize("make", [sequential, branches])
def test_file_of_keras_2_gives_the_same(make, tmp_path):
    model = filled(make())
    model.save(tmp_path / "model.h5")
    as_keras_2(tmp_path / "model.h5")
    same(from_keras(tmp_path / "model.h5"), from_keras(model))


@pytest.mark.parametrize("file", ["2.3.4.h5", "2.15.1.h5", "2.15.1.keras"])
def test_file_that_keras_2_wrote_itself(file):
    """By keras_2/write.py, in the TensorFlow of that version."""
    path = Path(__file__).parent / "keras_2" / file
    layers, found = from_keras(path), np.load(path.with_suffix(".npz"))
    assert list(found) == [f"{name} {part}" for name in layers for part in ("x", "out")]
    for name, layer in layers.items():
        close([layer(found[f"{name} x"])[0]], [found[f"{name} out"]], "float32")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_need_no_keras(suffix, tmp_path):
    model = filled(sequential())
    model.save(tmp_path / f"model{suffix}")
    code = """if True:
        import sys, fastrnn.keras
        layers = fastrnn.keras.from_keras(sys.argv[1])
        assert not {"keras", "torch", "tensorflow", "jax"} & set(sys.modules)
        for k, layer in enumerate(layers.values()):
            layer.save(f"{sys.argv[2]}/{k}")
    """
    subprocess.run([sys.executable, "-c", code, tmp_path / f"model{suffix}", tmp_path], check=True)
    for k, layer in enumerate(from_keras(model).values()):
        assert np.array_equal(fastrnn.load(tmp_path / str(k)).flat_params, layer.flat_params)


# -- what is refused -------------------------------------------------------------------------------------------------


def tanh(x):
    return x


def own(x):
    return x


def sigmoid(x):
    return 0 * x


@pytest.mark.parametrize("kind", [kl.LSTM, kl.GRU])
def test_a_function_of_someone_elses_called_sigmoid(kind):
    layer = kind(4, recurrent_activation=sigmoid)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match=r"recurrent_activation: needs a function of Keras, got <function sigmoid"):
        from_keras(layer)


@keras.saving.register_keras_serializable()
class Own(kl.LSTM):
    pass


@keras.saving.register_keras_serializable()
class OwnCell(kl.GRUCell):
    pass


def twin(kind):
    """A registered subclass with the name of its parent."""
    return keras.saving.register_keras_serializable()(type(kind.__name__, (kind,), {}))


REFUSED = {
    "activation: needs 'tanh' or 'relu', got 'elu'": lambda: kl.SimpleRNN(H, activation="elu"),
    "activation: needs 'tanh', got 'relu'": lambda: kl.LSTM(H, activation="relu"),
    "activation: needs 'tanh', got 'linear'": lambda: kl.GRU(H, activation=None),
    "activation: needs 'tanh', got 'ReLU'": lambda: kl.GRU(H, activation=kl.ReLU()),
    "activation: needs 'sigmoid', got 'hard_sigmoid'": lambda: kl.LSTM(H, recurrent_activation="hard_sigmoid"),
    "go_backwards: needs False, got True": lambda: kl.GRU(H, go_backwards=True),
    "merge_mode: needs 'concat', got 'sum'": lambda: kl.Bidirectional(kl.GRU(H), merge_mode="sum"),
    "merge_mode: needs 'concat', got None": lambda: kl.Bidirectional(kl.GRU(H), merge_mode=None),
    "go_backwards: needs False, got True ": lambda: kl.Bidirectional(
        kl.GRU(H, go_backwards=True), backward_layer=kl.GRU(H)
    ),
    "needs directions or cells that are alike, .*'GRU'.*'LSTM'": lambda: kl.Bidirectional(
        kl.GRU(H), backward_layer=kl.LSTM(H, go_backwards=True)
    ),
    "needs directions or cells that are alike, .*4.*5": lambda: kl.RNN([kl.GRUCell(4), kl.GRUCell(5)]),
    "needs one cell for each direction, got a stack of them": lambda: kl.Bidirectional(
        kl.RNN([kl.GRUCell(H), kl.GRUCell(H)])
    ),
    "needs weights of one dtype, got float32 and float64": lambda: kl.RNN(
        [kl.GRUCell(H), kl.GRUCell(H, dtype="float64")]
    ),
    "needs one of .*, got (a custom |Custom>)Own": lambda: Own(H),
    "needs one of .*, got a custom OwnCell": lambda: kl.RNN(OwnCell(H)),
    "needs one of .*, got a custom GRUCell": lambda: kl.RNN(twin(kl.GRUCell)(H)),
    "needs one of .*, got a custom GRUCell ": lambda: kl.RNN([kl.GRUCell(H), twin(kl.GRUCell)(H)]),
    "needs one of .*, got a custom LSTM": lambda: kl.Bidirectional(twin(kl.LSTM)(H)),
    "needs one of .*, got (a custom |Custom>)LSTM": lambda: twin(kl.LSTM)(H),
    "needs one of .*, got (a custom |Custom>)Bidirectional": lambda: twin(kl.Bidirectional)(kl.GRU(H)),
    "needs one of .*, got ConvLSTM1D": lambda: kl.ConvLSTM1D(2, 2),
    "needs one of .*, got ConvLSTM1D ": lambda: kl.Bidirectional(kl.ConvLSTM1D(2, 2)),
    "needs dtype float32 or float64, got": lambda: kl.LSTM(H, dtype="float16", recurrent_initializer="zeros"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_layer_is_refused_by_name(message):
    layer = REFUSED[message]()
    layer(np.zeros((2, 5, I, 1) if "ConvLSTM" in message else (2, 5, I), np.float32))
    with pytest.raises((TypeError, ValueError), match=rf"^{layer.name}\b.*{message.strip()}"):
        from_keras(layer)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("message", REFUSED)
def test_layer_in_a_file_is_refused_by_name(message, suffix, tmp_path):
    path, layer = tmp_path / f"model{suffix}", REFUSED[message]()
    shape = (5, I, 1) if "ConvLSTM" in message else (5, I)
    x = keras.Input(shape)
    keras.Model(x, layer(x)).save(path)
    with pytest.raises(ValueError, match=rf"{path}: .*\b{layer.name}\b.*{message.strip()}"):
        from_keras(path)


def test_own_function_is_refused_whatever_its_name():
    layer = filled(kl.LSTM(H, activation=tanh, name="mine"))
    with pytest.raises(ValueError, match=r"mine.activation: needs a function of Keras, got <function tanh"):
        from_keras(layer)


def test_own_layer_is_refused_though_it_has_a_name_of_keras():
    with pytest.raises(ValueError, match=r"mine: needs one of Keras' .*, got a custom GRU"):
        from_keras(type("GRU", (kl.GRU,), {})(H, name="mine"))


def test_own_cell_is_refused_though_it_has_a_name_of_keras():
    own = type("GRUCell", (kl.GRUCell,), {})
    swapped = kl.GRU(H, name="mine")
    swapped.cell = own(H)
    for layer in (kl.RNN(own(H), name="mine"), kl.RNN([kl.GRUCell(H), own(H)], name="mine"), swapped):
        with pytest.raises(ValueError, match=r"mine: needs .* got a custom GRUCell"):
            from_keras(filled(layer))


def test_own_layer_in_a_file_is_refused_though_it_has_a_name_of_keras(tmp_path):
    own = type("GRU", (kl.GRU,), {})(H, name="mine")
    keras.Sequential([keras.Input((None, I)), own]).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"mine: needs one of Keras' .*, got a custom GRU"):
        from_keras(tmp_path / "model.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_own_function_in_a_file_is_refused_by_name(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    keras.Sequential([keras.Input((None, I)), kl.LSTM(H, recurrent_activation=own, name="mine")]).save(path)
    with pytest.raises(ValueError, match=r"mine\.recurrent_activation: needs 'sigmoid', got 'own'"):
        from_keras(path)


def test_cell_that_keras_cannot_describe_is_refused():
    class Cell(kl.Layer):
        def __init__(self, function):
            super().__init__()
            self.state_size = H

        def call(self, x, states):
            return x, states

    with pytest.raises(ValueError, match="mine: needs a layer and cells of Keras, got custom ones without get_config"):
        from_keras(kl.RNN(Cell(object()), name="mine"))


def test_layer_without_weights_is_refused():
    for layer in (kl.GRU(H, name="mine"), kl.Bidirectional(kl.GRU(H), name="mine")):
        with pytest.raises(ValueError, match="mine: needs weights, got a layer that was not yet built or called"):
            from_keras(layer)


def test_file_without_weights_is_refused(tmp_path):
    model, path = keras.Sequential([kl.GRU(H, name="mine")]), tmp_path / "model.keras"
    with pytest.warns(UserWarning, match="not yet been built"):
        model.save(path)
    with pytest.raises(ValueError, match=f"{path}: .*mine: needs weights at layers/gru/cell/vars/0, got none"):
        from_keras(path)


@pytest.mark.parametrize("value", [None, 3, "", np.zeros(3), kl.LSTM, object()], ids=repr)
def test_other_arguments_are_refused(value):
    with pytest.raises(
        (TypeError, FileNotFoundError), match=r"layer_or_model: needs a Keras layer or model|No such file"
    ):
        from_keras(value)


def test_missing_h5py_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "fastrnn\[keras\]"'):
        from_keras("model.keras")


# -- files that are not what they should be --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model in a file of each kind: its bytes by suffix."""
    model, folder = (
        filled(keras.Sequential([keras.Input((None, I)), kl.GRU(H, name="gru")])),
        tmp_path_factory.mktemp("good"),
    )
    for suffix in (".keras", ".h5"):
        model.save(folder / f"model{suffix}")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def refused(path, message=""):
    with pytest.raises(ValueError, match=f"^{path}: cannot be taken over: .*{message}"):
        from_keras(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_truncated_file_is_refused(good, suffix, tmp_path):
    path, data = tmp_path / f"model{suffix}", good[suffix]
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_changed_file_gives_a_layer_or_is_refused(good, suffix, tmp_path):
    path, rng = tmp_path / f"model{suffix}", np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(good[suffix])
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            layers = from_keras(path)
        except ValueError as problem:
            assert str(problem).startswith(f"{path}: cannot be taken over: ")
        else:
            assert all(isinstance(layer, fastrnn.GRU) for layer in layers.values())


def rewritten(data, path, **members):
    """A ``.keras`` file with other members."""
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = members.get(name.partition(".")[0], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def test_compressed_archive_is_read(good, tmp_path):
    path = rewritten(good[".keras"], tmp_path / "model.keras")
    assert list(from_keras(path)) == ["gru"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config": None}, "config.json"),
        ({"config": b"{"}, "Expecting"),
        ({"config": b"[]"}, "TypeError"),
        ({"config": b'{"config": {"layers": 7}}'}, "needs a recurrent layer in it, got none"),
        ({"config": b'{"config": {"layers": [7], "layer": 7}}'}, "needs a recurrent layer in it, got none"),
        ({"config": b'{"config": ' * 100_000}, ""),
        ({"config": b" " * 10_000_000}, "config.json: needs 10000000 bytes, got "),
        ({"model": None}, "model.weights.h5"),
        ({"model": b"no HDF5"}, "OSError"),
    ],
)
def test_archive_with_other_members_is_refused(good, members, message, tmp_path):
    refused(rewritten(good[".keras"], tmp_path / "model.keras", **members), message)


def bomb(path, method, size, packed):
    """An archive whose configuration is of so many blanks, and says that they were packed to so many bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("config.json", b" " * size)
        archive.writestr("model.weights.h5", b"")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.find(b"PK\x01\x02") + 20, packed)
    path.write_bytes(data)
    return path


def test_archive_cannot_lie_about_how_much_it_holds(tmp_path):
    path = bomb(tmp_path / "model.keras", zipfile.ZIP_DEFLATED, 10**7, 2**31 - 1)
    refused(path, "config.json: needs 10000000 bytes, got [0-9]{4} to unpack them from")


def test_archive_packed_without_a_bound_is_refused(tmp_path):
    path = bomb(tmp_path / "model.keras", zipfile.ZIP_BZIP2, 1000, 2**31 - 1)
    refused(path, "config.json: needs to be stored or deflated, got method 12")


def at_kernel(change):
    """A change of a legacy file's group, given with its kernel's name."""

    def changed(file):
        group = file["model_weights/gru"]
        change(group, next(name for name in group.attrs["weight_names"] if name.endswith("/kernel")))

    return changed


def replaced(**options):
    def change(group, name):
        del group[name]
        group.create_dataset(name, **options)

    return at_kernel(change)


def linked(link):
    def change(group, name):
        del group[name]
        group[name] = link

    return at_kernel(change)


def with_config(**changes):
    """A change of a legacy file's only layer; ``None`` takes an option away."""

    def changed(file):
        model = json.loads(file.attrs["model_config"])
        config = model["config"]["layers"][-1]["config"]
        config.update(changes)
        model["config"]["layers"][-1]["config"] = {key: value for key, value in config.items() if value is not None}
        file.attrs["model_config"] = json.dumps(model)

    return changed


def virtual(group, name):
    layout = h5py.VirtualLayout((I, 3 * H), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (I, 3 * H))
    del group[name]
    group.create_virtual_dataset(name, layout)


def elsewhere(group, name):
    del group[name]
    group.create_dataset(name, (I, 3 * H), "f4", external=[("elsewhere.raw", 0, h5py.h5f.UNLIMITED)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.pop("model_config"), "KeyError"),
        (with_config(time_major=True), "gru.time_major: needs False, got True"),
        (with_config(reset_after=None), r"gru: needs weights of shapes .*\(12,\)\], got .*\(2, 12\)\]"),
        (with_config(units=5), "gru: needs weights of shapes"),
        (with_config(units="4"), ""),
        (lambda file: file.pop("model_weights"), "gru: needs weights at model_weights/gru, got none"),
        (lambda file: file["model_weights/gru"].attrs.pop("weight_names"), "needs the weights of 1 cells, got .* 0"),
        (at_kernel(lambda group, name: group.pop(name)), "kernel, got none"),
        (linked(h5py.ExternalLink("elsewhere.h5", "/data")), "kernel, got none"),
        (linked(h5py.SoftLink("/model_weights/gru")), "kernel, got none"),
        (at_kernel(virtual), "gru: needs 144 bytes at .*kernel, got 0"),
        (at_kernel(elsewhere), "gru: needs 144 bytes at .*kernel, got 0"),
        (
            replaced(shape=(10**9, 3 * H), dtype="f4", chunks=(10, 3 * H)),
            "gru: needs 48000000000 bytes at .*kernel, got 0",
        ),
        (replaced(data=np.zeros((I, 5), "f4")), r"gru: needs weights of shapes .*, got .*\(3, 5\)"),
        (replaced(data=np.zeros((0, 3 * H), "f4")), "input_size"),
        (replaced(data=np.zeros((I, 3 * H), "i4")), "gru.kernel: needs dtype float32 or float64, got int32"),
        (replaced(data=np.zeros((), "f4")), "gru: needs weights of shapes"),
    ],
)
def test_legacy_file_with_other_contents_is_refused(good, change, message, tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(good[".h5"])
    with h5py.File(path, "r+") as file:
        change(file)
    refused(path, message)


def test_file_of_weights_alone_is_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    filled(keras.Sequential([keras.Input((None, I)), kl.GRU(H)])).save_weights(path)
    refused(path, "model_config")


def test_file_of_a_subclassed_model_is_refused(tmp_path):
    model, path = Subclassed("one"), tmp_path / "model.keras"
    model(np.zeros((1, 2, I), np.float32))
    model.save(path)
    refused(path, "needs a recurrent layer in it, got none")
