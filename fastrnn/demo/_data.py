# SPDX-License-Identifier: MIT
"""The two data sets of the demo: monthly stock prices and spoken vowels. DATA.md gives their credits.

N sequences, T the longest of them, I values a step.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import matplotlib.cbook
import numpy as np


class Utterances(NamedTuple):
    """Spoken vowels as one ragged batch."""

    frames: np.ndarray  # (T, N, I) float32, zero past each length
    lengths: np.ndarray  # (N,)
    speaker: np.ndarray  # (N,) in 0..8


class Prices(NamedTuple):
    """One ticker's first price of each month."""

    ticker: str
    month: np.ndarray  # datetime64[M]
    price: np.ndarray  # float64


def pad(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (T_i, I) -> one zero-padded float32 batch (T, N, I), and the lengths (N,)."""
    lengths = np.array([len(sequence) for sequence in sequences])
    batch = np.zeros((lengths.max(), len(sequences), sequences[0].shape[1]), np.float32)
    for n, sequence in enumerate(sequences):
        batch[: len(sequence), n] = sequence
    return batch, lengths


def japanese_vowels() -> tuple[Utterances, Utterances]:
    """270 training and 370 test utterances by nine speakers, each coefficient standardised by the training frames."""
    with (files(__package__) / "japanese_vowels.npz").open("rb") as file, np.load(file) as data:
        arrays = dict(data)
    mean, spread = arrays["train_frames"].mean(axis=0), arrays["train_frames"].std(axis=0)
    parts = []
    for part in ("train", "test"):
        frames = (arrays[f"{part}_frames"] - mean) / spread
        sequences = np.split(frames, np.cumsum(arrays[f"{part}_lengths"])[:-1])
        parts.append(Utterances(*pad(sequences), arrays[f"{part}_speaker"].astype(np.intp)))
    return parts[0], parts[1]


def stock_prices() -> list[Prices]:
    """The ten tickers of matplotlib's ``Stocks.csv``, each from its first month to its last."""
    path = Path(matplotlib.cbook.get_sample_data("Stocks.csv", asfileobj=False))
    lines = path.read_text(encoding="utf-8").splitlines()
    head, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    first_of_month: dict[str, list[str]] = {}
    for row in rows:
        first_of_month.setdefault(row[0][:7], row)
    months = np.array(list(first_of_month), dtype="datetime64[M]")
    tickers = []
    for column, ticker in enumerate(head[1:], start=1):
        cells = np.array([row[column] for row in first_of_month.values()])
        known = cells != ""
        tickers.append(Prices(ticker, months[known], cells[known].astype(float)))
    return tickers
