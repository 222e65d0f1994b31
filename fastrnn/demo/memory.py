# SPDX-License-Identifier: MIT
"""Chapter 3: why long memories are hard. How much of a loss's gradient reaches the steps long before it.

T = 50 time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

import fastrnn

from ._report import COLOURS, SHADES, Progress, Report, panels

if TYPE_CHECKING:
    from fastrnn.diagnostics import GradientFlow

TITLE = "Why long memories are hard"
T = 50
WEIGHTS = (0.5, 0.9, 1.0, 1.1, 2.0)
B, I, H = 16, 8, 32
CANDIDATE = {"RNN": "h", "GRU": "n", "LSTM": "g"}  # the gate that a cell's new content comes from


class Flows(NamedTuple):
    """Gradient flow of both experiments."""

    scalar: dict[float, np.ndarray]  # recurrent weight -> |dL/dh_t|, (T,)
    cells: dict[str, GradientFlow]


def scalar_flow(weight: float) -> np.ndarray:
    """|dL/dh_t| of h_t = w h_{t-1} + x_t, L = h_T: a ReLU unit whose inputs are positive is linear."""
    layer = fastrnn.RNN(1, 1, bias=False, nonlinearity="relu")
    layer.params["weight_ih_l0"] = 1
    layer.params["weight_hh_l0"] = weight
    return fastrnn.gradient_flow(layer, np.ones((T, 1, 1), np.float32)).grad_h[0, 0]


def cell_flow(cell: type) -> GradientFlow:
    """The gradient flow of an untrained layer that reads noise; an LSTM's forget bias is 1."""
    layer = cell(I, H, seed=0)
    if cell is fastrnn.LSTM:
        layer.params["bias_ih_l0"][H : 2 * H] = 1
        layer.params["bias_hh_l0"][H : 2 * H] = 0
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    return fastrnn.gradient_flow(layer, x)


def draw_scalar(flows: dict[float, np.ndarray]) -> Figure:
    """The norms of the scalar recurrence, and the formula's as dots."""
    figure, (axis,) = panels()
    t = np.arange(1, T + 1)
    for (weight, norms), colour in zip(flows.items(), SHADES, strict=True):
        axis.plot(t, norms, color=colour, lw=2, label=f"w = {weight:g}")
        axis.plot(t[::7], weight ** (T - t[::7]), "o", color=colour, ms=5)
    axis.plot([], [], "o", color="black", ms=5, label="$w^{T-t}$")
    axis.set(
        yscale="log",
        xlabel="time step t",
        ylabel="$|dL/dh_t|$",
        title="One linear unit: $h_t = w\\,h_{t-1} + x_t$, $L = h_T$",
    )
    axis.legend(ncol=2)
    return figure


def draw_cells(flows: dict[str, GradientFlow]) -> Figure:
    """The norms of three cells, side by side on one scale."""
    figure, axes = panels(3, width=10, height=3.6, sharey=True)
    t = np.arange(1, T + 1)
    for axis, (name, flow) in zip(axes, flows.items(), strict=True):
        axis.plot(t, flow.grad_h[0, 0], color=COLOURS[name], lw=2, label="hidden state h")
        if flow.grad_c is not None:
            axis.plot(t, flow.grad_c[0, 0], color=COLOURS[name], lw=2, ls="--", label="cell state c")
        axis.set(yscale="log", xlabel="time step t", title=name)
        axis.legend(loc="lower right", fontsize=8)
    axes[0].set_ylabel("norm of the loss's gradient")
    return figure


def share(flow: GradientFlow) -> float:
    """The gradient at the first step, over that at the last."""
    first, last = flow.grad_h[0, 0, [0, -1]]
    return float(first / last)


def cells_table(report: Report, flows: dict[str, GradientFlow]) -> None:
    """The three cells in figures."""
    rows = []
    for name, flow in flows.items():
        radius = flow.spectral_radius[CANDIDATE[name]][0, 0]
        rows.append((name, f"{share(flow):.1e}", f"{share(flow) ** (1 / (T - 1)):.2f}", f"{radius:.2f}"))
    report.table(["cell", "gradient at step 1 / at the last step", "mean factor a step", "spectral radius"], rows)


def run(report: Report, progress: Progress) -> Flows:
    """Write the chapter; return the gradient flows."""
    scalar = {weight: scalar_flow(weight) for weight in progress(WEIGHTS, "weights")}
    cells = {cell.__name__: cell_flow(cell) for cell in progress((fastrnn.RNN, fastrnn.GRU, fastrnn.LSTM), "cells")}
    report.text(f"""
        `fastrnn.gradient_flow` follows a loss at step {T} back to step 1. Each step back multiplies the gradient by the
        recurrent weight, so that after many it is next to nothing or huge unless the weight is very near 1:
    """)
    report.table(
        ["recurrent weight w", "gradient at step 1", f"w^{T - 1}"],
        [(f"{w:g}", f"{norms[0]:.3e}", f"{w ** (T - 1):.3e}") for w, norms in scalar.items()],
    )
    report.plot(
        draw_scalar(scalar), "3-one-unit.png", "Gradient flow through one linear unit, for five recurrent weights"
    )
    firsts = ", ".join(f"w = {weight:g}: {norms[0]:.1e}" for weight, norms in scalar.items())
    report.finding(f"one unit, gradient at step 1 of {T}: {firsts}")
    report.text(f"""
        Layers of {H} units meet the same fate by their matrices. Here are three, untrained, with PyTorch's random start
        (the LSTM's forget bias at 1), reading {B} sequences of noise; the loss is the sum of the last hidden states.
        Gates add a path on which the state is carried over instead of being computed anew. The spectral radius is that
        of the recurrent matrix behind the new content (RNN h, GRU n, LSTM g).
    """)
    cells_table(report, cells)
    report.plot(draw_cells(cells), "3-cells.png", "Gradient flow through an RNN, a GRU and an LSTM")
    shares = ", ".join(f"{name} {share(flow):.0e}" for name, flow in cells.items())
    report.finding(f"gradient at step 1 as a share of that at step {T}: {shares}")
    return Flows(scalar, cells)
