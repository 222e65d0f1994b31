# SPDX-License-Identifier: MIT
"""Run by hand, with TensorFlows whose Keras is Keras 2: it wrote the models beside it, and what their layers compute.

With Python 3.8, ``pip install "tensorflow-cpu==2.3.4" "protobuf<3.21"``; with Python 3.11, ``tensorflow-cpu==2.15.1``.

T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

kl = keras.layers
HERE = Path(__file__).parent
T, B, I, H = 6, 2, 3, 4
SEQUENCES = {"return_sequences": True}


def encoder():
    """Weights that are not trained between others that are."""
    layers = [
        keras.Input((None, H)),
        kl.LSTM(H, **SEQUENCES, name="same"),
        kl.BatchNormalization(name="batch"),
        kl.GRU(H, **SEQUENCES, trainable=False, name="frozen"),
        kl.SimpleRNN(H, **SEQUENCES, use_bias=False, name="last"),
    ]
    return keras.Sequential(layers, name="encoder")


def model():
    x = keras.Input((None, I))
    y = kl.SimpleRNN(H, **SEQUENCES, activation="relu", name="rnn")(x)
    y = kl.LSTM(H, **SEQUENCES, name="same")(y)
    y = kl.GRU(H, **SEQUENCES, name="gru")(y)
    y = kl.GRU(H, **SEQUENCES, reset_after=False, name="before")(y)
    y = kl.Bidirectional(kl.LSTM(H, **SEQUENCES), name="both")(y)
    y = kl.RNN([kl.GRUCell(H), kl.GRUCell(H)], **SEQUENCES, name="cells")(y)
    y = kl.Bidirectional(kl.RNN(kl.SimpleRNNCell(2), **SEQUENCES), name="cell")(encoder()(y))
    return keras.Model(x, kl.Dense(1, name="dense")(y))


def recurrent(layers, prefix=""):
    for layer in layers:
        if hasattr(layer, "layers"):
            yield from recurrent(layer.layers, f"{prefix}{layer.name}/")
        elif hasattr(layer, "return_sequences"):
            yield prefix + layer.name, layer


def main():
    rng = np.random.default_rng(0)
    whole = model()
    whole.set_weights([rng.standard_normal(array.shape) / 2 for array in whole.get_weights()])
    whole.save(HERE / f"{tf.__version__}.h5")
    if int(tf.__version__.split(".")[1]) >= 12:  # before, it would be HDF5 again
        whole.save(HERE / f"{tf.__version__}.keras")
    found = {}
    for name, layer in recurrent(whole.layers):
        x = rng.standard_normal((B, T, layer.input_shape[-1])).astype(np.float32)
        found.update({f"{name} x": x, f"{name} out": layer(x).numpy()})
    np.savez_compressed(HERE / f"{tf.__version__}.npz", **found)


if __name__ == "__main__":
    main()
