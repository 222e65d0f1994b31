# SPDX-License-Identifier: MIT
"""What the examples share: the speech data that fastrnn ships, and the loss of a classifier.

Nine speakers say /ae/ (Japanese Vowels, CC BY 4.0: see fastrnn/demo/DATA.md). T time steps, N utterances, C speakers.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import numpy as np

FEATURES, SPEAKERS = 12, 9


class Utterances(NamedTuple):
    """Utterances side by side as one ragged batch."""

    frames: np.ndarray  # (T, N, 12) float32, zero past each length
    lengths: np.ndarray  # (N,)
    speaker: np.ndarray  # (N,) in 0..8

    def __getitem__(self, rows):
        """Some of them, padded no further than the longest of these."""
        lengths = self.lengths[rows]
        return Utterances(self.frames[: lengths.max(initial=0), rows], lengths, self.speaker[rows])


def load(part: str) -> Utterances:
    """The 270 utterances of ``"train"`` or the 370 of ``"test"``, each coefficient standardised by the former."""
    with (files("fastrnn") / "demo" / "japanese_vowels.npz").open("rb") as file, np.load(file) as data:
        mean, spread = data["train_frames"].mean(axis=0), data["train_frames"].std(axis=0)
        lengths, speaker = data[f"{part}_lengths"], data[f"{part}_speaker"].astype(np.int64)
        frames = np.zeros((lengths.max(), len(lengths), FEATURES), np.float32)
        within = np.arange(len(frames)) < lengths[:, None]  # (N, T)
        frames.swapaxes(0, 1)[within] = (data[f"{part}_frames"] - mean) / spread
    return Utterances(frames, lengths, speaker)


def cross_entropy(logits: np.ndarray, speaker: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of the losses of logits (N, C), and its gradient by them."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    chosen = np.arange(len(speaker)), speaker
    loss = -np.log(p[chosen]).sum()
    p[chosen] -= 1
    return float(loss), p
