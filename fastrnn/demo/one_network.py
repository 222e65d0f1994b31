# SPDX-License-Identifier: MIT
"""Chapter 1: a ReLU network of one unit, unrolled over yesterday and today, predicts tomorrow's price.

T = 2 days, B = 4 cases, I = H = 1.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import fastrnn

from ._report import COLOURS, GREY, Progress, Report, panels

TITLE = "One network by hand"

# The rules of StatLand, where a price is low (0), medium (0.5) or high (1): yesterday, today -> tomorrow.
PRICES = np.array([[0, 0], [0, 0.5], [1, 0.5], [1, 1]], np.float32)
TOMORROW = np.array([0, 1, 0, 1], np.float32)

W_INPUT, W_RECURRENT, W_OUTPUT = 1.8, -0.5, 1.1


def name(price: float) -> str:
    """The nearest of low, medium and high."""
    return ("low", "medium", "high")[round(2 * min(max(float(price), 0.0), 1.0))]


def unrolled(prices: np.ndarray, h: np.ndarray) -> list[str]:
    """The arithmetic of one case, step by step, with the h that ``fastrnn.rnn`` computed."""
    lines = [f"{name(prices[0])}, {name(prices[1])}"]
    h_prev = 0.0
    for day, x_t, h_t in zip(("yesterday", "today"), prices, h, strict=True):
        products = f"{W_INPUT} * {x_t:.1f} + ({W_RECURRENT}) * {h_prev:.2f}"
        lines.append(f"  {day:<9}  h = relu({products}) = {h_t:.2f}")
        h_prev = h_t
    prediction = W_OUTPUT * h_prev
    lines.append(f"  tomorrow   {W_OUTPUT} * {h_prev:.2f} = {prediction:.2f}  ->  {name(prediction)}")
    return lines


def draw(predictions: np.ndarray) -> Figure:
    """Each case as a line from yesterday to tomorrow."""
    figure, axes = panels(4, width=9, height=2.6, sharey=True)
    for axis, prices, prediction in zip(axes, PRICES, predictions, strict=True):
        axis.plot([0, 1], prices, "o-", color=GREY, label="known")
        axis.plot([1, 2], [prices[1], prediction], "o--", color=COLOURS["RNN"], label="predicted")
        axis.set(
            title=f"{name(prices[0])}, {name(prices[1])}", xticks=[0, 1, 2], xlim=(-0.35, 2.35), ylim=(-0.08, 1.12)
        )
        axis.set_xticklabels(["yesterday", "today", "tomorrow"], fontsize=8)
    axes[0].set(ylabel="price", yticks=[0, 0.5, 1], yticklabels=["low 0", "medium 0.5", "high 1"])
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def run(report: Report, progress: Progress) -> np.ndarray:
    """Write the chapter; return the four predictions."""
    x = PRICES.T[:, :, np.newaxis]  # (T, B, I)
    w_ih, w_hh = np.array([[W_INPUT]], np.float32), np.array([[W_RECURRENT]], np.float32)
    out, h_n = fastrnn.rnn(x, w_ih, w_hh, nonlinearity="relu")
    predictions = W_OUTPUT * h_n[:, 0]
    report.text(f"""
        In StatLand a stock's price is low (0), medium (0.5) or high (1). A network with one ReLU unit, input weight
        {W_INPUT}, recurrent weight {W_RECURRENT}, output weight {W_OUTPUT} and no biases reads yesterday's and today's
        price and predicts tomorrow's. Every h below was computed by `fastrnn.rnn`:
    """)
    for prices, h in zip(PRICES, out[:, :, 0].T, strict=True):
        report.code(unrolled(prices, h))
    shown = ", ".join(f"{p:.2f}" for p in predictions + 0.0)
    report.finding(f"low,low / low,medium / high,medium / high,high -> {shown}")
    report.plot(draw(predictions), "1-one-network.png", "The four predictions of the network")
    return predictions
