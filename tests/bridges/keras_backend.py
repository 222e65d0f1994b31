# SPDX-License-Identifier: MIT
"""Run as a program, with KERAS_BACKEND set: from_keras beside Keras' own numbers on that backend.

Prints the backend, then, line by line, what was compared and the greatest difference. Its argument is a folder for a
file. T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl

from fastrnn.keras import from_keras

T, B, I, H = 6, 3, 3, 4
BOTH = {"return_sequences": True, "return_state": True}
LAYERS = {
    "SimpleRNN": lambda: kl.SimpleRNN(H, **BOTH),
    "LSTM": lambda: kl.LSTM(H, **BOTH),
    "GRU": lambda: kl.GRU(H, **BOTH),
    "GRU-before": lambda: kl.GRU(H, reset_after=False, **BOTH),
    "Bidirectional": lambda: kl.Bidirectional(kl.LSTM(H, **BOTH)),
}
rng = np.random.default_rng(0)
x = rng.standard_normal((B, T, I)).astype(np.float32)


def filled(layer):
    """With random weights: Keras' biases begin as 0."""
    layer.set_weights([rng.standard_normal(array.shape) / 2 for array in layer.get_weights()])
    return layer


def report(name, ours, theirs):
    theirs = [keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(theirs)]
    assert [(part.dtype, part.shape) for part in ours] == [(part.dtype, part.shape) for part in theirs]
    print(name, max(np.abs(our - their).max() for our, their in zip(ours, theirs, strict=True)))


def compare_layers():
    for name, make in LAYERS.items():
        layer = make()
        layer.build(x.shape)
        out, state = from_keras(filled(layer))(x)
        parts = [part for pair in zip(*state, strict=True) for part in pair] if isinstance(state, tuple) else state
        report(name, [out, *parts], layer(x))


def compare_model(path):
    """Live, and from its file."""
    model = filled(
        keras.Sequential(
            [keras.Input((None, I)), kl.LSTM(H, return_sequences=True, name="one"), kl.Bidirectional(kl.GRU(H))]
        )
    )
    model.save(path)
    for name, given in (("Sequential", model), ("file", path)):
        one, two = from_keras(given).values()
        _, h = two(one(x)[0])
        report(name, [np.concatenate([*h], axis=-1)], model(x))


if __name__ == "__main__":
    print(keras.backend.backend())
    compare_layers()
    compare_model(Path(sys.argv[1]) / "model.keras")
