# SPDX-License-Identifier: MIT
"""SequenceClassifier and SequenceRegressor: what they learn, from what, and how; scikit-learn's rules stand apart.

n sequences, T time steps, I input size, K classes or targets.
"""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, r2_score

import fastrnn
from fastrnn import _network
from fastrnn._head import Dense, cross_entropy, softmax, squared_error
from fastrnn._network import Best, Network
from fastrnn._sequences import Sequences, moments
from fastrnn.sklearn import SequenceClassifier, SequenceRegressor

ROOT = Path(__file__).parents[2]
CELLS = {"rnn": fastrnn.RNN, "lstm": fastrnn.LSTM, "gru": fastrnn.GRU}


def ragged(n=40, features=3, seed=0, longest=9):
    """Sequences of 1 to ``longest`` steps."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((T, features)) for T in rng.integers(1, longest + 1, n)]


def vowels(part):
    """Utterances, each (T, 12), and their speakers."""
    with (files("fastrnn") / "demo" / "japanese_vowels.npz").open("rb") as file, np.load(file) as data:
        return np.split(data[f"{part}_frames"], np.cumsum(data[f"{part}_lengths"])[:-1]), data[f"{part}_speaker"]


def quick(kind, **options):
    return kind(**{"hidden_size": 8, "max_epochs": 5, "random_state": 0, **options})


X = ragged()
SIGNS = np.array(["up" if x[-1, 0] > 0 else "down" for x in X])
LAST = np.array([x[-1, 0] for x in X])
TASKS = {  # of every kind: y, and the options
    "classes": (SequenceClassifier, SIGNS, {}),
    "numbers": (SequenceRegressor, LAST, {}),
    "vectors": (SequenceRegressor, np.stack([LAST, 3 * LAST + 1], axis=1), {}),
    "class per step": (SequenceClassifier, [np.where(x[:, 0] > 0, "up", "down") for x in X], {"per_step": True}),
    "number per step": (SequenceRegressor, [np.cumsum(x[:, 0]) for x in X], {"per_step": True}),
    "vector per step": (SequenceRegressor, [x[:, :2] + 1 for x in X], {"per_step": True}),
}
each_task = pytest.mark.parametrize(("kind", "y", "options"), TASKS.values(), ids=TASKS)


def same(a, b):
    """Whether two results, arrays or lists of them, have the same bits."""
    return len(a) == len(b) and all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


# -- what it learns --------------------------------------------------------------------------------------------------


def test_names_speakers():
    """The defaults, chosen without these utterances, name 0.97 and more right."""
    model = SequenceClassifier(random_state=0).fit(*vowels("train"))
    X, y = vowels("test")
    assert model.score(X, y) >= 0.97
    assert log_loss(y, model.predict_proba(X)) < 0.2


@pytest.mark.parametrize("cell", CELLS)
@each_task
def test_learns(kind, y, options, cell):
    model = kind(cell=cell, hidden_size=16, lr=0.02, batch_size=4, random_state=0, **options).fit(X, y)
    assert model.score(X, y) > 0.9
    assert len(model.loss_curve_) == model.n_iter_ == 30
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]
    assert isinstance(model.network_.layer, CELLS[cell]) and model.n_features_in_ == 3


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": False}, {"dropout": 0.3, "num_layers": 2}])
def test_learns_with_other_networks(options):
    y = [x[-1, 0] for x in X]
    model = SequenceRegressor(hidden_size=24, lr=0.02, batch_size=4, random_state=0, **options).fit(X, y)
    assert model.score(X, y) > 0.8


def test_forgets_nothing_from_one_end_to_the_other():
    """The first step's sign, 20 steps later, read in one direction."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 20, 1))
    y = X[:, 0, 0] > 0
    model = SequenceClassifier(hidden_size=16, bidirectional=False, random_state=0, max_epochs=40).fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.classes_.dtype == bool


@pytest.mark.parametrize("labels", [[3, -1, 7], ["b", "a", "ccc"], [2.0, 1.0, 5.0]])
def test_any_labels(labels):
    y = np.array(labels)[[len(x) % 3 for x in X]]
    model = quick(SequenceClassifier).fit(X, y)
    np.testing.assert_array_equal(model.classes_, sorted(labels))
    assert model.predict(X).dtype == y.dtype
    proba = model.predict_proba(X)
    assert proba.shape == (40, 3) and proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])


def test_one_class_is_certain():
    model = quick(SequenceClassifier).fit(X, np.full(40, "all"))
    assert (model.predict(X) == "all").all() and (model.predict_proba(X) == 1).all()


# -- from what -------------------------------------------------------------------------------------------------------


def test_layouts_of_the_same_sequences():
    """A list, a vector of objects, a tuple of lists and one array; with one feature, its axis may be missing."""
    block = np.random.default_rng(0).standard_normal((12, 5, 1))
    objects = np.empty(12, object)
    objects[:] = list(block)
    layouts = [block, list(block), objects, tuple(x.tolist() for x in block), block[:, :, 0], list(block[:, :, 0])]
    y = block[:, -1, 0]
    models = [quick(SequenceRegressor).fit(layout, y) for layout in layouts]
    for model, layout in zip(models, reversed(layouts), strict=True):
        assert same(model.network_.params, models[0].network_.params)
        assert same(model.predict(layout), models[0].predict(block))
        assert model.n_features_in_ == 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool, ">f8"])
def test_numbers_of_any_kind(dtype):
    numbers = [(3 * x).astype(dtype) for x in X]
    as_doubles = [x.astype(float) for x in numbers]
    found, wanted = (quick(SequenceRegressor).fit(data, LAST).predict(data) for data in (numbers, as_doubles))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_results_per_step_are_laid_out_as_the_sequences():
    block = np.random.default_rng(0).standard_normal((6, 5, 2))
    model = quick(SequenceClassifier, per_step=True).fit(block, (block[:, :, 0] > 0).astype(int))
    assert model.predict(block).shape == (6, 5) and model.predict_proba(block).shape == (6, 5, 2)
    found = model.predict_proba(list(block))
    assert isinstance(found, list) and same(found, model.predict_proba(block))
    targets = block[:, :, :1]
    assert quick(SequenceRegressor, per_step=True).fit(block, targets).predict(block).shape == (6, 5, 1)
    assert quick(SequenceRegressor, per_step=True).fit(block, targets[..., 0]).predict(block).shape == (6, 5)


def test_series_of_another_length():
    model = quick(SequenceRegressor).fit(np.random.default_rng(0).standard_normal((10, 7)), np.arange(10.0))
    assert model.predict(np.zeros((3, 50))).shape == (3,)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2), (5, 1, 3), (2, 3, 1)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_smallest(shape, cell):
    block = np.random.default_rng(0).standard_normal(shape)
    model = quick(SequenceRegressor, cell=cell, hidden_size=1, bidirectional=False).fit(block, block[:, 0, 0])
    assert np.isfinite(model.predict(block)).all()


def test_units_do_not_matter():
    """Features and targets are standardised: other units, and features that do not vary, change next to nothing."""
    plain = quick(SequenceRegressor).fit(X, LAST)
    scaled = [np.c_[x * [1e-6, 1.0, 1e9] + [0.0, 500.0, 1e9], np.full(len(x), 0.1)] for x in X]
    model = quick(SequenceRegressor).fit([np.c_[x, np.zeros(len(x))] for x in X], LAST)
    other = quick(SequenceRegressor).fit(scaled, 1e6 * LAST + 1e7)
    np.testing.assert_allclose(
        (other.predict(scaled) - 1e7) / 1e6, model.predict([np.c_[x, np.zeros(len(x))] for x in X]), atol=1e-2
    )
    assert plain.scale_.shape == (3,) and other.scale_[3] == 1
    steps = np.concatenate(X)
    np.testing.assert_allclose(plain.mean_, steps.mean(axis=0))
    np.testing.assert_allclose(plain.scale_, steps.std(axis=0))
    assert (plain.y_mean_, plain.y_scale_) == (pytest.approx(LAST.mean()), pytest.approx(LAST.std()))


@each_task
def test_numbers_are_predicted_in_double_precision(kind, y, options):
    """So that targets far from 0 keep their differences."""
    model = quick(kind, **options).fit(X, y)
    if kind is SequenceRegressor:
        assert np.shape(model.y_scale_) == np.shape(model.y_mean_) == np.shape(y[0])[bool(options) :]
        assert isinstance(model.y_scale_, float if np.ndim(model.y_scale_) == 0 else np.ndarray)
        assert {row.dtype for row in model.predict(X)} == {np.dtype(np.float64)}
        far = quick(kind, **options).fit(X, [row + 1e9 for row in y]).predict(X)
        assert len(np.unique(np.concatenate([np.ravel(row) for row in far]))) > len(X) // 2


@each_task
def test_parameters_may_be_numbers_of_any_kind(kind, y, options):
    given = {"batch_size": 16, "hidden_size": 8, "max_epochs": 5, "lr": 0.01, "validation_fraction": 0.25}
    others = {name: np.uint8(value) for name, value in given.items() if value > 1}
    others |= {"lr": Decimal("0.01"), "validation_fraction": Fraction(1, 4)}
    plain, other = (quick(kind, **options, **some, early_stopping=True).fit(X, y) for some in (given, others))
    assert same(plain.predict(X), other.predict(X))


def test_the_callers_errstate_does_not_matter():
    sides = [np.full((5, 2), side) for side in (-3.0, 3.0)] * 12
    with np.errstate(all="raise"):
        model = quick(SequenceClassifier, lr=0.1, max_epochs=40).fit(sides, [0, 1] * 12)
        assert model.score(sides, [0, 1] * 12) == 1
        model.network_.head.flat[:] = 3e38
        model.predict(sides)


def test_arguments_are_left_alone():
    block = np.random.default_rng(0).standard_normal((6, 5, 2)).astype(np.float32)
    y, before = block[:, 0, 0].copy(), block.copy()
    quick(SequenceRegressor).fit(block, y).predict(block)
    np.testing.assert_array_equal(block, before)
    np.testing.assert_array_equal(y, before[:, 0, 0])


# -- the same bits ---------------------------------------------------------------------------------------------------


@each_task
def test_the_same_random_state_gives_the_same_bits(kind, y, options):
    first, second, other = (quick(kind, dropout=0.2, random_state=seed, **options).fit(X, y) for seed in (5, 5, 6))
    assert same(first.network_.params, second.network_.params)
    assert first.loss_curve_ == second.loss_curve_
    assert not same(first.network_.params, other.network_.params)


@each_task
def test_threads_do_not_change_a_bit(compiled, threads, kind, y, options):
    models = [quick(kind, n_jobs=n, hidden_size=33, **options).fit(X, y) for n in (1, 2, 3)]
    assert all(same(model.network_.params, models[0].network_.params) for model in models)
    assert all(same(model.predict(X), models[0].predict(X)) for model in models)


@each_task
def test_a_prediction_is_the_same_alone_and_in_any_company(compiled, kind, y, options):
    model = quick(kind, **options).fit(X, y)
    method = model.predict_proba if kind is SequenceClassifier else model.predict
    whole = method(X)
    assert same([method([x])[0] for x in X], whole)
    for size in (1, 3, 1000):
        assert same((model.set_params(batch_size=size) and method(X)), whole)
    assert same(method(X[::-1])[::-1], whole)


def test_randomness_follows_scikit_learn():
    def fitted(seed):
        return quick(SequenceRegressor, random_state=seed).fit(X, LAST)

    state = np.random.RandomState(3)
    one, two = fitted(state), fitted(state)
    assert not same(one.network_.params, two.network_.params)
    assert same(one.network_.params, fitted(np.random.RandomState(3)).network_.params)
    before = np.random.get_state()
    try:
        np.random.seed(3)
        assert same(one.network_.params, fitted(None).network_.params)
    finally:
        np.random.set_state(before)


# -- how it learns ---------------------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4, 2))
    y = X[:, 0, 0] + rng.standard_normal(60)  # noise, which it soon learns by heart
    model = SequenceRegressor(early_stopping=True, n_iter_no_change=3, max_epochs=200, random_state=0).fit(X, y)
    curve = model.validation_loss_curve_
    assert model.n_iter_ == len(curve) == len(model.loss_curve_) == np.argmin(curve) + 4 < 200
    rng = model._generator()
    _, held_out = model._parts(y, Sequences.of("X", X), rng)
    assert len(held_out) == 6
    error = (model.predict(X[held_out]) - y[held_out]) / model.y_scale_
    assert np.mean(error**2) == pytest.approx(min(curve), rel=1e-5)


def test_early_stopping_holds_out_some_of_every_class():
    y = np.repeat([0, 1], [30, 10])
    model = quick(SequenceClassifier, early_stopping=True, validation_fraction=0.2).fit(X, y)
    _, held_out = model._parts(y, Sequences.of("X", X), model._generator())
    np.testing.assert_array_equal(np.bincount(y[held_out]), [6, 2])
    assert len(model.validation_loss_curve_) == 5
    assert not quick(SequenceClassifier).fit(X, y).validation_loss_curve_


@each_task
def test_early_stopping_of_every_task(kind, y, options):
    model = quick(kind, early_stopping=True, n_iter_no_change=2, max_epochs=60, **options).fit(X, y)
    assert 2 < model.n_iter_ == len(model.validation_loss_curve_)


@each_task
def test_partial_fit_goes_on(kind, y, options):
    model = quick(kind, **options)
    for epoch in range(20):
        more = {"classes": ["up", "down"]} if kind is SequenceClassifier and not epoch else {}
        model.partial_fit(X, y, **more)
    assert model.n_iter_ == len(model.loss_curve_) == 20
    assert model.loss_curve_[-1] < 0.7 * model.loss_curve_[0]
    assert model.score(X, y) > 0.5


def test_a_fitted_network_stays_per_step():
    X = np.random.default_rng(0).standard_normal((8, 3, 2))
    model = SequenceRegressor(max_epochs=1, per_step=True).fit(X, X[:, :, 0])
    before, score = model.predict(X), model.score(X, X[:, :, 0])
    model.set_params(per_step=False)
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.score(X, X[:, :, 0]) == score


def test_the_rate_falls_linearly(monkeypatch):
    rates, epoch = [], Network.epoch
    monkeypatch.setattr(Network, "epoch", lambda *args: rates.append(args[5]) or epoch(*args))
    X = np.random.default_rng(0).standard_normal((8, 3, 2))
    SequenceRegressor(max_epochs=4, lr=0.1).fit(X, X[:, 0, 0])
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.05, 0.025])


def test_an_equal_loss_is_no_better():
    params = np.zeros(2)
    best = Best((params,))
    assert best.note(1.0) == 0
    params[:] = 1
    assert best.note(1.0) == 1
    best.restore()
    assert not params.any()


def test_moments_in_double_precision():
    X = np.random.default_rng(0).standard_normal((8, 3, 2))
    assert SequenceRegressor(max_epochs=1).fit(X.astype(np.float32), X[:, 0, 0]).mean_.dtype == np.float64
    X[:, :, 1] = 0
    X[0, 0, 1] = 1e-200  # whose square is 0
    assert SequenceRegressor(max_epochs=1).fit(X, X[:, 0, 0]).scale_[1] == 1


def test_partial_fit_of_one_class_at_a_time():
    model = quick(SequenceClassifier).partial_fit(X[:5], ["a"] * 5, classes=["c", "a", "b"])
    assert model.partial_fit(X[5:], ["b"] * 35).predict_proba(X).shape == (40, 3)
    mean = model.mean_
    model.partial_fit([x + 100 for x in X], ["c"] * 40)
    np.testing.assert_array_equal(model.mean_, mean)


def test_fit_begins_anew():
    model = quick(SequenceRegressor).fit(ragged(features=2), LAST)
    model.partial_fit(ragged(features=2), LAST).fit(X, LAST)
    assert model.n_features_in_ == 3 and model.n_iter_ == 5
    assert same(model.network_.params, quick(SequenceRegressor).fit(X, LAST).network_.params)


def test_dropout_acts_on_one_layer_too_and_in_training_alone():
    models = [quick(SequenceRegressor, dropout=p).fit(X, LAST) for p in (0, 0.5, 1)]
    assert not same(models[0].network_.params, models[1].network_.params)
    assert same(models[1].predict(X), models[1].predict(X))
    network = models[1].network_
    h, keep = network._dropped(np.ones((200, 50), np.float32))
    assert set(np.unique(h)) == {0, 2} and h.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(h, keep)


def test_clipping_bounds_a_step():
    free, bound = (quick(SequenceRegressor, clip_norm=norm).fit(X, LAST) for norm in (None, 1e-3))
    assert not same(free.network_.params, bound.network_.params)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_lent(fails, monkeypatch):
    seen = []
    epoch = Network.epoch

    def spy(self, *args):
        seen.append(fastrnn.get_num_threads())
        if fails:
            raise KeyboardInterrupt
        return epoch(self, *args)

    monkeypatch.setattr(Network, "epoch", spy)
    before = fastrnn.get_num_threads()
    for n_jobs in (None, 3, 1000):
        try:
            quick(SequenceRegressor, max_epochs=1, n_jobs=n_jobs).fit(X, LAST).predict(X)
        except KeyboardInterrupt:
            assert fails
        assert fastrnn.get_num_threads() == before
    assert seen == [1, 3, 64]


# -- scores and progress ---------------------------------------------------------------------------------------------


@each_task
def test_scores_are_scikit_learns(kind, y, options):
    model = quick(kind, **options).fit(X, y)
    metric = accuracy_score if kind is SequenceClassifier else r2_score
    weight = np.linspace(0, 2, 40)
    found, truth, weights = model.predict(X), y, weight
    if options:
        found, truth, weights = np.concatenate(found), np.concatenate(y), np.repeat(weight, [len(x) for x in X])
    assert model.score(X, y) == metric(truth, found)
    assert model.score(X, y, sample_weight=weight) == metric(truth, found, sample_weight=weights)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}])
def test_verbose_shows_loss_and_score(options, capsys):
    quick(SequenceClassifier, verbose=True, max_epochs=3, **options).fit(X, SIGNS)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "SequenceClassifier" in shown.err and "loss=" in shown.err and "score=" in shown.err and "3/3" in shown.err
    quick(SequenceClassifier).fit(X, SIGNS)
    assert capsys.readouterr().err == ""


def test_the_score_shown_is_the_training_set_s(monkeypatch):
    shown = []

    class Bar(list):
        def __init__(self, items, **texts):
            super().__init__(items)

        def set_postfix(self, **figures):
            shown.append(figures)

    monkeypatch.setattr(_network, "progress_bar", lambda: Bar)
    model = quick(SequenceRegressor, verbose=True).fit(X, LAST)
    assert len(shown) == 5
    assert shown[-1] == {"loss": f"{model.loss_curve_[-1]:.4f}", "score": f"{model.score(X, LAST):.4f}"}


@pytest.mark.parametrize("missing", ["sklearn", "joblib"])
def test_missing_scikit_learn_is_named(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import fastrnn.sklearn"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"ImportError: fastrnn.sklearn needs {missing}" in done.stderr
    assert 'pip install "fastrnn[sklearn]"' in done.stderr


def test_missing_tqdm_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    model = quick(SequenceRegressor, verbose=True)
    with pytest.raises(ImportError, match=r'verbose: needs tqdm: pip install "fastrnn\[sklearn\]"'):
        model.fit(X, LAST)
    assert not hasattr(model, "network_")
    model.set_params(verbose=False).fit(X, LAST)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cell": "cnn"}, ValueError, "cell: needs one of 'rnn', 'lstm', 'gru', got 'cnn'"),
        ({"cell": None}, TypeError, "cell: needs one of"),
        ({"hidden_size": 0}, ValueError, "hidden_size: needs an integer >= 1, got 0"),
        ({"hidden_size": 8.0}, TypeError, "hidden_size: needs an integer, got 8.0"),
        ({"num_layers": 0}, ValueError, "num_layers: needs an integer >= 1, got 0"),
        ({"bidirectional": 1}, TypeError, "bidirectional: needs True or False, got 1"),
        ({"dropout": 1.5}, ValueError, "dropout: needs a finite number >= 0 and <= 1, got 1.5"),
        ({"lr": 0}, ValueError, "lr: needs a finite number > 0, got 0"),
        ({"lr": "auto"}, TypeError, "lr: needs a number, got 'auto'"),
        ({"batch_size": 0}, ValueError, "batch_size: needs an integer >= 1, got 0"),
        ({"max_epochs": 0}, ValueError, "max_epochs: needs an integer >= 1, got 0"),
        ({"clip_norm": 0}, ValueError, "clip_norm: needs a finite number > 0, got 0"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping: needs True or False, got 'yes'"),
        ({"validation_fraction": 1}, ValueError, "validation_fraction: needs a finite number > 0 and < 1, got 1"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change: needs an integer >= 1, got 0"),
        ({"per_step": None}, TypeError, "per_step: needs True or False, got None"),
        ({"random_state": "lucky"}, ValueError, r"random_state: needs an int in 0..2\*\*32 - 1, .*, got 'lucky'"),
        ({"random_state": -1}, ValueError, "random_state: needs .*, got -1"),
        (
            {"random_state": np.random.default_rng(0)},
            ValueError,
            "random_state: needs .* a RandomState or None, got Gen",
        ),
        ({"n_jobs": 0}, ValueError, "n_jobs: needs an integer other than 0 or None, got 0"),
        ({"n_jobs": 1.5}, TypeError, "n_jobs: needs an integer, got 1.5"),
        ({"verbose": "no"}, TypeError, "verbose: needs an integer, got 'no'"),
        ({"verbose": np.ones(2)}, TypeError, "verbose: needs an integer, got ndarray"),
    ],
)
def test_bad_parameters(options, error, message):
    model = quick(SequenceRegressor, **options)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(error, match=message):
            method(X, LAST)
    assert not hasattr(model, "network_")


NOT_FINITE = [*X[:39], np.full((2, 3), np.nan)]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "X: needs at least one sequence, got none"),
        ([1.0] * 40, ValueError, r"X\[0\]: needs an array whose first axis is time, got 1.0"),
        ([*X[:39], 7], ValueError, r"X\[39\]: needs an array whose first axis is time, got 7"),
        (
            [*X[:39], np.zeros((4, 2))],
            ValueError,
            r"X\[39\]: needs shape \(T, ...\) with ... = \(3,\) like X\[0\], got",
        ),
        ([*X[:39], np.zeros(4)], ValueError, r"X\[39\]: needs shape"),
        ([*X[:39], np.zeros((0, 3))], ValueError, r"X\[39\]: needs at least one step, got none"),
        ([*X[:39], [[1, 2, 3], [4]]], TypeError, r"X\[39\]: needs an array, got list"),
        ([np.zeros((2, 3, 4))] * 40, ValueError, r"X: needs sequences of shape \(T, I\) or \(T,\), got 3 axes each"),
        (np.zeros((40, 2, 3, 4)), ValueError, r"X: needs sequences of shape \(T, I\) or \(T,\), got 3 axes each"),
        ([np.zeros((2, 0))] * 40, ValueError, r"0 feature\(s\)"),
        (np.zeros((40, 2, 0)), ValueError, r"0 feature\(s\)"),
        (np.zeros((40, 0, 2)), ValueError, r"X\[0\]: needs at least one step, got none"),
        (np.zeros(40), ValueError, "Expected 2D array, got 1D array instead"),
        (NOT_FINITE, ValueError, "Input X contains NaN"),
        ([x.astype(complex) for x in X], ValueError, "Complex data not supported"),
        ([x.astype(str) for x in X[:39]] + [np.array([["a", "b", "c"]])], ValueError, "could not convert string"),
        (None, ValueError, "Expected 2D array, got scalar array instead"),
        ("words", ValueError, "could not convert string to float"),
        (X[:39], ValueError, r"inconsistent numbers of samples: \[39, 40\]"),
    ],
)
def test_bad_sequences(data, error, message):
    model = quick(SequenceRegressor)
    with pytest.raises(error, match=message):
        model.fit(data, LAST)
    assert not hasattr(model, "network_")


@pytest.mark.parametrize(
    ("kind", "y", "message"),
    [
        (SequenceRegressor, None, "SequenceRegressor requires y to be passed, but the target y is None"),
        (SequenceClassifier, None, "SequenceClassifier requires y to be passed, but the target y is None"),
        (SequenceRegressor, np.append(LAST[1:], np.inf), "Input y contains infinity"),
        (SequenceRegressor, SIGNS, "could not convert string to float"),
        (SequenceRegressor, np.zeros((40, 2, 2)), "Found array with dim 3"),
        (SequenceClassifier, LAST, "Unknown label type: continuous"),
        (SequenceClassifier, np.zeros((40, 2)), "y should be a 1d array"),
    ],
)
def test_bad_targets(kind, y, message):
    with pytest.raises(ValueError, match=message):
        quick(kind).fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LAST, r"y: needs an array for each sequence, got shape \(40,\)"),
        (list(LAST), r"y\[0\]: needs an array whose first axis is time"),
        ([x[:, 0] for x in X[1:]], "y: needs 40 sequences like X, got 39"),
        ([x[1:, 0] for x in X], r"y\[0\]: needs \d steps like X\[0\], got \d"),
    ],
)
def test_bad_targets_per_step(y, message):
    with pytest.raises(ValueError, match=message):
        quick(SequenceRegressor, per_step=True).fit(X, y)


def test_bad_input_leaves_what_was_learned():
    model = quick(SequenceClassifier).fit(X, SIGNS)
    before = [array.copy() for array in model.network_.params]
    for bad in (
        lambda: model.fit(NOT_FINITE, SIGNS),
        lambda: model.fit(X, LAST),
        lambda: model.partial_fit(X, np.full(40, "sideways")),
        lambda: model.partial_fit(X, SIGNS, classes=["up"]),
        lambda: model.partial_fit(ragged(features=2), SIGNS),
        lambda: model.set_params(per_step=True).partial_fit(X, [np.full(len(x), "up") for x in X]),
    ):
        with pytest.raises(ValueError):
            bad()
    assert same(model.network_.params, before) and model.n_iter_ == 5
    np.testing.assert_array_equal(model.classes_, ["down", "up"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.predict(ragged(features=2)), "X has 2 features, but SequenceClassifier is expecting 3"),
        (lambda model: model.predict(NOT_FINITE), "Input X contains NaN"),
        (lambda model: model.partial_fit(X, np.full(40, "left")), r"y: needs labels in classes = .*, got \['left'\]"),
        (lambda model: model.partial_fit(X, SIGNS, ["up"]), "classes: needs those of the first call"),
    ],
)
def test_bad_input_later(call, message):
    with pytest.raises(ValueError, match=message):
        call(quick(SequenceClassifier).fit(X, SIGNS))


def test_partial_fit_needs_to_know_all_classes():
    model = quick(SequenceClassifier)
    with pytest.raises(ValueError, match="classes: needs all labels in the first call of partial_fit, got None"):
        model.partial_fit(X, SIGNS)
    with pytest.raises(ValueError, match="y: needs labels in classes"):
        model.partial_fit(X, SIGNS, classes=["up"])
    assert not hasattr(model, "network_")


def test_partial_fit_needs_the_same_targets():
    model = quick(SequenceRegressor).fit(X, LAST)
    with pytest.raises(ValueError, match=r"y: needs targets of shape \(\) as before, got \(2,\)"):
        model.partial_fit(X, np.stack([LAST, LAST], axis=1))


def test_divergence_is_an_error():
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="lr: needs a smaller rate, got 1e"):
        quick(SequenceRegressor, lr=1e38, max_epochs=50).fit(X, LAST)


# -- beneath ---------------------------------------------------------------------------------------------------------


class Recorder:
    """An optimizer that only looks."""

    def step(self, grad):
        self.grad = grad.copy()


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_the_network(cell, bidirectional, per_step):
    """Along the gradient the loss rises by its squared norm."""
    data = Sequences.of("X", X[:9])
    data = data.scaled(*moments("X", data.steps))
    layer = CELLS[cell](3, 6, 2, bidirectional=bidirectional, seed=0)
    network = Network(layer, 3, cross_entropy, per_step)
    network.optimizers = [Recorder(), Recorder()]
    batch = data.batch(data.batches(np.arange(9), 9)[0], per_step)
    labels = np.arange(len(batch.at)) % 3

    def loss():
        return network._step(batch, labels, None)

    loss()
    for array, grad in zip(network.params, [optimizer.grad for optimizer in network.optimizers], strict=True):
        start = array.copy()
        step = 1e-2 / np.linalg.norm(grad)
        rises = []
        for sign in (1, -1):
            array[...] = start + sign * step * grad
            rises.append(loss())
        array[...] = start
        assert (rises[0] - rises[1]) / (2 * step) == pytest.approx(float(grad @ grad), rel=1e-2)


@pytest.mark.parametrize(
    ("loss", "targets"), [(cross_entropy, np.array([2, 0, 1, 1])), (squared_error, np.arange(12.0).reshape(4, 3))]
)
def test_gradients_of_the_losses(loss, targets):
    z = np.random.default_rng(0).standard_normal((4, 3))
    grad = loss(z, targets)[1]
    for index in np.ndindex(z.shape):
        shift = np.zeros_like(z)
        shift[index] = 1e-6
        slope = (loss(z + shift, targets)[0] - loss(z - shift, targets)[0]) / 2e-6
        assert slope == pytest.approx(grad[index], abs=1e-6)


def test_losses_are_scikit_learns():
    z, labels = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 3
    assert cross_entropy(z, labels)[0] == pytest.approx(log_loss(labels, softmax(z)))
    assert cross_entropy(np.array([[0.0, 1e4]]), np.array([0]))[0] > 80  # finite, though the probability is 0


def test_a_row_of_the_head_has_its_own_bits():
    rng = np.random.default_rng(0)
    for features, outputs in ((1, 1), (7, 1), (33, 2), (128, 9)):
        head = Dense(features, outputs, rng)
        h = rng.standard_normal((50, features)).astype(np.float32)
        whole = head(h)
        np.testing.assert_allclose(whole, h @ head.weight.T + head.bias, rtol=1e-4, atol=1e-5)
        assert all(np.array_equal(head(h[i:j]), whole[i:j]) for i, j in ((0, 1), (3, 20), (49, 50)))


@pytest.mark.parametrize(("n", "size"), [(1, 16), (16, 16), (17, 16), (270, 16), (100, 1), (33, 7)])
def test_batches_hold_every_row_once(n, size):
    data = Sequences.of("X", ragged(n, longest=50))
    rng = np.random.default_rng(0)
    for batches in (data.batches(np.arange(n), size), data.batches(np.arange(n), size, rng)):
        assert len(batches) == -(-n // size)
        assert max(map(len, batches)) <= size
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))
        assert all((np.diff(data.lengths[rows]) <= 0).all() for rows in batches)


def test_batches_are_mixed_anew_and_of_similar_length():
    data = Sequences.of("X", ragged(256, longest=100))
    rng, rows = np.random.default_rng(0), np.arange(256)
    first, second = (data.batches(rows, 16, rng) for _ in range(2))
    assert {frozenset(batch) for batch in first}.isdisjoint(frozenset(batch) for batch in second)
    spread = np.mean([np.ptp(data.lengths[batch]) for batch in first])
    assert spread < 0.4 * np.mean([np.ptp(data.lengths[k : k + 16]) for k in range(0, 256, 16)])


def test_a_batch_is_padded_behind_the_real_steps():
    data = Sequences.of("X", X[:7])
    rows = data.batches(np.arange(7), 7)[0]
    batch, per_step = data.batch(rows, per_step=False), data.batch(rows, per_step=True)
    assert batch.x.shape == (max(map(len, X[:7])), 7, 3)
    for column, row in enumerate(rows):
        np.testing.assert_array_equal(batch.x[: len(X[row]), column], X[row])
    np.testing.assert_array_equal(batch.at, rows)
    np.testing.assert_array_equal(data.steps[per_step.at], batch.x[batch.real])
    np.testing.assert_array_equal(
        data.places(rows[:2], True), np.concatenate([np.arange(len(X[k])) + data.starts[k] for k in rows[:2]])
    )
