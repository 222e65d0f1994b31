# SPDX-License-Identifier: MIT
"""gradient_flow: powers on a scalar recurrence, gradients of the remaining sequence elsewhere, gates, matrices, plot.

T time steps, B batch, I input size, H hidden size, P size of the projected h, L layers, D directions.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastrnn import reference
from fastrnn.diagnostics import gradient_flow
from fastrnn.layers import GRU, LSTM, RNN

T, B, I, H = 6, 4, 3, 5
KINDS = {
    "rnn": (RNN, {}),
    "lstm": (LSTM, {}),
    "projected": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
    "reset-before": (GRU, {"reset_after": False}),
}
LENGTHS = [4, 6, 0, 1]

each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, **more):
    cls, options = KINDS[kind]
    return cls(I, H, **{"seed": 1, "dtype": np.float64, **options, **more})


def sequence(rows=B, seed=2):
    return np.random.default_rng(seed).standard_normal((T, rows, I))


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [0.5, 0.9, 1.0, 1.1, 2.0])
@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_powers_of_a_scalar_recurrence(w, steps):
    layer = RNN(1, 1, nonlinearity="relu", bias=False, dtype=np.float64)
    layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1e-300, w  # a tiny input: h = 2 h overflows late
    flow = gradient_flow(layer, np.ones((steps, 1)))
    np.testing.assert_allclose(flow.grad_h[0, 0], [w ** (steps - 1 - t) for t in range(steps)], rtol=1e-6)
    assert flow.grad_c is None
    np.testing.assert_allclose(flow.spectral_radius["h"], [[w]])


@each_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_the_remaining_sequence(kind, reverse):
    """dL/dh_t is the gradient that the rest of the sequence has for its initial state, and what out_t itself gets."""
    layer = make(kind)
    x, grad_out = sequence(), np.random.default_rng(3).standard_normal((T, B, layer.output_size))
    flow = gradient_flow(layer, x, grad_out=grad_out)
    if reverse:
        both = make(kind, bidirectional=True)
        names = {name: array for name, array in layer.params.items()}
        both.load_state_dict({**names, **{f"{name}_reverse": array for name, array in names.items()}})
        doubled = np.concatenate([grad_out, grad_out[::-1]], axis=2)
        one, other = gradient_flow(both, x, grad_out=doubled), gradient_flow(both, x[::-1], grad_out=doubled)
        np.testing.assert_allclose(one.grad_h[0, 0], flow.grad_h[0, 0])
        np.testing.assert_allclose(other.grad_h[0, 1, ::-1], flow.grad_h[0, 0])
    for t in range(T):
        _, state = layer(x[: t + 1])
        _, _, tape = layer.forward(x[t + 1 :], state)
        rest = layer.backward(tape, grad_out[t + 1 :]).state
        dh = (rest[0] if layer.cell == "lstm" else rest)[0] + grad_out[t]
        np.testing.assert_allclose(flow.grad_h[0, 0, t], np.linalg.norm(dh))
        if layer.cell == "lstm":
            _, (h_prev, _) = layer(x[:t])
            z_o = [layer.params[f"weight_{part}_l0"][3 * H :] for part in ("ih", "hh")]
            b_o = layer.params["bias_ih_l0"][3 * H :] + layer.params["bias_hh_l0"][3 * H :]
            o = 1 / (1 + np.exp(-(x[t] @ z_o[0].T + h_prev[0] @ z_o[1].T + b_o)))
            dm = dh @ layer.params["weight_hr_l0"] if layer.proj_size else dh
            dc = rest[1][0] + dm * o * (1 - np.tanh(state[1][0]) ** 2)
            np.testing.assert_allclose(flow.grad_c[0, 0, t], np.linalg.norm(dc))


@each_kind
def test_a_ragged_batch_is_its_sequences(kind):
    layer = make(kind, num_layers=2, bidirectional=True)
    x = sequence()
    for row, length in enumerate(LENGTHS):
        x[length:, row] = np.nan
    flow = gradient_flow(layer, x, lengths=LENGTHS)
    assert flow.grad_h.shape == (2, 2, T)
    squares = np.zeros((2, 2, T))
    for row, length in enumerate(LENGTHS):
        squares[:, :, :length] += gradient_flow(layer, x[:length, row]).grad_h ** 2
    np.testing.assert_allclose(flow.grad_h**2, squares, rtol=1e-9)


def test_the_default_loss_is_the_sum_of_the_last_outputs():
    layer = make("gru", num_layers=2)
    grad_out = np.zeros((T, B, H))
    for row, length in enumerate(LENGTHS):
        if length:
            grad_out[length - 1, row] = 1
    flow = gradient_flow(layer, sequence(), lengths=LENGTHS)
    expected = gradient_flow(layer, sequence(), lengths=LENGTHS, grad_out=grad_out)
    np.testing.assert_allclose(flow.grad_h, expected.grad_h)
    ones = np.zeros((2, B, H))
    ones[1] = 1
    same = gradient_flow(layer, sequence(), lengths=LENGTHS, grad_state=ones)
    np.testing.assert_allclose(flow.grad_h, same.grad_h)


def test_the_default_loss_is_of_both_directions():
    layer, ones = make("gru", num_layers=2, bidirectional=True), np.zeros((4, B, H))
    ones[2:] = 1
    flow = gradient_flow(layer, sequence())
    assert flow.grad_h[1].all()
    np.testing.assert_allclose(flow.grad_h, gradient_flow(layer, sequence(), grad_state=ones).grad_h)


def test_a_given_grad_state_is_the_loss():
    layer = make("gru")
    twice = gradient_flow(layer, sequence(), grad_state=np.full((1, B, H), 2.0))
    np.testing.assert_allclose(twice.grad_h, 2 * gradient_flow(layer, sequence()).grad_h)


def test_what_is_on_the_threshold_is_not_saturated():
    layer = make("lstm")
    layer.flat_params = 0
    flow = gradient_flow(layer, 0 * sequence(), threshold=0)
    assert not any(value.any() for value in flow.saturation.values())


def test_float32_layers_flow_in_double_precision():
    layer = RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True)
    layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = 1, 0.5
    flow = gradient_flow(layer, np.ones((2, 400, 1), np.float32), np.ones((1, 2, 1), np.float32))
    np.testing.assert_allclose(flow.grad_h[0, 0, 0], np.sqrt(2) * 0.5**399, rtol=1e-12)


@each_kind
def test_the_layer_is_left_as_it_was(kind):
    layer = make(kind, num_layers=2, dropout=0.5)
    before, drawing = layer.flat_params.copy(), layer.rng.bit_generator.state
    first, second = gradient_flow(layer, sequence()), gradient_flow(layer, sequence())
    assert np.array_equal(layer.flat_params, before) and layer.rng.bit_generator.state == drawing
    assert np.array_equal(first.grad_h, second.grad_h)


def test_no_steps_and_no_rows():
    for shape in ((0, 2, I), (3, 0, I)):
        flow = gradient_flow(make("lstm"), np.zeros(shape))
        assert flow.grad_h.shape == flow.grad_c.shape == (1, 1, shape[0])
        assert not flow.grad_h.any() and not flow.saturation["f"].any()


# -- gates and matrices ----------------------------------------------------------------------------------------------


def test_saturation_counts_the_outputs_of_a_tanh():
    layer = make("rnn", num_layers=2)
    layer.flat_params *= 4
    x = sequence()
    middle = RNN(I, H, dtype=np.float64)
    middle.load_state_dict({name: array for name, array in layer.params.items() if name.endswith("l0")})
    saturation = gradient_flow(layer, x, threshold=0.9).saturation["h"]
    assert saturation[0, 0] == (np.abs(middle(x)[0]) > 0.9).mean() > 0.1
    assert saturation[1, 0] == (np.abs(layer(x)[0]) > 0.9).mean() > 0.1


def test_saturation_of_a_relu_counts_zeros():
    layer = make("rnn", nonlinearity="relu")
    assert gradient_flow(layer, sequence()).saturation["h"][0, 0] == (layer(sequence())[0] == 0).mean() > 0.1


@pytest.mark.parametrize(("kind", "gates"), [("lstm", "ifgo"), ("gru", "rzn"), ("reset-before", "rzn")])
def test_saturation_of_each_gate(kind, gates):
    layer = make(kind)
    layer.flat_params = 0
    assert gradient_flow(layer, sequence()).saturation == dict.fromkeys(gates, 0)
    for k, gate in enumerate(gates):
        for bias, saturated in ((3.7, 1), (-3.7, 1), (1.8, float(gate in "gn")), (1.7, 0)):  # sigmoid's 0.95 is at 3.66
            layer.params["bias_ih_l0"] = 0
            layer.params["bias_ih_l0"][k * H : (k + 1) * H] = bias
            flow = gradient_flow(layer, sequence(), threshold=0.94)
            expected = {other: float(other == gate and bool(saturated)) for other in gates}
            assert {name: float(value[0, 0]) for name, value in flow.saturation.items()} == expected


def test_padding_is_not_counted():
    layer = make("lstm")
    x = np.zeros((T, 2, I))
    layer.flat_params = 0
    layer.params["weight_ih_l0"] = 100
    x[:2, 0], x[2:, 0] = 1, 0
    assert gradient_flow(layer, x[:, :1]).saturation["i"][0, 0] == pytest.approx(2 / T)
    assert gradient_flow(layer, x[:, :1], lengths=[2]).saturation["i"][0, 0] == 1


def test_spectral_radius_of_each_gate():
    layer = GRU(I, 2, dtype=np.float64)
    rotation = np.array([[0.0, -3.0], [3.0, 0.0]])
    layer.params["weight_hh_l0"] = np.concatenate([np.diag([0.5, -0.75]), rotation, np.ones((2, 2))])
    radius = gradient_flow(layer, sequence()).spectral_radius
    assert {gate: pytest.approx(float(value[0, 0])) for gate, value in radius.items()} == {"r": 0.75, "z": 3, "n": 2}


def test_spectral_radius_of_a_projection():
    layer = make("projected")
    block, w_hr = layer.params["weight_hh_l0"][H : 2 * H], layer.params["weight_hr_l0"]
    expected = np.abs(np.linalg.eigvals(block @ w_hr)).max()
    np.testing.assert_allclose(gradient_flow(layer, sequence()).spectral_radius["f"], [[expected]])


def test_weights_that_are_not_finite():
    layer = make("gru")
    layer.params["weight_hh_l0"][0, 0] = np.nan
    radius = gradient_flow(layer, sequence()).spectral_radius
    assert np.isnan(radius["r"]) and np.isfinite(radius["n"])


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ([None], {}, TypeError, "layer: needs one of fastrnn's RNN, LSTM, GRU, got NoneType"),
        ([make("rnn")], {"threshold": 2}, ValueError, "threshold: needs a finite number >= 0 and <= 1, got 2"),
        ([make("rnn")], {"lengths": [1]}, ValueError, "lengths: needs shape"),
        ([make("lstm")], {"state": sequence()}, TypeError, r"state: needs a pair \(h, c\) or None"),
        ([make("rnn")], {"grad_out": np.ones((T, B, H + 1))}, ValueError, "grad_out: needs the shape of out"),
        ([make("rnn")], {"grad_out": np.ones((T, B, H), int)}, TypeError, "grad_out: needs dtype float32 or float64"),
        ([make("rnn")], {"grad_state": np.ones((2, B, H))}, ValueError, r"grad_state: needs shape \(L\*D, B, P\)"),
        ([make("lstm")], {"grad_state": np.ones((1, B, H))}, TypeError, r"grad_state: needs a pair \(h, c\) or None"),
    ],
)
def test_bad_arguments(args, options, error, message, monkeypatch):
    monkeypatch.setattr(reference, "forward", None)  # before any work is done
    with pytest.raises(error, match=message):
        gradient_flow(*args, sequence(), **options)


# -- plot ------------------------------------------------------------------------------------------------------------


def test_plot_draws_everything(tmp_path):
    flow = gradient_flow(make("lstm", num_layers=2, bidirectional=True), sequence(), lengths=LENGTHS)
    figure = flow.plot(path=tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    norms, saturation, radius = figure.axes
    assert len(norms.lines) == 8 and norms.get_yscale() == "log"
    np.testing.assert_array_equal(norms.lines[0].get_ydata(), flow.grad_h[0, 0])
    assert len(saturation.patches) == len(radius.patches) == 4 * 4


def test_plot_into_given_axes(tmp_path):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    for seed in (0, 1):
        figure = gradient_flow(make("gru", seed=seed), sequence()).plot(ax, label=f"seed {seed}")
    assert figure is ax.figure
    assert [line.get_label() for line in ax.lines] == ["seed 0, dL/dh, layer 0", "seed 1, dL/dh, layer 0"]


def test_plot_into_a_part_of_a_figure(tmp_path):
    from matplotlib.figure import Figure

    whole = Figure()
    ax = whole.subfigures(1, 2)[0].subplots()
    assert gradient_flow(make("gru"), sequence()).plot(ax, path=tmp_path / "flow.png") is whole
    assert (tmp_path / "flow.png").exists()


def test_one_step_is_drawn_as_a_point():
    figure = gradient_flow(make("rnn"), sequence()[:1]).plot()
    assert [line.get_marker() for line in figure.axes[0].lines] == ["."]


def test_the_callers_errstate_does_not_matter():
    x = 100 * sequence()
    with np.errstate(all="raise"):
        flow = gradient_flow(make("lstm"), np.concatenate([x] * 60))
    assert flow.grad_h.shape == (1, 1, 60 * len(x))


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'plot: needs matplotlib: pip install "fastrnn\[plot\]"'):
        gradient_flow(make("rnn"), sequence()).plot()
