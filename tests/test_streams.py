# SPDX-License-Identifier: MIT
"""Streams: step by step is the whole at once, wherever it is split; states in and out; what a stream sees of weights.

T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from test_layers import KINDS, each_kind, parts

from fastrnn import config, native, reference
from fastrnn.layers import GRU, LSTM
from fastrnn.streams import Stream

T, I, H = 7, 3, 5


def make(kind, **more):
    cls, options = KINDS[kind]
    return cls(I, H, **{"num_layers": 2, "seed": 1, **options, **more})


def same(actual, expected):
    """The same bits, from the compiled kernels; NumPy's products round differently for different numbers of rows."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    if config.backend() is reference:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        assert np.array_equal(actual, expected)


def sequence(B, dtype=np.float32):
    return np.random.default_rng(2).standard_normal((T, B, I)).astype(dtype)


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("frozen", [False, True], ids=["layer", "frozen"])
def test_streamed_is_whole(kind, dtype, B, frozen):
    layer = make(kind, dtype=dtype)
    x = sequence(B, dtype)
    out, end = layer(x)
    stream = (layer.freeze() if frozen else layer).stream(B)
    same(np.stack([stream(x_t) for x_t in x]), out)
    for part, expected in zip(parts(stream.state), parts(end), strict=True):
        same(part, expected)


@each_kind
@pytest.mark.parametrize("split", range(T + 1))
def test_split_anywhere(kind, split):
    layer = make(kind)
    x = sequence(2)
    out, end = layer(x)
    begun, state = layer(x[:split])
    stream = layer.stream(2)
    stream.state = state
    streamed = [stream(x_t) for x_t in x[split:-1]]
    finished, finished_end = layer(x[max(split, T - 1) :], stream.state)
    same(np.concatenate([begun, np.reshape(streamed, (-1, 2, layer.output_size)).astype(np.float32), finished]), out)
    for part, expected in zip(parts(finished_end), parts(end), strict=True):
        same(part, expected)


@each_kind
def test_one_sequence_needs_no_batch_axis(kind):
    layer = make(kind)
    x = sequence(1)
    out, state = layer(x[:4, 0])
    stream = layer.stream()
    stream.reset(state)  # that of an unbatched call
    rest = np.stack([stream(x_t) for x_t in x[4:, 0]])
    same(np.concatenate([out, rest]), layer(x[:, 0])[0])


def test_out_is_new_or_the_one_given():
    layer = make("gru")
    stream, other = layer.stream(2), layer.stream(2)
    x = sequence(2)
    out = np.empty((2, H), np.float32)
    assert stream(x[0], out=out) is out
    first = other(x[0])
    assert np.array_equal(first, out)
    kept = first.copy()
    assert other(x[1]) is not first and np.array_equal(first, kept)
    single, room = layer.stream(), np.empty(H, np.float32)
    assert single(x[0, 0], room) is room


def test_out_may_be_the_input():
    layer = GRU(H, H, seed=0)
    x = np.ones((2, H), np.float32)
    expected = layer.stream(2)(x)
    assert np.array_equal(layer.stream(2)(x, out=x), expected)


def arrays_of_every_kind():
    """One row each, with whether the short way may take it."""
    x, grid = np.linspace(-1, 1, I, dtype=np.float32), np.zeros((I, 2), np.float32)
    shifted = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1)
    grid[:, 0] = x
    yield x, True
    yield pickle.loads(pickle.dumps(x)), True  # whose dtype is another object
    yield shifted, False
    yield grid[:, 0], False
    yield x.astype(x.dtype.newbyteorder()), False


def test_the_short_way_takes_plain_arrays_and_no_others():
    layer = make("lstm")
    expected, _ = layer(np.linspace(-1, 1, I, dtype=np.float32)[None])
    for x, plain in arrays_of_every_kind():
        stepper = native.Stepper(layer.cell, layer.variant, layer._stack.weights, 1)
        assert (stepper.feed(x) is not None) == plain
        np.testing.assert_allclose(layer.stream()(x), expected[0], rtol=1e-5)
    assert stepper.feed(x.astype(np.float64)) is None


@each_kind
def test_state_is_copied_in_and_out(kind):
    layer = make(kind)
    stream, x = layer.stream(2), sequence(2)
    stream(x[0])
    state = copy.deepcopy(stream.state)
    out = stream(x[1])
    for part in parts(stream.state):
        part[...] = 7  # a copy: the stream does not see this
    given = copy.deepcopy(state)
    stream.state = given
    for part in parts(given):
        part[...] = 7
    assert np.array_equal(stream(x[1]), out)
    stream.state = None
    assert not any(part.any() for part in parts(stream.state))
    assert np.array_equal(stream(x[0]), layer.stream(2)(x[0]))


def test_half_a_state_is_zeros():
    layer = make("lstm")
    stream = layer.stream()
    stream.state = (np.ones((2, 1, H), np.float32), None)
    h, c = stream.state
    assert (h == 1).all() and not c.any()


@each_kind
def test_a_stream_sees_the_weights_as_they_were(kind):
    layer = make(kind)
    stream, x = layer.stream(2), sequence(2)
    before = stream(x[0])
    layer.flat_params *= 0.5
    stream.state = None
    assert np.array_equal(stream(x[0]), before)
    stream.reset()
    after = stream(x[0])
    assert not np.array_equal(after, before)
    assert np.array_equal(after, layer.stream(2)(x[0]))


def test_a_frozen_layer_s_stream_never_changes():
    layer = make("lstm")
    stream, x = layer.freeze().stream(2), sequence(2)
    before = stream(x[0])
    layer.flat_params[...] = 0
    stream.reset()
    assert np.array_equal(stream(x[0]), before)


def test_reset_starts_from_a_state():
    layer = make("lstm")
    stream, x = layer.stream(2), sequence(2)
    stream(x[0])
    state = stream.state
    out = stream(x[1])
    stream.reset(state)
    assert np.array_equal(stream(x[1]), out)
    stream.reset()
    assert not any(part.any() for part in stream.state)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_stream_is_made_again_not_copied(way):
    layer, x = make("lstm"), sequence(2)
    stream = layer.stream(2)
    stream(x[0])
    with pytest.raises(TypeError, match="needs a second one in place of a copy or pickle: other = layer") as caught:
        way(stream)
    names = {"layer": layer, "stream": stream}
    exec(str(caught.value).split("pickle: ")[1], names)
    for x_t in x[1:]:
        assert np.array_equal(names["other"](x_t), stream(x_t))


def test_what_a_stream_was_made_for_stays():
    stream = make("gru").stream(4000)
    with pytest.raises(AttributeError, match="batch_size"):
        stream.batch_size = 1
    with pytest.raises(ValueError, match=r"x: needs shape \(B, I\) = \(4000, 3\), got \(1, 3\)"):
        stream(zeros(1, I))


def test_a_subclass_of_a_layer_is_streamed():
    class Mine(GRU):
        pass

    layer, x = Mine(I, H, seed=1), sequence(1)
    assert np.array_equal(Stream(layer)(x[0]), layer.freeze().stream()(x[0]))


def test_repr_shows_layer_and_batch():
    assert repr(make("gru").stream(2)) == "Stream(GRU(3, 5, num_layers=2), batch_size=2)"


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


read_only = zeros(2, H)
read_only.flags.writeable = False


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([zeros(2, I, dtype=np.float64)], TypeError, "x: needs dtype float32 like the layer, got float64"),
        ([None], TypeError, "x: needs dtype float32 or float64, got object"),
        ([zeros(2, I + 1)], ValueError, r"x: needs shape \(B, I\) = \(2, 3\), got \(2, 4\)"),
        ([zeros(1, I)], ValueError, r"x: needs shape \(B, I\) = \(2, 3\), got \(1, 3\)"),
        ([zeros(I)], ValueError, r"x: needs shape \(B, I\) = \(2, 3\), got \(3,\)"),
        ([zeros(2, I), zeros(2, H + 1)], ValueError, r"out: needs shape \(2, 5\), got \(2, 6\)"),
        ([zeros(2, I), zeros(2, H, dtype=np.float64)], TypeError, "out: needs an array of float32, got dtype float64"),
        ([zeros(2, I), [[0.0] * H] * 2], TypeError, "out: needs an array of float32, got list"),
        ([zeros(2, I), zeros(2, 2 * H)[:, ::2]], ValueError, "out: needs to be C-contiguous, aligned and writeable"),
        ([zeros(2, I), read_only], ValueError, "out: needs to be C-contiguous, aligned and writeable"),
    ],
)
def test_bad_steps(args, error, message):
    stream = make("lstm").stream(2)
    stream(sequence(2)[0])
    before = stream.state
    with pytest.raises(error, match=message):
        stream(*args)
    assert all(np.array_equal(a, b) for a, b in zip(stream.state, before, strict=True))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (zeros(2, 2, H), TypeError, r"state: needs a pair \(h, c\) or None"),
        (
            (zeros(2, 2, H), zeros(2, H)),
            ValueError,
            r"state\[1\]: needs shape \(L\*D, B, H\) = \(2, 2, 5\), got \(2, 5\)",
        ),
        ((zeros(2, 2, H, dtype=np.float64), None), TypeError, r"state\[0\]: needs dtype float32 like the layer"),
    ],
)
def test_bad_states(state, error, message):
    layer = make("lstm")
    stream = layer.stream(2)
    stream(sequence(2)[0])
    before = stream.state
    layer.flat_params *= 2  # not seen: a reset that fails packs nothing
    with pytest.raises(error, match=message):
        stream.state = state
    with pytest.raises(error, match=message):
        stream.reset(state)
    assert all(np.array_equal(a, b) for a, b in zip(stream.state, before, strict=True))
    layer.flat_params *= 0.5
    untouched = layer.stream(2)
    untouched.state = before
    assert np.array_equal(stream(sequence(2)[1]), untouched(sequence(2)[1]))


def test_bad_streams():
    with pytest.raises(ValueError, match="layer: needs one direction, got bidirectional=True"):
        make("gru", bidirectional=True).stream()
    with pytest.raises(ValueError, match="layer: needs one direction"):
        make("gru", bidirectional=True).freeze().stream()
    with pytest.raises(ValueError, match="batch_size: needs an integer >= 1, got 0"):
        make("gru").stream(0)
    with pytest.raises(TypeError, match=r"batch_size: needs an integer, got 1\.0"):
        make("gru").stream(1.0)
    for other in ("x", None, GRU, make("gru").freeze(), make("gru").stream()):
        with pytest.raises(TypeError, match="layer: needs an RNN, LSTM or GRU, got "):
            Stream(other)


class Liar(np.ndarray):
    """Says of itself what is not so."""

    shape = property(lambda self: (1, H))

    def __getitem__(self, index):
        return np.zeros(0, np.float32)


def test_out_of_a_subclass_is_what_it_is():
    stream = LSTM(I, H, seed=0).stream()
    x, expected = np.ones(I, np.float32), LSTM(I, H, seed=0).stream()(np.ones(I, np.float32))
    out = np.zeros(H, np.float32).view(Liar)
    assert stream(x, out=out) is out and np.array_equal(out.view(np.ndarray), expected)
    with pytest.raises(ValueError, match="out: needs shape"):
        stream(x[None], out=np.zeros(1, np.float32).view(Liar))
