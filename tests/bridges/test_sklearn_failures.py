# SPDX-License-Identifier: MIT
"""The estimators where things go wrong: what is refused and by which name, and what is left as it was.

n sequences, T time steps, I input size.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from threading import Event, Thread, current_thread

import numpy as np
import pytest
from test_robustness import forks, in_a_child

import fastrnn
from fastrnn._network import LentSetting, Network, blas, lend_threads, one_blas_thread
from fastrnn.sklearn import SequenceClassifier, SequenceRegressor

BOTH = (SequenceClassifier, SequenceRegressor)
rng = np.random.default_rng(0)
X = [rng.standard_normal((T, 2)) for T in rng.integers(1, 9, 30)]
WIDER = [np.c_[x, x] for x in X]
SIGNS = np.array(["up" if x[-1, 0] > 0 else "down" for x in X])
LAST = np.array([x[-1, 0] for x in X])
Y = dict(zip(BOTH, (SIGNS, LAST), strict=True))
OTHER = {SequenceClassifier: np.arange(30) % 3, SequenceRegressor: np.stack([LAST, LAST], axis=1)}


def quick(kind, **options):
    return kind(**{"hidden_size": 4, "max_epochs": 2, "random_state": 0, **options})


def known(model):
    """All that a model is, in values of its own."""
    values = copy.deepcopy({name: value for name, value in vars(model).items() if name != "network_"})
    if hasattr(model, "network_"):
        arrays = [array for optimizer in model.network_.optimizers for array in (optimizer._m, optimizer._v)]
        values["network_"] = [array.copy() for array in (*model.network_.params, *arrays)]
        values["rng"] = model.network_.layer.rng.bit_generator.state
    return values


def unchanged(model, before):
    after = known(model)
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, err_msg=name)
    return True


# -- what was learned, after a failure ---------------------------------------------------------------------------------


class Failing:
    """``Network.epoch`` for a time, then an error from the midst of it."""

    def __init__(self, monkeypatch, error, after):
        self.error, self.after, self.epoch = error, after, Network.epoch
        monkeypatch.setattr(Network, "epoch", lambda network, *args: self(network, *args))

    def __call__(self, network, *args):
        loss = self.epoch(network, *args)
        self.after -= 1
        if self.after < 0:
            raise self.error
        return loss


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError("any")])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", BOTH)
def test_a_fit_that_fails_leaves_all_as_it_was(kind, early_stopping, error, monkeypatch):
    model = quick(kind).fit(X, Y[kind])
    before, options = known(model), {"early_stopping": early_stopping, "validation_fraction": 0.3, "cell": "rnn"}
    Failing(monkeypatch, error, after=1)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        model.set_params(**options).fit(WIDER, OTHER[kind])
    assert unchanged(model, {**before, **options})


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("kind", BOTH)
def test_a_partial_fit_that_fails_leaves_all_as_it_was(kind, error, monkeypatch):
    model, new = quick(kind, dropout=0.5).fit(X, Y[kind]), quick(kind)
    more = {"classes": ["up", "down"]} if kind is SequenceClassifier else {}
    before, fresh = known(model), known(new)
    Failing(monkeypatch, error, after=0)
    with pytest.raises(error):
        model.partial_fit(X, Y[kind])
    with pytest.raises(error):
        new.partial_fit(X, Y[kind], **more)
    assert unchanged(model, before) and unchanged(new, fresh)


@pytest.mark.parametrize("kind", BOTH)
def test_divergence_leaves_all_as_it_was(kind):
    model = quick(kind).fit(X, Y[kind]).set_params(lr=1e38, clip_norm=None, max_epochs=50)
    before = known(model)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="lr: needs a smaller rate"):
        model.fit(X, Y[kind])
    assert unchanged(model, before)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="lr: needs a smaller rate"):
        for _ in range(50):
            before = known(model)
            model.partial_fit(X, Y[kind])
    assert unchanged(model, before) and model.network_.finite()


def test_weights_that_are_not_finite_are_divergence_though_the_loss_is(monkeypatch):
    def epoch(network, *args):
        network.head.flat[0] = np.nan
        return 0.5

    monkeypatch.setattr(Network, "epoch", epoch)
    with pytest.raises(
        ValueError, match=r"lr: needs a smaller rate, got 0.01: after 1 epochs not all weights are finite"
    ):
        quick(SequenceRegressor).fit(X, LAST)


@pytest.mark.parametrize("kind", BOTH)
def test_sizes_beyond_all_memory_leave_all_as_it_was(kind):
    model = quick(kind).fit(X, Y[kind]).set_params(hidden_size=10**12)
    new, before = quick(kind, hidden_size=10**12), known(model)
    with pytest.raises(ValueError, match="hidden_size"):
        model.fit(WIDER, OTHER[kind])
    with pytest.raises(ValueError, match="hidden_size"):
        new.fit(X, Y[kind])
    assert unchanged(model, before) and vars(new) == new.get_params()
    more = {"classes": ["up", "down"]} if kind is SequenceClassifier else {}
    assert new.set_params(hidden_size=4).partial_fit(X, Y[kind], **more).n_iter_ == 1


# -- threads -----------------------------------------------------------------------------------------------------------


BITS = """
import sys
import numpy as np
from fastrnn.sklearn import SequenceClassifier
for hidden_size, per_step, shape in ((64, True, (16, 100)), (256, True, (30, 60)), (200, False, (600, 4))):
    X = np.random.default_rng(0).standard_normal((*shape, 3))
    y = np.arange(X[..., 0].size).reshape(shape) % 60 if per_step else np.arange(shape[0]) % 60
    model = SequenceClassifier(hidden_size=hidden_size, per_step=per_step, batch_size=600, max_epochs=1, random_state=0)
    sys.stdout.buffer.write(model.fit(X, y).network_.layer.flat_params.tobytes() + model.network_.head.flat.tobytes())
"""


def test_the_threads_of_blas_do_not_change_a_bit():
    found = []
    for count in "12":
        environment = {**os.environ, **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)}
        found.append(subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, check=True))
    assert len({done.stdout for done in found}) == 1 and len(found[0].stdout) > 10**6


def test_blas_has_one_thread_while_a_network_learns(monkeypatch):
    counts, epoch = [], Network.epoch

    def spy(network, *args):
        counts.append([library.get_num_threads() for library in blas()])
        return epoch(network, *args)

    monkeypatch.setattr(Network, "epoch", spy)
    before = [library.get_num_threads() for library in blas()]
    quick(SequenceRegressor).fit(X, LAST).partial_fit(X, LAST)
    assert counts == [[1] * len(before)] * 3
    assert [library.get_num_threads() for library in blas()] == before


def test_one_blas_thread_is_put_back_after_an_error():
    before = [library.get_num_threads() for library in blas()]
    with pytest.raises(ValueError), one_blas_thread():
        raise ValueError
    assert [library.get_num_threads() for library in blas()] == before


def test_what_several_borrow_the_last_puts_back():
    values = ["own"]
    lend = LentSetting(lambda: values[-1], values.append)
    first, second = lend("first"), lend("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert values == ["own", "first", "second"]
    second.__exit__(None, None, None)
    assert values == ["own", "first", "second", "own"]
    with pytest.raises(KeyboardInterrupt), lend("third"):
        raise KeyboardInterrupt
    assert values[-2:] == ["third", "own"]


def test_what_an_interrupt_keeps_from_being_lent_is_put_back():
    values = ["own"]

    def write(value):
        values.append(value)
        if value == "lent":
            raise KeyboardInterrupt

    lend = LentSetting(lambda: values[-1], write)
    with pytest.raises(KeyboardInterrupt), lend("lent"):
        raise AssertionError("lent")
    assert values == ["own", "lent", "own"] and not lend.users


@forks
def test_to_a_forked_child_nothing_is_lent():
    """Whoever has it, or the lock, in the parent."""
    before = fastrnn.get_num_threads()
    lent = lend_threads(1)

    def child(leave=True):
        assert fastrnn.get_num_threads() == 3
        if leave:
            lent.__exit__(None, None, None)
        fastrnn.set_num_threads(2)
        with lend_threads(1):
            assert fastrnn.get_num_threads() == 1
        assert fastrnn.get_num_threads() == 2

    try:
        fastrnn.set_num_threads(3)
        with lend_threads.lock:
            assert in_a_child(lambda: child(leave=False))
        with lent:
            assert in_a_child(lambda: child(leave=False))
            assert in_a_child(child)
            assert fastrnn.get_num_threads() == 1
        assert fastrnn.get_num_threads() == 3
    finally:
        fastrnn.set_num_threads(before)


def test_fits_side_by_side_put_the_threads_back(monkeypatch):
    """One comes while the other learns, and stays longer."""
    before, first_in, second_in, first_out = fastrnn.get_num_threads(), Event(), Event(), Event()
    epoch = Network.epoch

    def slow(network, *args):
        first = current_thread().name == "first"
        (first_in if first else second_in).set()
        assert (second_in if first else first_out).wait(60)
        return epoch(network, *args)

    monkeypatch.setattr(Network, "epoch", slow)
    first, second = (
        Thread(target=quick(SequenceRegressor, n_jobs=1).fit, args=(X, LAST), name=name) for name in ("first", "second")
    )
    try:
        fastrnn.set_num_threads(2)
        first.start()
        assert first_in.wait(60)
        second.start()
        first.join()
        first_out.set()
        second.join()
        assert fastrnn.get_num_threads() == 2
    finally:
        fastrnn.set_num_threads(before)


# -- scores ------------------------------------------------------------------------------------------------------------


STEPS = [x[:, 0] for x in X]


def test_a_score_per_step_needs_the_steps_of_each_sequence():
    model = quick(SequenceRegressor, per_step=True).fit(X, STEPS)
    k = next(k for k in range(1, 30) if len(X[k]) != len(X[0]))
    swapped = [STEPS[k], *STEPS[1:k], STEPS[0], *STEPS[k + 1 :]]  # as many steps in all
    with pytest.raises(ValueError, match=rf"y\[0\]: needs {len(X[0])} steps like X\[0\], got {len(X[k])}"):
        model.score(X, swapped)
    with pytest.raises(ValueError, match="y: needs 30 sequences like X, got 29"):
        model.score(X, STEPS[1:])


@pytest.mark.parametrize(("y", "options"), [(LAST, {}), (STEPS, {"per_step": True})], ids=["", "per step"])
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones(3), ValueError, r"sample_weight: needs shape \(n,\) = \(30,\), got \(3,\)"),
        (np.ones((30, 1)), ValueError, r"sample_weight: needs shape \(n,\) = \(30,\), got \(30, 1\)"),
        (np.full(30, np.nan), ValueError, "Input sample_weight contains NaN"),
        (np.ma.array(np.ones(30)), TypeError, "sample_weight: needs a plain array, got a masked one"),
        (["a"] * 30, ValueError, r"sample_weight: needs a number for each sequence, got list \(could not"),
    ],
)
def test_weights_of_samples_that_do_not_fit(y, options, weight, error, message):
    with pytest.raises(error, match=message):
        quick(SequenceRegressor, **options).fit(X, y).score(X, y, sample_weight=weight)


# -- parameters, after fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: needs an integer >= 1, got 0"),
        ({"batch_size": "a"}, TypeError, "batch_size: needs an integer, got 'a'"),
        ({"n_jobs": "x"}, TypeError, "n_jobs: needs an integer, got 'x'"),
        ({"n_jobs": 0}, ValueError, "n_jobs: needs an integer other than 0 or None, got 0"),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_what_predicting_uses_is_checked(kind, options, error, message):
    model = quick(kind).fit(X, Y[kind]).set_params(**options)
    for method in (model.predict, getattr(model, "predict_proba", model.predict), lambda X: model.score(X, Y[kind])):
        with pytest.raises(error, match=message):
            method(X)


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_moments_beyond_all_floats_are_refused_by_name(size):
    large, wanted = [size * np.sign(x) for x in X], "needs numbers whose mean and deviation are finite, got magnitudes"
    with np.errstate(invalid="ignore"):  # scikit-learn sums them up
        for kind in BOTH:
            with pytest.raises(ValueError, match=f"X: {wanted}"):
                quick(kind).fit(large, Y[kind])
        with pytest.raises(ValueError, match=f"y: {wanted}"):
            quick(SequenceRegressor).fit(X, size * np.sign(LAST))


@pytest.mark.parametrize("kind", BOTH)
def test_values_beyond_float32_are_refused_by_name(kind):
    model = quick(kind).fit(X, Y[kind])
    before, large = known(model), [1e300 * x for x in X]
    message = r"X: needs numbers that float32 holds once standardised, got magnitudes up to .*e\+300"
    calls = [model.predict, lambda X: model.score(X, Y[kind]), lambda X: model.partial_fit(X, Y[kind])]
    for call in calls + ([model.predict_proba] if kind is SequenceClassifier else []):
        with pytest.raises(ValueError, match=message):
            call(large)
    if kind is SequenceRegressor:
        with pytest.raises(ValueError, match=message.replace("X", "y", 1)):
            model.partial_fit(X, 1e300 * LAST)
    assert unchanged(model, before)


def test_large_values_that_float32_holds_are_learned():
    y = 1e100 * LAST
    model = quick(SequenceRegressor).fit([x.astype(np.float32) * 1e37 for x in X], y)
    assert np.isfinite(model.predict(X)).all()


BLOCK = np.stack([x[:1] for x in X])
DAYS = [np.datetime64("2020-01-01") + np.arange(len(x))[:, np.newaxis] for x in X]
MASKED = "needs a plain array, got a masked one"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ma.array(BLOCK, mask=True), f"X: {MASKED}"),
        (np.ma.array(BLOCK), f"X: {MASKED}"),
        ([*X[:29], np.ma.array(X[29])], rf"X\[29\]: {MASKED}"),
        (DAYS, r"X: needs numbers, got dtype datetime64\[D\]"),
        (np.stack([days[:1] for days in DAYS]), r"X: needs numbers, got dtype datetime64\[D\]"),
        ([days - days[0] for days in DAYS], r"X: needs numbers, got dtype timedelta64\[D\]"),
        ([*X[:29], DAYS[0][:, [0, 0]]], "X: needs arrays of one kind, got several"),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_masks_and_dates_are_no_features(kind, data, message):
    model = quick(kind).fit(X, Y[kind])
    for call in (lambda X: quick(kind).fit(X, Y[kind]), model.predict):
        with pytest.raises(TypeError, match=message):
            call(data)


@pytest.mark.parametrize("kind", BOTH)
def test_masks_are_no_targets(kind):
    model, y = quick(kind).fit(X, Y[kind]), np.ma.array(Y[kind], mask=[1] + [0] * 29)
    for call in (model.fit, model.partial_fit, model.score):
        with pytest.raises(TypeError, match=f"y: {MASKED}"):
            call(X, y)
        with pytest.raises(TypeError, match=rf"y\[0\]: {MASKED}"):
            call(X, list(y))
    steps = quick(kind, per_step=True)
    for bad, name in (([np.ma.array(y) for y in STEPS], r"y\[0\]"), (np.ma.array(np.zeros((30, 1))), "y")):
        with pytest.raises(TypeError, match=f"{name}: {MASKED}"):
            steps.fit(X if isinstance(bad, list) else BLOCK, bad)


@pytest.mark.parametrize("unit", [np.datetime64("2020-01-01"), np.timedelta64(1, "D")])
def test_dates_among_objects_are_no_numbers(unit):
    """NumPy would take them for counts of their unit."""
    message = f"needs numbers, got {type(unit).__name__}"
    mixed = [[1.0, unit], [2.0, unit]]
    for data in ([mixed] * 30, [np.array(mixed, object)] * 30, np.array([mixed] * 30, object)):
        for kind in BOTH:
            with pytest.raises(TypeError, match=f"X: {message}"):
                quick(kind).fit(data, Y[kind])
    for y in ([1.0, unit] * 15, np.array([1.0, unit] * 15, object)):
        with pytest.raises(TypeError, match=f"y: {message}"):
            quick(SequenceRegressor).fit(X, y)


@pytest.mark.parametrize("lay_out", [np.asarray, list])
def test_dates_are_no_numbers(lay_out):
    y = lay_out(np.datetime64("2020-01-01") + np.arange(30))
    with pytest.raises(TypeError, match=r"y: needs numbers, got dtype datetime64\[D\]"):
        quick(SequenceRegressor).fit(X, y)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", BOTH)
def test_too_few_sequences_to_hold_some_out(kind, n):
    model = quick(kind, early_stopping=True, validation_fraction=0.9)
    message = rf"^validation_fraction: needs sequences to learn from and to hold out, got 0.9 of {n} \("
    with pytest.raises(ValueError, match=message):
        model.fit(X[:n], Y[kind][:n])
    assert vars(model) == model.get_params()


@pytest.mark.parametrize(
    ("data", "y", "error", "message"),
    [
        ((x for x in X), LAST, TypeError, r"X: needs sequences of numbers, got generator \("),
        (X, (t for t in LAST), TypeError, r"y: needs a target for each sequence, got generator \("),
        (X, STEPS, ValueError, r"y: needs a target for each sequence, got list \("),
        (X, np.array([*STEPS, None], object)[:30], ValueError, r"y: needs a target for each sequence, got ndarray \("),
    ],
    ids=["X generated", "y generated", "y per step", "vector of y per step"],
)
@pytest.mark.parametrize("kind", BOTH)
def test_what_scikit_learn_refuses_is_named(kind, data, y, error, message):
    with pytest.raises(error, match=f"^{message}"):
        quick(kind).fit(data, y)


class Series:
    """A vector of arrays that knows its items by label, as pandas' may: not by 0, 1, ..."""

    dtype, ndim = np.dtype(object), 1

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __getitem__(self, label):
        raise KeyError(label)


def test_items_are_counted_whatever_their_labels():
    model = quick(SequenceRegressor, per_step=True)
    with pytest.raises(ValueError, match=r"^X\[1\]: needs an array whose first axis is time, got 7"):
        model.fit(Series([X[0], 7]), STEPS[:2])
    with pytest.raises(ValueError, match=r"^y\[0\]: needs an array whose first axis is time, got 0.5"):
        model.fit(X[:2], Series([0.5, 7]))
    found, wanted = (model.fit(lay_out(X), lay_out(STEPS)).predict(lay_out(X)) for lay_out in (Series, list))
    np.testing.assert_equal(found, wanted)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (np.ma.array([0, 1, 2], mask=[0, 0, 1]), TypeError, MASKED),
        ([0, 1, np.nan], ValueError, "needs labels, got nan among them"),
        (np.array([0, 1, np.nan], object), ValueError, "needs labels, got nan among them"),
        ([[0, 1]], ValueError, r"needs labels along one axis, got \[\[0, 1\]\]"),
        ("ab", TypeError, "needs labels along one axis, got 'ab'"),
        ({0, 1}, TypeError, "needs labels along one axis, got {0, 1}"),
        ([[0], [0, 1]], TypeError, r"needs labels, got list \("),
    ],
)
def test_classes_are_labels_along_one_axis(classes, error, message):
    new, y = quick(SequenceClassifier), np.arange(30) % 2
    for model in (new, quick(SequenceClassifier).fit(X, y)):
        with pytest.raises(error, match=f"^classes: {message}"):
            model.partial_fit(X, y, classes=classes)
    assert vars(new) == new.get_params()


@pytest.mark.parametrize("other", [1, None])
def test_labels_are_of_one_kind(other):
    mixed = np.array(["up", other], object)[np.arange(30) % 2]
    model = quick(SequenceClassifier).fit(X, SIGNS)
    for call in (model.fit, model.partial_fit, model.score):
        with pytest.raises(TypeError, match="y: needs labels of one kind"):
            call(X, mixed)
    with pytest.raises(TypeError, match="classes: needs labels of one kind"):
        quick(SequenceClassifier).partial_fit(X, SIGNS, classes=np.array(["up", other], object))
