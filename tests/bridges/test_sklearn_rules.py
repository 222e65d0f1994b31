# SPDX-License-Identifier: MIT
"""scikit-learn's rules: its own checks of estimators, and its tools at work on ours."""

from __future__ import annotations

import copy
import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, get_tags
from sklearn.utils.estimator_checks import check_estimator

from fastrnn.sklearn import SequenceClassifier, SequenceRegressor

BOTH = (SequenceClassifier, SequenceRegressor)
COLUMNS = "the columns of a 2-D X are steps of one feature, of which there may be more or fewer next time"
FAILING = {  # all for wanting as many columns as in fit
    "check_n_features_in": COLUMNS,
    "check_n_features_in_after_fitting": COLUMNS,
    "check_estimators_partial_fit_n_features": COLUMNS,
}
FAILING_OF_CLASSIFIERS = {**FAILING, "check_classifiers_train": COLUMNS}
NEEDS_MORE = {"check_array_api_input"}  # SCIPY_ARRAY_API=1 before SciPy is imported; with it the check passes


class Rows:
    """A 2-D X taken for n sequences of one step instead, so that its columns are features."""

    def _sequences(self, X, features=None):
        return super()._sequences(check_array(X, estimator=self)[:, np.newaxis], features)


class RowClassifier(Rows, SequenceClassifier):
    pass


class RowRegressor(Rows, SequenceRegressor):
    pass


# -- its checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        (SequenceClassifier, FAILING_OF_CLASSIFIERS),
        (SequenceRegressor, FAILING),
        (RowClassifier, {}),
        (RowRegressor, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_estimator_checks(kind, failing):
    """All pass but those listed, and those listed fail."""
    results = check_estimator(kind(hidden_size=24), expected_failed_checks=failing, on_fail=None, on_skip=None)
    found = {}
    for result in results:
        found.setdefault(result["status"], {})[result["check_name"]] = result["exception"]
    assert not found.get("failed")
    assert set(found.get("xfail", {})) == set(failing)
    assert not set(failing) & set(found["passed"])
    assert set(found.get("skipped", {})) <= NEEDS_MORE
    assert len(found["passed"]) > 40


# -- its tools -------------------------------------------------------------------------------------------------------


def ragged(n=60, features=2, seed=0):
    """Sequences of 3 to 9 steps."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((T, features)) for T in rng.integers(3, 10, n)]


def quick(kind, **options):
    return kind(hidden_size=8, max_epochs=8, random_state=0, **options)


X = ragged()
SIGNS = np.array(["up" if x[-1, 0] > 0 else "down" for x in X])
LAST = np.array([x[-1, 0] for x in X])
STEPS = [np.where(x[:, 0] > 0, "up", "down") for x in X]


def test_tags():
    assert all(get_tags(kind()).input_tags.three_d_array for kind in BOTH)


@pytest.mark.parametrize("kind", BOTH)
def test_parameters_are_stored_and_cloned(kind):
    options = {"cell": "lstm", "hidden_size": 7, "num_layers": 2, "dropout": 0.1, "clip_norm": None, "verbose": 1}
    model = kind(**options)
    assert options.items() <= model.get_params().items()
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(lr=0.5).lr == 0.5
    assert vars(kind()) == kind().get_params()


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_is_known_before_fit(kind):
    for method in (name for name in ("predict", "predict_proba") if hasattr(kind, name)):
        with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
            getattr(kind(), method)(X)
    with pytest.raises(NotFittedError):
        kind().score(X, LAST)


@pytest.mark.parametrize("kind", BOTH)
def test_clone_of_the_fitted_is_as_new(kind):
    model = quick(kind).fit(X, SIGNS if kind is SequenceClassifier else LAST)
    assert not [name for name in vars(clone(model)) if name.endswith("_")]


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("twin", [through_pickle, through_joblib, copy.deepcopy])
@pytest.mark.parametrize(("kind", "y"), [(SequenceClassifier, SIGNS), (SequenceRegressor, LAST)])
def test_a_copy_goes_on_as_the_original_would(kind, y, twin):
    """Weights, Adam's means and the state of the random numbers all travel, and nothing is shared."""
    model = quick(kind, dropout=0.2).fit(X, y)
    other = twin(model)
    before = model.predict(X)
    np.testing.assert_array_equal(other.predict(X), before)
    other.partial_fit(X, y).partial_fit(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    model.partial_fit(X, y).partial_fit(X, y)
    for ours, theirs in zip(model.network_.params, other.network_.params, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.loss_curve_ == other.loss_curve_


def test_cross_validation_of_lists():
    scores = cross_val_score(quick(SequenceClassifier, lr=0.03), X, SIGNS, cv=3, error_score="raise")
    assert scores.shape == (3,) and scores.mean() > 0.7
    found = cross_val_predict(quick(SequenceClassifier), X, SIGNS, cv=3, method="predict_proba")
    assert found.shape == (60, 2)


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc", "f1_macro"])
def test_other_scores(scoring):
    y = (LAST > 0).astype(int)
    assert np.isfinite(
        cross_val_score(quick(SequenceClassifier), X, y, cv=2, scoring=scoring, error_score="raise")
    ).all()


def test_cross_validation_per_step():
    scores = cross_val_score(quick(SequenceClassifier, per_step=True, lr=0.03), X, STEPS, cv=3, error_score="raise")
    assert scores.shape == (3,) and scores.mean() > 0.8


def test_grid_search_in_processes():
    grid = {"cell": ["gru", "rnn"], "hidden_size": [2, 8]}
    search = GridSearchCV(quick(SequenceRegressor, lr=0.03), grid, cv=2, n_jobs=2, error_score="raise").fit(X, LAST)
    alone = GridSearchCV(quick(SequenceRegressor, lr=0.03), grid, cv=2, error_score="raise").fit(X, LAST)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.predict(X).shape == (60,)


def differences(X):
    """Each step's change since the step before."""
    return [np.diff(x, axis=0) for x in X]


def test_pipeline_of_lists():
    plain = quick(SequenceRegressor).fit(differences(X), LAST)
    pipe = make_pipeline(FunctionTransformer(differences), quick(SequenceRegressor)).fit(X, LAST)
    np.testing.assert_array_equal(pipe.predict(X), plain.predict(differences(X)))
    assert pipe.score(X, LAST) == plain.score(differences(X), LAST)
    assert pipe.set_params(sequenceregressor__hidden_size=3)[-1].hidden_size == 3


def test_inside_other_estimators():
    y = np.stack([LAST, -LAST], axis=1)
    model = MultiOutputRegressor(quick(SequenceRegressor)).fit(np.stack([x[-3:] for x in X]), y)
    assert model.predict(np.stack([x[-3:] for x in X])).shape == (60, 2)


# -- what other libraries lay out ------------------------------------------------------------------------------------


def test_frames_of_dates_are_no_numbers():
    days = pd.DataFrame({"a": pd.date_range("2020", periods=60), "b": pd.date_range("2021", periods=60)})
    for frame in (days, days - days.iloc[0]):
        with pytest.raises(TypeError, match="y: needs numbers, got dtype "):
            quick(SequenceRegressor).fit(X, frame)
        for kind in BOTH:
            with pytest.raises(TypeError, match="X: needs numbers, got dtype "):
                quick(kind).fit(frame, LAST)


def test_what_torch_will_not_make_an_array_is_named():
    tensor = torch.zeros(60, 3, 2, requires_grad=True)
    with pytest.raises(TypeError, match=r"^X: needs sequences of numbers, got Tensor"):
        quick(SequenceRegressor).fit(tensor, LAST)
    with pytest.raises(TypeError, match=r"^y: needs a target for each sequence, got Tensor"):
        quick(SequenceRegressor).fit(X, tensor[:, 0, 0])
