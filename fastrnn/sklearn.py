# SPDX-License-Identifier: MIT
"""scikit-learn's estimators over sequences: ``SequenceClassifier`` and ``SequenceRegressor``.

They stand between scikit-learn's rules and a ``Network``, which learns from batches of ``Sequences``.

n sequences, S steps of all of them, T time steps, I input size, K classes or targets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _check, config
from ._head import cross_entropy, softmax, squared_error
from ._network import CELLS, Learner, Network, check, lend_threads
from ._sequences import Sequences, moments, named, no_dates, separate, sorted_labels, standardised, unmasked

try:
    from joblib import effective_n_jobs
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import assert_all_finite, check_array, check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as problem:
    raise ImportError(f'fastrnn.sklearn needs {problem.name}: pip install "fastrnn[sklearn]"') from problem

__all__ = ["SequenceClassifier", "SequenceRegressor"]

FLOATS = (np.float64, np.float32)


class SequenceEstimator(Learner, BaseEstimator):
    """What ``SequenceClassifier`` and ``SequenceRegressor`` have in common.

    A recurrent network reads each sequence; a dense layer predicts from its final states or, with ``per_step``, from
    its output at every step. Adam and backpropagation through time train it, in float32, on features standardised over
    all steps. Sequences may differ in length. A 2-D X is n series of one feature: its columns are steps, of which there
    may be more or fewer next time.

    The defaults did best in a cross-validation on Japanese Vowels' training part: see
    ``benchmarks/sklearn_training.py``.

    Parameters
    ----------
    cell : {"gru", "lstm", "rnn"}
    hidden_size : int
        Units of each layer and direction.
    num_layers : int
        Recurrent layers, each reading the one before it.
    bidirectional : bool
        Whether a second set of units reads each sequence from its end. With ``per_step`` predictions then see the steps
        to come, too: not for forecasts.
    dropout : float
        Probability, in 0..1, of zeroing an output of any recurrent layer, the last one included, during training.
    lr : float
        Adam's learning rate; in ``fit`` it falls linearly, epoch by epoch, towards 0 after ``max_epochs``.
    batch_size : int
        At most so many sequences, of similar length, make a batch.
    max_epochs : int
        Passes over the training set.
    clip_norm : float or None
        Upper bound of the gradient's Euclidean norm; None for none.
    early_stopping : bool
        Whether to hold out a part of the sequences (the same part of each class, unless ``per_step``), to stop once the
        loss on it has not fallen for a while, and to keep the weights with which it was lowest.
    validation_fraction : float
        How large this part is, between 0 and 1.
    n_iter_no_change : int
        How many epochs this while is.
    per_step : bool
        Whether there is a target for each step rather than for each sequence.
    random_state : int, RandomState or None
        Draws the weights, the batches, the dropout and the part held out. The same int gives the same bits.
    n_jobs : int or None
        fastrnn's threads in ``fit`` and ``predict``, as joblib counts: None for 1 unless in a
        ``joblib.parallel_config``, -1 for all processors. The bits do not depend on it.
    verbose : bool or int
        Whether ``fit`` shows a bar (tqdm's) with the loss, and the score on what is held out or else on the training
        set.

    Attributes
    ----------
    n_features_in_ : int
        I, features of a step.
    mean_, scale_ : ndarray, shape (I,), float64
        Of the features, over all steps.
    network_ : Network
        ``network_.layer`` is fastrnn's RNN, LSTM or GRU, ``network_.head`` the dense layer. ``fit`` makes a new one,
        ``partial_fit`` a copy that has learned more.
    n_iter_ : int
        Epochs run.
    loss_curve_, validation_loss_curve_ : list of float
        The mean losses of each epoch, on the training set and on what is held out.
    """

    _loss: Callable[..., Any]  # of a network's outputs and encoded targets

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
        lr: float = 0.01,
        batch_size: int = 16,
        max_epochs: int = 30,
        clip_norm: float | None = 1.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        per_step: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.lr = lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.per_step = per_step
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    # -- learning --

    def fit(self, X: Any, y: Any) -> Any:
        """Learn anew.

        Parameters
        ----------
        X : n arrays, shapes (T, I) or (T,), in a list or vector; or one array, shape (n, T, I) or (n, T)
        y : array, or n arrays in a list or vector
            - Of a classifier labels, shape (n,).
            - Of a regressor numbers, shape (n,) or (n, K).
            - With ``per_step`` such for each step: n arrays, shapes (T,) or, of a regressor, (T, K); or one array,
              shape (n, T) or (n, T, K).

        Returns
        -------
        The estimator itself.

        Raises
        ------
        TypeError, ValueError
            Naming the argument. Whatever is raised, the estimator is then as it was before.
        """
        self._check_params()
        data = self._sequences(X)
        targets = self._targets(y, data)
        rng = self._generator()
        rows, held_out = self._parts(targets, data, rng)
        with self._learning():
            self._start(data, targets, rng)
            self._train(data.scaled(self.mean_, self.scale_), self._encoded(targets), rows, held_out)
        return self

    def _learn_once(self, X: Any, y: Any, known: np.ndarray | None) -> Any:
        """One epoch of ``partial_fit``; ``known`` is what the targets have to agree with."""
        self._check_params()
        started = hasattr(self, "network_")
        if started and self.per_step != self.network_.per_step:
            raise ValueError(f"per_step: needs {self.network_.per_step} as in the first call, got {self.per_step}")
        data = self._sequences(X, self.n_features_in_ if started else None)
        targets = self._targets(y, data, known)
        with self._learning():
            if started:
                self.network_, self.loss_curve_ = copy.deepcopy((self.network_, self.loss_curve_))
            else:
                self._start(data, targets if known is None else known, self._generator())
            rows = np.arange(len(data.lengths))
            self._epoch(data.scaled(self.mean_, self.scale_), self._encoded(targets), rows, float(self.lr))
        return self

    def _start(self, data: Sequences, known: np.ndarray, rng: np.random.Generator) -> None:
        """Set the attributes from the first data; ``known`` is what the targets are taken from."""
        self.n_features_in_ = data.steps.shape[1]
        self.mean_, self.scale_ = moments("X", data.steps)
        outputs = self._know(known)
        layer = CELLS[self.cell](
            self.n_features_in_,
            self.hidden_size,
            self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            seed=rng,
        )
        self.network_ = Network(layer, outputs, self._loss, self.per_step)
        self.n_iter_ = 0
        self.loss_curve_, self.validation_loss_curve_ = [], []

    def _parts(self, targets: np.ndarray, data: Sequences, rng: np.random.Generator) -> Any:
        """The rows to learn from and those held out."""
        rows = np.arange(len(data.lengths))
        if not self.early_stopping:
            return rows, rows[:0]
        classes = targets if is_classifier(self) and not self.per_step else None
        seed = int(rng.integers(2**31))
        try:
            share = float(self.validation_fraction)
            return train_test_split(rows, test_size=share, random_state=seed, stratify=classes)
        except ValueError as problem:
            wanted, found = "sequences to learn from and to hold out", f"{self.validation_fraction} of {len(rows)}"
            raise ValueError(f"validation_fraction: needs {wanted}, got {found} ({problem})") from None

    def _generator(self) -> np.random.Generator:
        try:
            state = check_random_state(self.random_state)
        except ValueError:
            wanted, found = "an int in 0..2**32 - 1, a RandomState or None", _check.text(self.random_state)
            raise ValueError(f"random_state: needs {wanted}, got {found}") from None
        return np.random.default_rng(state.randint(2**31 - 1))

    def _threads(self) -> int:
        return min(effective_n_jobs(self.n_jobs), config.MOST_THREADS)

    # -- predicting --

    def _outputs(self, X: Any) -> tuple[np.ndarray, Sequences]:
        """z, shape (n, K) or (S, K), and the sequences it is of."""
        check_is_fitted(self, "network_")
        for name in ("batch_size", "n_jobs"):
            check(name, getattr(self, name))
        data = self._sequences(X, self.n_features_in_).scaled(self.mean_, self.scale_)
        with lend_threads(self._threads()), np.errstate(all="ignore"):
            return self.network_.outputs(data, np.arange(len(data.lengths)), int(self.batch_size)), data

    def _shown(self, values: np.ndarray, data: Sequences) -> Any:
        """Results as the caller laid sequences out."""
        return data.split(values) if self.network_.per_step else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """A classifier's accuracy, a regressor's R^2: over sequences, or with ``per_step`` over all their steps.

        Parameters
        ----------
        X, y
            As for ``fit``.
        sample_weight : array, shape (n,), or None
            With ``per_step`` a sequence's weight is that of each of its steps.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            Naming the argument; before ``fit`` scikit-learn's ``NotFittedError``, a ValueError.
        """
        z, data = self._outputs(X)
        per_step, n = self.network_.per_step, len(data.lengths)
        y = self._targets(y, data, per_step=per_step)
        if sample_weight is not None:
            unmasked("sample_weight", sample_weight)
            with named("sample_weight", sample_weight, "a number for each sequence"):
                weight = check_array(sample_weight, dtype=FLOATS, ensure_2d=False, input_name="sample_weight")
            weight = _check.shaped("sample_weight", weight, "(n,)", (n,))
            sample_weight = np.repeat(weight, data.lengths) if per_step else weight
        return self._metric(y, self._predicted(z), sample_weight=sample_weight)

    # -- arguments --

    def _sequences(self, X: Any, features: int | None = None) -> Sequences:
        """X, its steps (S, I) numbers that are finite."""
        with named("X", X, "sequences of numbers"):
            if not separate(X):
                unmasked("X", X)
                no_dates("X", X)  # before they become numbers
                X = check_array(X, dtype=FLOATS, allow_nd=True, input_name="X", estimator=self)
            data = Sequences.of("X", X)
            steps = data.features("X")
            data.steps = check_array(steps, dtype=FLOATS, input_name="X", estimator=self)
        if features not in (None, steps.shape[1]):  # in the words that scikit-learn's own checks look for
            name, found = type(self).__name__, steps.shape[1]
            raise ValueError(f"X has {found} features, but {name} is expecting {features} features as input, each step")
        return data

    def _targets(self, y: Any, data: Sequences, known: Any = None, per_step: bool | None = None) -> np.ndarray:
        """A target for each sequence, or for each step, along one axis; ``known`` is what they have to agree with."""
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        per_step = self.per_step if per_step is None else per_step
        with named("y", y, f"a target for each {'step' if per_step else 'sequence'}"):
            if per_step:
                return self._checked(data.steps_of("y", y), known)
            unmasked("y", y)
            check_consistent_length(data.lengths, y)
            return self._checked(y, known)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """Names the class of a sequence, or of each of its steps, by a recurrent network under softmax and cross-entropy.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout, lr, batch_size, max_epochs, clip_norm, early_stopping, \
    validation_fraction, n_iter_no_change, per_step, random_state, n_jobs, verbose
        See ``SequenceEstimator``.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The labels, sorted.
    n_features_in_, mean_, scale_, network_, n_iter_, loss_curve_, validation_loss_curve_
        See ``SequenceEstimator``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((T, 2)) for T in rng.integers(5, 15, size=300)]
    >>> y = ["rise" if x[-1, 0] > x[0, 0] else "fall" for x in X]
    >>> model = SequenceClassifier(random_state=0).fit(X[:240], y[:240])
    >>> model.score(X[240:], y[240:]) > 0.8
    True
    """

    _loss = staticmethod(cross_entropy)
    _metric = staticmethod(accuracy_score)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Any:
        """Learn from X and y once, going on from what is known.

        Features stay standardised as the first call, or ``fit``, found them. ``early_stopping`` does not apply.

        Parameters
        ----------
        X, y
            As for ``fit``.
        classes : array, shape (K,), or None
            All labels that will ever be; the first call needs them.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        TypeError, ValueError
            Naming the argument. Whatever is raised, the estimator is then as it was before.
        """
        known = None if classes is None else sorted_labels("classes", classes)
        if hasattr(self, "network_"):
            if known is not None and not np.array_equal(known, self.classes_):
                raise ValueError(f"classes: needs those of the first call, {self.classes_}, or None, got {classes}")
            known = self.classes_
        if known is None:
            raise ValueError("classes: needs all labels in the first call of partial_fit, got None")
        return self._learn_once(X, y, known)

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class.

        Parameters
        ----------
        X
            As for ``fit``.

        Returns
        -------
        ndarray, shape (n, K), float64
            New. With ``per_step`` a list of (T, K), or (n, T, K) where X is one array.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; before ``fit`` scikit-learn's ``NotFittedError``, a ValueError.
        """
        z, data = self._outputs(X)
        return self._shown(softmax(z.astype(np.float64)), data)

    def predict(self, X: Any) -> Any:
        """The most probable class.

        Parameters
        ----------
        X
            As for ``fit``.

        Returns
        -------
        ndarray, shape (n,)
            New. With ``per_step`` a list of (T,), or (n, T) where X is one array.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; before ``fit`` scikit-learn's ``NotFittedError``, a ValueError.
        """
        z, data = self._outputs(X)
        return self._shown(self._predicted(z), data)

    score = SequenceEstimator.score  # not the mixin's

    def _checked(self, y: Any, known: Any) -> np.ndarray:
        """Labels, shape (n,) or (S,)."""
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        sorted_labels("y", labels)
        check_classification_targets(labels)
        unknown = () if known is None else np.setdiff1d(labels, known)
        if len(unknown):
            raise ValueError(f"y: needs labels in classes = {known}, got {unknown}")
        return labels

    def _know(self, labels: np.ndarray) -> int:
        self.classes_ = np.unique(labels)
        return len(self.classes_)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.classes_, labels)

    def _predicted(self, z: np.ndarray) -> np.ndarray:
        return self.classes_[self._decided(z)]

    @staticmethod
    def _decided(z: np.ndarray) -> np.ndarray:
        return z.argmax(axis=1)


class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """Predicts numbers from a sequence, or from each of its steps, by a recurrent network and squared error.

    Targets are standardised, as features are, while it learns.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout, lr, batch_size, max_epochs, clip_norm, early_stopping, \
    validation_fraction, n_iter_no_change, per_step, random_state, n_jobs, verbose
        See ``SequenceEstimator``.

    Attributes
    ----------
    y_mean_, y_scale_ : float or ndarray, shape (K,)
        Of the targets.
    n_features_in_, mean_, scale_, network_, n_iter_, loss_curve_, validation_loss_curve_
        See ``SequenceEstimator``. Losses are those of standardised targets.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((T, 2)) for T in rng.integers(5, 15, size=300)]
    >>> y = [x[-1, 0] - x[0, 1] for x in X]
    >>> model = SequenceRegressor(random_state=0).fit(X[:240], y[:240])
    >>> model.score(X[240:], y[240:]) > 0.8
    True
    """

    _loss = staticmethod(squared_error)
    _metric = staticmethod(r2_score)

    def partial_fit(self, X: Any, y: Any) -> Any:
        """Learn from X and y once, going on from what is known.

        Features and targets stay standardised as the first call, or ``fit``, found them. ``early_stopping`` does not
        apply.

        Parameters
        ----------
        X, y
            As for ``fit``.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        TypeError, ValueError
            Naming the argument. Whatever is raised, the estimator is then as it was before.
        """
        return self._learn_once(X, y, getattr(self, "y_mean_", None))

    def predict(self, X: Any) -> Any:
        """The expected targets.

        Parameters
        ----------
        X
            As for ``fit``.

        Returns
        -------
        ndarray, shape (n,) or (n, K), as y was, float64
            New. With ``per_step`` a list of (T,) or (T, K), or (n, T, ...) where X is one array.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; before ``fit`` scikit-learn's ``NotFittedError``, a ValueError.
        """
        z, data = self._outputs(X)
        return self._shown(self._predicted(z), data)

    score = SequenceEstimator.score  # not the mixin's

    def _checked(self, y: Any, known: Any) -> np.ndarray:
        """Numbers, shape (n,), (n, K), (S,) or (S, K)."""
        no_dates("y", y)
        targets = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y", estimator=self)
        if known is not None and targets.shape[1:] != np.shape(known):
            raise ValueError(f"y: needs targets of shape {np.shape(known)} as before, got {targets.shape[1:]}")
        return targets

    def _know(self, targets: np.ndarray) -> int:
        self.y_mean_, self.y_scale_ = moments("y", targets)
        return int(np.size(self.y_mean_))

    def _encoded(self, targets: np.ndarray) -> np.ndarray:
        return standardised("y", targets, self.y_mean_, self.y_scale_).reshape(len(targets), -1)

    def _predicted(self, z: np.ndarray) -> np.ndarray:
        z = z.astype(np.float64).reshape(-1, *np.shape(self.y_mean_))
        return z * self.y_scale_ + self.y_mean_

    @staticmethod
    def _decided(z: np.ndarray) -> np.ndarray:
        return z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
