# SPDX-License-Identifier: MIT
"""gradient_flow: how far back in time a loss reaches, and why no farther.

T time steps, B batch, H hidden size, P size of h, L layers, D directions; direction d of layer l is number k = l*D + d.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _check, reference
from ._records import Tape
from .layers import GRU, LSTM, RNN, Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GATE_NAMES = {"rnn": ("h",), "lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}
TANH_GATES = ("h", "g", "n")  # the others are sigmoids


@dataclass(slots=True)
class GradientFlow:
    """What ``gradient_flow`` found. Everything is float64; the axes L and D are layers and directions.

    Attributes
    ----------
    grad_h : ndarray, shape (L, D, T)
        Norm, over the batch and the units, of dL/dh_t: all that the loss feels of the hidden state at time t, through
        the outputs and through later steps.
    grad_c : ndarray, shape (L, D, T), or None
        The same of an LSTM's cell state.
    saturation : dict of str to ndarray, shape (L, D)
        For each gate (LSTM i f g o, GRU r z n, RNN h), the fraction of its values that lie beyond ``threshold`` of the
        way from the middle to an end of their range, where little gradient passes; of a ReLU's, that are 0.
    spectral_radius : dict of str to ndarray, shape (L, D)
        For each gate, the largest absolute eigenvalue of its (H, H) block W of ``w_hh``; with a projection, of W_hr W.
    """

    grad_h: np.ndarray
    grad_c: np.ndarray | None
    saturation: dict[str, np.ndarray]
    spectral_radius: dict[str, np.ndarray]

    def plot(
        self, ax: Axes | None = None, *, path: str | os.PathLike[str] | None = None, label: str | None = None
    ) -> Figure:
        """Draw it with matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            To draw the norms into, and only them. By default a new figure shows all there is.
        path : path, optional
            To save the figure under.
        label : str, optional
            Put before each line's name, to tell several flows in one ``ax`` apart.

        Returns
        -------
        matplotlib Figure
            That of ``ax``, or new.

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        if ax is None:
            ax, left, right = _figure().subplots(1, 3)
            self._bars(left, self.saturation, "saturated fraction")
            left.set_ylim(0, 1)
            self._bars(right, self.spectral_radius, "spectral radius")
            right.axhline(1, color="black", linewidth=0.5)
        self._lines(ax, label)
        figure: Any = ax.get_figure()
        figure = figure.figure  # of a subfigure the whole
        if path is not None:
            figure.savefig(path)
        return figure

    def _places(self) -> list[tuple[int, int, str]]:
        """(l, d, name) of each direction of each layer."""
        L, D, _ = self.grad_h.shape
        return [(l, d, f"layer {l}" + " reverse" * d) for l in range(L) for d in range(D)]

    def _lines(self, ax: Axes, label: str | None) -> None:
        for l, d, place in self._places():
            for name, norms, style in (("dL/dh", self.grad_h, "-"), ("dL/dc", self.grad_c, "--")):
                if norms is not None:
                    shown = np.where(norms[l, d] > 0, norms[l, d], np.nan)  # no logarithm of 0
                    ax.plot(
                        shown,
                        style,
                        marker="." if len(shown) == 1 else "",
                        label=", ".join(filter(None, (label, name, place))),
                    )
        ax.set(yscale="log", xlabel="time step t", ylabel="norm", title="gradient of the loss, by time of the state")
        ax.legend()

    def _bars(self, ax: Axes, values: dict[str, np.ndarray], title: str) -> None:
        places = self._places()
        width = 0.8 / len(places)
        for k, (l, d, place) in enumerate(places):
            heights = [value[l, d] for value in values.values()]
            ax.bar(np.arange(len(values)) + k * width, heights, width, label=place)
        ax.set_xticks(np.arange(len(values)) + 0.4 - width / 2, list(values))
        ax.set(xlabel="gate", title=title)
        ax.legend()


def gradient_flow(
    layer: Layer,
    x: Any,
    state: Any = None,
    lengths: Any = None,
    grad_out: Any = None,
    grad_state: Any = None,
    *,
    threshold: float = 0.95,
) -> GradientFlow:
    """Follow a loss back through time: one pass of backpropagation, and what it met at each step.

    The recurrence multiplies the gradient, at each step back, by a Jacobian. Where those shrink it the loss does not
    see the far past; where they stretch it, training diverges: Hochreiter 1991; Bengio, Simard and Frasconi 1994;
    Pascanu, Mikolov and Bengio 2013.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Left as it is: a float64 copy is run, on the reference backend and without dropout.
    x, state, lengths
        As in a call of the layer, but of either dtype.
    grad_out, grad_state
        As for ``layer.backward``: the loss's gradients. If neither is given, the loss is the sum of the last layer's
        final hidden states, which are each direction's last valid outputs.
    threshold : float
        In 0..1: where saturation begins.

    Returns
    -------
    GradientFlow
        New; what lies past a sequence's length is ignored.

    Raises
    ------
    TypeError, ValueError
        As a call of the layer and ``layer.backward`` do.
    """
    _check.layer(layer, (RNN, LSTM, GRU))
    threshold = _check.real("threshold", threshold, 0, 1)
    twin = type(layer)(**{**layer.options(), "dtype": np.float64, "dropout": 0.0})
    twin.load_state_dict(layer.params)
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def watch(tape: Tape, dh: np.ndarray, dc: np.ndarray) -> None:
        seen[id(tape)] = dh, dc

    backend = SimpleNamespace(**{**vars(reference), "backward": partial(reference.backward, watch=watch)})
    x, state = _double("x", x), _doubles("state", state, layer)
    grad_out, grad_state = _double("grad_out", grad_out), _doubles("grad_state", grad_state, layer)
    time_major, batched, _, _ = twin._checked(x, state, lengths)  # all that may be wrong, before the pass
    shape = (*x.shape[:-1], twin.num_directions * twin.output_size)
    _check.same_sequence("grad_out", grad_out, twin.dtype, shape, twin.batch_first)
    twin._state("grad_state", grad_state, time_major.shape[1], batched)
    _, final, tape = twin._record(x, state, lengths, backend)
    if grad_out is None and grad_state is None:
        grad_state = _last_outputs(twin, final)
    twin.backward(tape, grad_out, grad_state)
    with np.errstate(all="ignore"):
        return _measured(twin, tape.tapes, seen, threshold)


def _measured(
    layer: Layer, tapes: list[Tape], seen: dict[int, tuple[np.ndarray, np.ndarray]], threshold: float
) -> GradientFlow:
    """What a pass of backpropagation shows of a layer; ``seen``: dL/dh and dL/dc of each tape."""
    grad_h, grad_c = zip(*(_norms(tape, *seen[id(tape)]) for tape in tapes), strict=True)
    shape = (layer.num_layers, layer.num_directions, tapes[0].call.T)
    return GradientFlow(
        np.reshape(grad_h, shape),
        np.reshape(grad_c, shape) if layer.cell == "lstm" else None,
        _by_gate(layer, [_saturation(tape, threshold) for tape in tapes]),
        _by_gate(layer, [_radii(tape) for tape in tapes]),
    )


def _double(name: str, value: Any) -> np.ndarray | None:
    return None if value is None else _check.floats(name, value).astype(np.float64)


def _doubles(name: str, value: Any, layer: Layer) -> Any:
    """A state in float64."""
    if layer.cell != "lstm" or value is None:
        return _double(name, value)
    h, c = _check.pair(name, value)
    return _double(f"{name}[0]", h), _double(f"{name}[1]", c)


def _last_outputs(layer: Layer, final: Any) -> Any:
    """The gradient of the sum of the last layer's h_n, as a ``grad_state``."""
    ones = np.zeros_like(final[0] if layer.cell == "lstm" else final)
    ones[-layer.num_directions :] = 1
    return (ones, None) if layer.cell == "lstm" else ones


def _norms(tape: Tape, dh: np.ndarray, dc: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Norms (T,) of dL/dh_t and dL/dc_t. The latter gains here what reaches c_t from h_t = W_hr (o tanh(c_t))."""
    call, (steps, _, z, _, c) = tape.call, tape.saved
    dh, dc, c = dh[call.B :], dc[call.B :], c[call.B :]
    if call.cell != "lstm":
        return _norm_by_time(call, steps, dh), None
    o = reference.blocks(z, call.H)[3]
    dm = dh if call.w_hr is None else dh @ call.w_hr
    return _norm_by_time(call, steps, dh), _norm_by_time(call, steps, dc + dm * o * (1 - np.tanh(c) ** 2))


def _norm_by_time(call: Any, steps: reference.Steps, rows: np.ndarray) -> np.ndarray:
    """Norms (T,) of rows (R, ·), by ``hypot``, under which no square vanishes or overflows."""
    by_row = np.hypot.reduce(rows, axis=1, keepdims=True)
    return np.hypot.reduce(steps.scatter(by_row, np.empty((call.T, call.B, 1)))[:, :, 0], axis=1)


def _saturation(tape: Tape, threshold: float) -> list[float]:
    """For each gate, how much of it is saturated."""
    call, z = tape.call, tape.saved.z
    fractions: list[float] = []
    gates = reference.blocks(z, call.H)  # of a GRU one more than its gates
    for gate, a in zip(GATE_NAMES[call.cell], gates, strict=False):
        off_middle = np.abs(a if gate in TANH_GATES else 2 * a - 1)
        saturated = a == 0 if call.variant == "relu" else off_middle > threshold
        fractions.append(np.count_nonzero(saturated) / max(a.size, 1))
    return fractions


def _radii(tape: Tape) -> list[float]:
    """For each gate, the spectral radius of its recurrent matrix; NaN for weights that are not finite."""
    call = tape.call
    blocks = call.w_hh.reshape(-1, call.H, call.P)
    matrices = blocks if call.w_hr is None else call.w_hr @ blocks
    finite = np.isfinite(matrices).all(axis=(1, 2))
    return [float(np.abs(np.linalg.eigvals(w)).max()) if ok else np.nan for w, ok in zip(matrices, finite, strict=True)]


def _by_gate(layer: Layer, rows: list[list[float]]) -> dict[str, np.ndarray]:
    """A row for each k, in it a value for each gate -> for each gate an array (L, D)."""
    columns = np.transpose(rows).reshape(-1, layer.num_layers, layer.num_directions)
    return dict(zip(GATE_NAMES[layer.cell], columns, strict=True))


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise ImportError('plot: needs matplotlib: pip install "fastrnn[plot]"') from problem
    return Figure(figsize=(14, 4), layout="constrained")
