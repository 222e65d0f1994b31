# SPDX-License-Identifier: MIT
"""The scikit-learn bridge on Japanese Vowels: `python benchmarks/sklearn_training.py` compares training with PyTorch's.

Both sides start from the same weights and see the same batches, at the same rates, under Adam and clipped gradients.
PyTorch, eager, takes a ragged batch packed, or padded, one module for each direction, the last real step picked out;
the faster of the two counts. Ours is timed as a whole `fit`, PyTorch in its loop over batches alone. The losses must
agree, and both test accuracies are printed. Needs `fastrnn[bench]`.

`--seeds N` tests the defaults on the 370 test utterances instead. `--select` is how these defaults were chosen: by
cross-validation on the 270 training utterances alone, five folds, each a block of consecutive utterances of every
speaker, since neighbours are alike. The log loss decides, as accuracies are too coarse: it was best for a bidirectional
GRU with 64 units, lr=0.01, batch_size=16. T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import floors  # before NumPy: it sets the threads of NumPy's BLAS
import numpy as np

try:
    import torch
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from torch.nn.utils.rnn import pack_padded_sequence
except ImportError as missing:
    raise SystemExit(f'needs {missing.name}: pip install "fastrnn[bench]"') from None

from fastrnn._network import Network
from fastrnn._sequences import Batch, Sequences
from fastrnn.cli import progress
from fastrnn.config import describe
from fastrnn.sklearn import SequenceClassifier

GRID = {
    "cell": ["gru", "lstm"],
    "bidirectional": [False, True],
    "hidden_size": [32, 64, 128],
    "lr": [0.003, 0.01],
    "batch_size": [16, 32],
    "random_state": [0, 1, 2],
}
AGREEING = 5  # epochs; later ones differ as rounding grows
TOLERANCE = 1e-3  # of a loss, relative


class Speech(NamedTuple):
    """Utterances, each (T, I), and their speakers."""

    X: list[np.ndarray]
    y: np.ndarray


def speech(part: str) -> Speech:
    """The `train` or the `test` part of Japanese Vowels: see `fastrnn/demo/DATA.md`."""
    with (files("fastrnn") / "demo" / "japanese_vowels.npz").open("rb") as file, np.load(file) as data:
        starts = np.cumsum(data[f"{part}_lengths"])[:-1]
        return Speech(np.split(data[f"{part}_frames"], starts), data[f"{part}_speaker"])


# -- choosing and testing the defaults ---------------------------------------------------------------------------------


def select() -> None:
    """Print the grid, the best first: each line a mean over folds and seeds."""
    scores = ("neg_log_loss", "accuracy")
    search = GridSearchCV(SequenceClassifier(), GRID, scoring=scores, refit=False, cv=StratifiedKFold(5))
    found = search.fit(*speech("train")).cv_results_
    names = [name for name in GRID if name != "random_state"]
    figures: dict[str, list] = {}
    for k, params in enumerate(found["params"]):
        key = " ".join(f"{name}={params[name]}" for name in names)
        row = -found["mean_test_neg_log_loss"][k], found["mean_test_accuracy"][k], found["mean_fit_time"][k]
        figures.setdefault(key, []).append(row)
    means = {key: np.mean(rows, axis=0) for key, rows in figures.items()}
    for key, (loss, accuracy, seconds) in sorted(means.items(), key=lambda item: item[1][0]):
        print(f"log loss {loss:.3f}  accuracy {accuracy:.4f}  {seconds:.2f} s  {key}")


def test(seeds: int) -> None:
    """Print the defaults' test accuracy over random starts."""
    train, held_out = speech("train"), speech("test")
    models = (SequenceClassifier(random_state=seed) for seed in progress(range(seeds), "seeds"))
    found = [model.fit(*train).score(*held_out) for model in models]
    print(f"test accuracy {np.mean(found):.4f}, the mean of {seeds} seeds ({min(found):.4f} to {max(found):.4f})")


# -- the same in PyTorch -----------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Of one training."""

    losses: list[float]
    accuracy: float
    seconds: float


class Twin(torch.nn.Module):
    """A network as a module of PyTorch, with the same weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        layer, head = network.layer, network.head
        kind = getattr(torch.nn, type(layer).__name__)
        self.rnns = torch.nn.ModuleList(self.modules_of(partial(kind, layer.input_size, layer.hidden_size)))
        self.dense = torch.nn.Linear(*head.weight.shape[::-1])
        arrays = [*layer.params.values(), head.weight, head.bias]
        with torch.no_grad():
            for parameter, array in zip(self.parameters(), arrays, strict=True):
                parameter.copy_(torch.from_numpy(array))


class Packed(Twin):
    """Ragged batches packed."""

    def modules_of(self, make: Any) -> list[torch.nn.Module]:
        return [make(bidirectional=True)]

    def forward(self, batch: Batch) -> torch.Tensor:
        packed = pack_padded_sequence(torch.from_numpy(batch.x), torch.from_numpy(batch.lengths))
        _, state = self.rnns[0](packed)
        h = state[0] if isinstance(state, tuple) else state
        return self.dense(torch.cat([h[0], h[1]], dim=1))


class Padded(Twin):
    """Ragged batches padded: each direction runs on past the ends, and its last real step is picked out."""

    def modules_of(self, make: Any) -> list[torch.nn.Module]:
        return [make(), make()]

    def forward(self, batch: Batch) -> torch.Tensor:
        last, row = batch.lengths - 1, np.arange(len(batch.lengths))
        back = batch.x[np.maximum(last - np.arange(len(batch.x))[:, np.newaxis], 0), row]
        ends = [rnn(torch.from_numpy(x))[0][last, row] for rnn, x in zip(self.rnns, (batch.x, back), strict=True)]
        return self.dense(torch.cat(ends, dim=1))


def train_twin(kind: type[Twin], model: SequenceClassifier) -> Outcome:
    """What `model.fit` does, in PyTorch's own loop."""
    torch.set_num_threads(model.n_jobs)
    data, labels, network = started(model, speech("train"))
    module, rng = kind(network), network.layer.rng
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    losses, start = [], perf_counter()
    for epoch in range(model.max_epochs):
        optimizer.param_groups[0]["lr"] = model.lr * (1 - epoch / model.max_epochs)
        total = 0.0
        for rows in data.batches(np.arange(len(labels)), model.batch_size, rng):
            optimizer.zero_grad()
            targets = torch.from_numpy(labels[rows])
            loss = torch.nn.functional.cross_entropy(module(data.batch(rows, per_step=False)), targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), model.clip_norm)
            optimizer.step()
            total += len(rows) * loss.item()
        losses.append(total / len(labels))
    seconds = perf_counter() - start
    X, y = speech("test")
    held_out = model._sequences(X).scaled(model.mean_, model.scale_)
    with torch.no_grad():
        right = [
            (module(held_out.batch(rows, per_step=False)).argmax(dim=1).numpy() == y[rows]).sum()
            for rows in held_out.batches(np.arange(len(y)), model.batch_size)
        ]
    return Outcome(losses, float(np.sum(right) / len(y)), seconds)


def started(model: SequenceClassifier, train: Speech) -> tuple[Sequences, np.ndarray, Network]:
    """The data as `fit` lays it out, and the network that it starts from."""
    data = model._sequences(train.X)
    model._start(data, model._targets(train.y, data), model._generator())
    return data.scaled(model.mean_, model.scale_), model._encoded(train.y), model.network_


# -- the comparison ----------------------------------------------------------------------------------------------------


def train(model: SequenceClassifier) -> Outcome:
    """`model.fit` as it is."""
    X, y = speech("train")
    start = perf_counter()
    model.fit(X, y)
    seconds = perf_counter() - start
    return Outcome(model.loss_curve_, model.score(*speech("test")), seconds)


def compare(cell: str, threads: int, rounds: int) -> str:
    """A row of the table: the three take turns, medians count."""
    model = SequenceClassifier(cell=cell, n_jobs=threads, random_state=0)
    sides = (train, partial(train_twin, Packed), partial(train_twin, Padded))
    outcomes = [[side(copy.deepcopy(model)) for side in sides] for _ in range(rounds)]
    ours, *theirs = outcomes[0]
    for outcome in theirs:
        np.testing.assert_allclose(outcome.losses[:AGREEING], ours.losses[:AGREEING], rtol=TOLERANCE)
    seconds = [median(outcome.seconds for outcome in side) for side in zip(*outcomes, strict=True)]
    accuracies = (f"{outcome.accuracy:.4f}" for outcome in (ours, *theirs))
    times = (f"{second:.2f} s" for second in seconds)
    ratio = min(seconds[1:]) / seconds[0]
    return "| " + " | ".join((cell, str(threads), *times, *accuracies, f"{ratio:.1f}")) + " |"


HEAD = "| cell | threads | fastrnn | torch packed | padded | accuracy: fastrnn | torch packed | padded | times faster |"


def report(rounds: int) -> Iterator[str]:
    """The lines of the comparison, one by one."""
    found = describe()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "scikit-learn", "numpy"))
    yield f"{date.today()}, {floors.processor()}, {found['instruction set']}; fastrnn {found['fastrnn']}, {versions}.\n"
    yield f"{HEAD}\n|{' --- |' * (HEAD.count('|') - 1)}"
    for cell in ("gru", "lstm"):
        for threads in (1, 2):
            yield compare(cell, threads, rounds)
    yield f"\nMedians of {rounds} trainings; the losses of the first {AGREEING} epochs agree to {TOLERANCE:g}."


def main() -> int:
    """Select, test or compare."""
    parser = argparse.ArgumentParser(description="SequenceClassifier on Japanese Vowels: its speed beside PyTorch's.")
    parser.add_argument("--select", action="store_true", help="choose the defaults by cross-validation (6 minutes)")
    parser.add_argument("--seeds", type=int, metavar="N", help="test the defaults from N random starts")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="trainings of each side (default: 3)")
    args = parser.parse_args()
    if args.select:
        select()
    elif args.seeds:
        test(args.seeds)
    else:
        for line in report(args.rounds):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
