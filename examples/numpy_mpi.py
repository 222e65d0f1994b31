# SPDX-License-Identifier: MIT
"""Data-parallel training in NumPy with mpi4py: one Allreduce on ``grads.flat`` for each batch.

    mpirun -n 2 python examples/numpy_mpi.py

Every process holds the same layer and takes its share of each batch; the sum of their gradients is the gradient of the
whole batch, so that all make the same step. The model is a single layer, an LSTM whose projection has a unit for each
speaker: its last hidden state is the logits. In float64, so that nothing but the order of sums is left between two
processes and one, which the first process tries at the end.

Needs mpi4py and an MPI, such as Debian's openmpi-bin and libopenmpi-dev.
"""

from __future__ import annotations

import argparse

import numpy as np
import vowels
from arguments import count

try:
    from mpi4py import MPI
except ImportError as missing:
    raise SystemExit(f"needs {missing.name}: pip install mpi4py, and an MPI") from None

import fastrnn


def train(comm: MPI.Comm, epochs: int, batch: int) -> tuple[fastrnn.LSTM, list[float]]:
    """The trained layer and the mean loss of each epoch, the same in every process of ``comm``."""
    data = vowels.load("train")
    layer = fastrnn.LSTM(vowels.FEATURES, 64, proj_size=vowels.SPEAKERS, dtype=np.float64, seed=0)
    adam = fastrnn.optim.Adam(layer.flat_params, lr=0.01)
    rng = np.random.default_rng(0)  # the same seed: all processes agree on the batches
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in np.split(rng.permutation(len(data.lengths)), range(batch, len(data.lengths), batch)):
            share = data[rows[comm.rank :: comm.size]]
            _, (h, _), tape = layer.forward(share.frames.astype(np.float64), lengths=share.lengths)
            loss, grad_h = vowels.cross_entropy(h[0], share.speaker)
            grads = layer.backward(tape, grad_state=(grad_h[None] / len(rows), None))
            comm.Allreduce(MPI.IN_PLACE, grads.flat)
            fastrnn.optim.clip_grad_norm(grads.flat, 1.0)
            adam.step(grads.flat)
            total += loss
        losses.append(comm.allreduce(total) / len(data.lengths))
    return layer, losses


def accuracy(layer: fastrnn.LSTM) -> float:
    """The share of test utterances whose speaker is named."""
    test = vowels.load("test")
    _, (h, _) = layer(test.frames.astype(np.float64), lengths=test.lengths)
    return float((h[0].argmax(axis=1) == test.speaker).mean())


def main() -> None:
    """Train with all processes, then with one, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=count, default=15)
    parser.add_argument("--batch", type=count, default=30, help="utterances of all processes together")
    parser.add_argument("--save", help="file to save the layer to")
    options = parser.parse_args()
    world = MPI.COMM_WORLD
    layer, losses = train(world, options.epochs, options.batch)
    if world.rank == 0:
        alone, losses_alone = train(MPI.COMM_SELF, options.epochs, options.batch)
        print(f"epoch  loss, processes: {world.size}  loss, processes: 1")
        for epoch, pair in enumerate(zip(losses, losses_alone, strict=True), 1):
            print("{:5d}  {:18.6f}  {:18.6f}".format(epoch, *pair))
        print(f"largest difference of a parameter: {np.abs(layer.flat_params - alone.flat_params).max():.1e}")
        print(f"test accuracy: {accuracy(layer):.3f}")
        if options.save:
            layer.save(options.save)


if __name__ == "__main__":
    main()
