# SPDX-License-Identifier: MIT
"""Chapter 2: the network of chapter 1 again, its three weights learned from the rules by backpropagation through time.

T = 2 days, B = 4 rules, I = H = 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import fastrnn

from ._report import COLOURS, GREY, Progress, Report, panels
from .one_network import PRICES, TOMORROW, W_INPUT, W_OUTPUT, W_RECURRENT, name

TITLE = "The same network learned"
STEPS = 400
CLOSE = 0.05  # a prediction this near to its rule is right
ATTEMPTS = 20


class Attempt(NamedTuple):
    """One training from one seed."""

    seed: int
    weights: np.ndarray  # input, recurrent, output
    losses: list[float]
    predictions: np.ndarray  # (B,)

    @property
    def solved(self) -> bool:
        """Whether all rules are learned."""
        return bool(np.abs(self.predictions - TOMORROW).max() < CLOSE)

    @property
    def fate(self) -> str:
        """How an attempt that did not learn ended."""
        why = "" if self.predictions.any() else ", its unit silent"
        return f"seed {self.seed} (error {self.losses[-1]:.2g}{why})"


def train(seed: int) -> Attempt:
    """Learn the rules from the random weights of a seed."""
    rng = np.random.default_rng(seed)
    layer = fastrnn.RNN(1, 1, bias=False, nonlinearity="relu", seed=rng)
    w_out = rng.uniform(-1, 1, 1).astype(np.float32)
    optimizers = [fastrnn.optim.Adam(params, lr=0.02) for params in (layer.flat_params, w_out)]
    x = PRICES.T[:, :, np.newaxis]  # (T, B, I)
    losses = []
    for _ in range(STEPS):
        _, h_n, tape = layer.forward(x)
        error = w_out * h_n[0, :, 0] - TOMORROW
        losses.append(float((error**2).mean()))
        grad_prediction = 2 * error / np.float32(len(error))
        grad_w_out = (grad_prediction * h_n[0, :, 0]).sum(keepdims=True)
        grads = layer.backward(tape, grad_state=(w_out * grad_prediction).reshape(h_n.shape))
        for optimizer, grad in zip(optimizers, (grads.flat, grad_w_out), strict=True):
            optimizer.step(grad)
    _, h_n = layer(x)
    return Attempt(seed, np.concatenate([layer.flat_params, w_out]), losses, w_out * h_n[0, :, 0])


def attempts(progress: Progress) -> list[Attempt]:
    """Seeds 0, 1, 2, ... until one has learned the rules."""
    tried = []
    for seed in progress(range(ATTEMPTS), "seeds"):
        tried.append(train(seed))
        if tried[-1].solved:
            break
    return tried


def draw(tried: list[Attempt]) -> Figure:
    """The loss curves of every seed tried."""
    figure, (axis,) = panels()
    for attempt in tried:
        colour, style, outcome = (COLOURS["RNN"], "-", "learned") if attempt.solved else (GREY, "--", "stuck")
        axis.semilogy(attempt.losses, style, color=colour, label=f"seed {attempt.seed}: {outcome}")
    axis.set(xlabel="training step", ylabel="mean squared error", title="Learning the four rules", ylim=(1e-10, 2))
    axis.legend()
    return figure


def run(report: Report, progress: Progress) -> np.ndarray:
    """Write the chapter; return the four predictions of the network that learned."""
    tried = attempts(progress)
    best = tried[-1]
    report.text(f"""
        The same network, its three weights random at first, is shown the four rules (low = 0, high = 1) for {STEPS}
        steps of Adam; the gradients come from `layer.backward`.
    """)
    stuck = [attempt.fate for attempt in tried if not attempt.solved]
    if stuck:
        report.text(f"""
            A ReLU unit that is silent for every rule passes no gradient back and never wakes, and here no other unit is
            beside it to help. Seeds are tried in order until one learns; these did not: {", ".join(stuck)}.
        """)
    report.table(
        ["yesterday, today", "rule", "by hand", f"learned (seed {best.seed})", "says"],
        [
            (f"{name(x[0])}, {name(x[1])}", name(y), f"{by_hand(x):.2f}", f"{p + 0:.3f}", name(p))
            for x, y, p in zip(PRICES, TOMORROW, best.predictions, strict=True)
        ],
    )
    w_in, w_rec, w_out = best.weights
    report.text(f"""
        Learned weights: input {w_in:.3f}, recurrent {w_rec:.3f}, output {w_out:.3f}. Input and output weight count by
        their product alone: {w_in * w_out:.3f}, by hand {W_INPUT * W_OUTPUT:.3f}. The recurrent weight by hand was
        {W_RECURRENT}.
    """)
    outcome = "learned all four rules" if best.solved else "did not learn all four rules, nor did any before it"
    report.finding(
        f"seed {best.seed} {outcome}: error {best.losses[-1]:.1e} after {STEPS} steps; {len(stuck)} seeds stuck"
    )
    report.plot(draw(tried), "2-learned.png", "Loss curves of every seed tried")
    return best.predictions


def by_hand(prices: np.ndarray) -> float:
    """Chapter 1's prediction."""
    h = 0.0
    for x_t in prices:
        h = max(0.0, W_INPUT * float(x_t) + W_RECURRENT * h)
    return W_OUTPUT * h
