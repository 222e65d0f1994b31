# SPDX-License-Identifier: MIT
"""A PyTorch training script, one line changed.

    python examples/pytorch_one_line.py

The line is ``fastrnn.torch.accelerate(model)``. The script trains twice, without and with it, from the same weights and
on the same batches of spoken vowels, and prints both loss curves, test accuracies and median times of an epoch.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import vowels
from arguments import count

try:
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence
except ImportError as missing:
    raise SystemExit(f'needs {missing.name}: pip install "fastrnn[torch]"') from None

import fastrnn.torch


class Speaker(nn.Module):
    """Names the speaker of an utterance by the last state of a recurrent layer."""

    def __init__(self, cell: str, hidden_size: int) -> None:
        super().__init__()
        self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](vowels.FEATURES, hidden_size)
        self.head = nn.Linear(hidden_size, vowels.SPEAKERS)

    def forward(self, utterances: vowels.Utterances) -> torch.Tensor:
        """Logits (N, 9)."""
        x = pack_padded_sequence(torch.from_numpy(utterances.frames), utterances.lengths, enforce_sorted=False)
        _, state = self.rnn(x)
        h = state[0] if isinstance(state, tuple) else state
        return self.head(h[-1])


def train(options: argparse.Namespace, accelerated: bool) -> tuple[str, list[float], float, float]:
    """Whose layer it was, the mean loss of each epoch, the accuracy on the test utterances, the seconds of an epoch."""
    torch.manual_seed(0)
    model = Speaker(options.cell, options.hidden)
    if accelerated:
        fastrnn.torch.accelerate(model)  # the one line
    adam = torch.optim.Adam(model.parameters(), lr=0.005)
    data, losses, times = vowels.load("train"), [], []
    for _ in range(options.epochs):
        total, start = 0.0, perf_counter()
        for rows in torch.randperm(len(data.lengths)).split(30):
            batch = data[rows.numpy()]
            loss = nn.functional.cross_entropy(model(batch), torch.from_numpy(batch.speaker))
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            total += loss.item() * len(rows)
        times.append(perf_counter() - start)
        losses.append(total / len(data.lengths))
    test = vowels.load("test")
    with torch.no_grad():
        right = model(test).argmax(dim=1).numpy() == test.speaker
    return type(model.rnn).__module__, losses, right.mean(), median(times)


def main() -> None:
    """Train both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cell", choices=("lstm", "gru", "rnn"), default="gru")
    parser.add_argument("--hidden", type=count, default=64)
    parser.add_argument("--epochs", type=count, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)  # more are no help at this size
    fastrnn.set_num_threads(1)
    plain, fast = train(options, accelerated=False), train(options, accelerated=True)
    names, losses, accuracies, seconds = zip(plain, fast, strict=True)
    print("loss           {:>20} {:>14}".format(*names))
    for epoch, pair in enumerate(zip(*losses, strict=True), 1):
        print("epoch {:2d}       {:20.6f} {:14.6f}".format(epoch, *pair))
    print("test accuracy  {:20.3f} {:14.3f}".format(*accuracies))
    print("ms an epoch    {:20.1f} {:14.1f}".format(*(1e3 * each for each in seconds)))
    print(f"torch.nn takes {seconds[0] / seconds[1]:.1f} times as long")


if __name__ == "__main__":
    main()
