# SPDX-License-Identifier: MIT
"""Chapter 4: will a stock be low, medium or high next month? Ten real tickers as one ragged batch.

T time steps (months), B tickers, I = 1, H hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import fastrnn

from .._head import Dense, cross_entropy
from ._data import Prices, pad, stock_prices
from ._report import COLOURS, GREY, Progress, Report, panels

TITLE = "Real prices"
CLASSES = ("low", "medium", "high")
WARM_UP = 12  # months of past before the first class is given
HIDDEN = 16
STEPS = 100


def terciles(price: np.ndarray) -> np.ndarray:
    """The two terciles of all prices before each month, from month WARM_UP on, shape (months - WARM_UP, 2)."""
    return np.array([np.quantile(price[:t], (1 / 3, 2 / 3)) for t in range(WARM_UP, len(price))])


def classes(price: np.ndarray) -> np.ndarray:
    """0, 1, 2 for low, medium, high: where each month's price, from month WARM_UP on, is among its terciles.

    Month t looks at price[:t] and price[t] alone, so no class knows anything of the future.
    """
    return (price[WARM_UP:, np.newaxis] > terciles(price)).sum(axis=1)


class Batch(NamedTuple):
    """Every ticker's months, as inputs and as what to predict; the last fifth of each is for testing."""

    x: np.ndarray  # (T, B, 1) float32: 0, 0.5, 1
    target: np.ndarray  # (T, B): the class of the month after
    lengths: np.ndarray  # (B,)
    train_lengths: np.ndarray  # (B,)

    @classmethod
    def of(cls, tickers: list[Prices]) -> Batch:
        """The batch of all tickers."""
        series = [classes(ticker.price)[:, np.newaxis] for ticker in tickers]
        x, lengths = pad([s[:-1] / 2 for s in series])
        target, _ = pad([s[1:] for s in series])
        return cls(x, target[:, :, 0].astype(int), lengths, lengths - lengths // 5)

    @property
    def train(self) -> np.ndarray:
        """(T, B) bool: the months to learn from."""
        return np.arange(len(self.x))[:, np.newaxis] < self.train_lengths

    @property
    def test(self) -> np.ndarray:
        """(T, B) bool: the months held out."""
        return (np.arange(len(self.x))[:, np.newaxis] < self.lengths) & ~self.train


def train(cell: type, batch: Batch, progress: Progress) -> np.ndarray:
    """Train a layer on the first four fifths; return its predictions for all months, shape (T, B)."""
    layer = cell(1, HIDDEN, init="orthogonal", seed=0)
    head = Dense(HIDDEN, len(CLASSES), np.random.default_rng(0))
    optimizers = [fastrnn.optim.Adam(params, lr=0.01) for params in (layer.flat_params, head.flat)]
    T = batch.train_lengths.max()
    x, mask, target = batch.x[:T], batch.train[:T], batch.target[:T]
    for _ in progress(range(STEPS), cell.__name__):
        out, _, tape = layer.forward(x, lengths=batch.train_lengths)
        h = out[mask]
        _, grad_z = cross_entropy(head(h), target[mask])
        grad_out = np.zeros_like(out)
        grad_out[mask], grad_head = head.backward(h, grad_z)
        grads = layer.backward(tape, grad_out)
        fastrnn.optim.clip_grad_norm(grads.flat, 1.0)
        for optimizer, grad in zip(optimizers, (grads.flat, grad_head), strict=True):
            optimizer.step(grad)
    out, _ = layer(batch.x, lengths=batch.lengths)
    return head(out).argmax(axis=-1)


def baselines(batch: Batch) -> dict[str, np.ndarray]:
    """What must be beaten: predictions that need no network, shape (T, B)."""
    counts = np.array([np.bincount(y[m], minlength=3) for y, m in zip(batch.target.T, batch.train.T, strict=True)])
    return {
        "same as this month": np.rint(2 * batch.x[:, :, 0]).astype(int),
        "majority class": np.broadcast_to(counts.argmax(axis=1), batch.target.shape),
    }


class Score(NamedTuple):
    """How a predictor did on the months held out."""

    right: int
    months: int
    changes_foreseen: int
    changes: int

    @classmethod
    def of(cls, prediction: np.ndarray, batch: Batch) -> Score:
        """The score of predictions, shape (T, B)."""
        test = batch.test
        right = (prediction == batch.target)[test]
        changed = (batch.target != np.rint(2 * batch.x[:, :, 0]))[test]
        return cls(int(right.sum()), right.size, int(right[changed].sum()), int(changed.sum()))

    @property
    def accuracy(self) -> float:
        """Share of months right."""
        return self.right / self.months


def verdict(scores: dict[str, Score], networks: list[str]) -> str:
    """Whether the networks beat the baselines, in a sentence."""
    best = max(networks, key=lambda name: scores[name].right)
    rival = max((name for name in scores if name not in networks), key=lambda name: scores[name].right)
    lead, months = scores[best].right - scores[rival].right, scores[best].months
    figures = f"{best} {scores[best].accuracy:.1%}, {rival!r} {scores[rival].accuracy:.1%}, of {months} months held out"
    if lead <= 0:
        return f"No network beats the best baseline ({figures})"
    return f"The best network beats the best baseline by {lead} months ({figures})"


def draw(tickers: list[Prices], batch: Batch, scores: dict[str, Score]) -> Figure:
    """Left, how one price becomes classes; right, everybody's accuracy."""
    figure, (left, right) = panels(2, width=11, height=4)
    ticker = tickers[0]
    month = ticker.month[WARM_UP:].astype("datetime64[D]").astype(object)
    left.plot(month, ticker.price[WARM_UP:], color="black", lw=1.2, label="price")
    left.fill_between(
        month, *terciles(ticker.price).T, color=GREY, alpha=0.4, lw=0, label="medium: between past terciles"
    )
    left.axvspan(month[batch.train_lengths[0] + 1], month[-1], color=COLOURS["LSTM"], alpha=0.1, lw=0, label="held out")
    left.set(title=f"{ticker.ticker}: low, medium, high", xlabel="month", ylabel="price, US$")
    left.legend(loc="upper left", fontsize=8)
    names = list(scores)[::-1]
    values = [100 * scores[name].accuracy for name in names]
    right.barh(names, values, color=[COLOURS.get(name, GREY) for name in names])
    for y, value in enumerate(values):
        right.text(value - 1, y, f"{value:.1f}", va="center", ha="right", color="white", fontweight="bold")
    right.set(title="Next month's class, held-out months", xlabel="accuracy, %", xlim=(0, 100))
    right.grid(axis="y", visible=False)
    return figure


def run(report: Report, progress: Progress) -> dict[str, Score]:
    """Write the chapter; return every predictor's score."""
    tickers = stock_prices()
    batch = Batch.of(tickers)
    cells = {cell.__name__: cell for cell in (fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM)}
    predictions = baselines(batch) | {name: train(cell, batch, progress) for name, cell in cells.items()}
    scores = {name: Score.of(prediction, batch) for name, prediction in predictions.items()}
    report.text(f"""
        {len(tickers)} tickers, {batch.lengths.min()} to {batch.lengths.max()} months long, form one ragged batch. A
        month is low, medium or high by the terciles of that ticker's own past months only (an expanding window, after
        {WARM_UP} months of warm-up): no class knows the future. From the classes up to a month (0, 0.5, 1) a network
        with {HIDDEN} units predicts the class of the next. It learns from the first four fifths of each series ({STEPS}
        steps of Adam on the whole batch) and is scored on the last fifth, having read, but not learned from, all months
        before. Each network is trained once, from seed 0.
    """)
    report.text("""
        Two baselines need no network: *same as this month*, and the *majority class* of the ticker's training part.
    """)
    report.table(
        ["predictor", "right", "months", "accuracy", "changes of class foreseen"],
        [
            (name, s.right, s.months, f"{s.accuracy:.1%}", f"{s.changes_foreseen} of {s.changes}")
            for name, s in scores.items()
        ],
    )
    report.finding(verdict(scores, list(cells)))
    held_out = batch.target[batch.test]
    shares = ", ".join(f"{(held_out == k).mean():.0%} {name}" for k, name in enumerate(CLASSES))
    report.text(f"""
        Measured by their own past, the prices to predict are {shares}, and the class changes in {scores["RNN"].changes}
        of {scores["RNN"].months} months. What would be worth knowing is when it changes: the last column says how often
        a predictor did.
    """)
    caption = "How prices become classes, and the accuracy of every predictor"
    report.plot(draw(tickers, batch, scores), "4-prices.png", caption)
    report.text("Data: `Stocks.csv`, which matplotlib carries; its source is finance.yahoo.com.")
    return scores
