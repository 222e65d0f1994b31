# SPDX-License-Identifier: MIT
"""scikit-learn's estimators over sequences: ``SequenceClassifier`` and ``SequenceRegressor``.

They stand between scikit-learn's rules and a ``Network``, which learns from batches of ``Sequences``.

n sequences, S steps of all of them, T time steps, I input size, K classes or targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import _check, config
from ._network import Best, Network, cross_entropy, softmax, squared_error
from ._sequences import Sequences, moments, separate
from .layers import GRU, LSTM, RNN, Layer

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

CELLS: dict[str, Callable[..., Layer]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
FLOATS = (np.float64, np.float32)


@contextmanager
def threads(n_jobs: int | None) -> Iterator[None]:
    """So many of fastrnn's threads for a while."""
    before = config.get_num_threads()
    config.set_num_threads(min(effective_n_jobs(n_jobs), config.MOST_THREADS))
    try:
        yield
    finally:
        config.set_num_threads(before)


def progress_bar() -> Any:
    """The class of tqdm's."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as problem:
        raise ImportError('verbose: needs tqdm: pip install "fastrnn[sklearn]"') from problem
    return tqdm


class SequenceEstimator(BaseEstimator):
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
        ``network_.layer`` is fastrnn's RNN, LSTM or GRU, ``network_.head`` the dense layer.
    n_iter_ : int
        Epochs run.
    loss_curve_, validation_loss_curve_ : list of float
        The mean losses of each epoch, on the training set and on what is held out.
    """

    _loss: Callable[..., Any]  # of a network's outputs and encoded targets
    _metric: Callable[..., float]  # of targets and predictions

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
        y : array, shape (n,), of a regressor also (n, K); with ``per_step`` n of shapes (T,) or (T, K), or (n, T, ...)

        Returns
        -------
        The estimator itself.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; what was learned before is then unchanged.
        """
        self._check_params()
        data = self._sequences(X)
        targets = self._targets(y, data)
        rng = self._generator()
        rows, held_out = self._parts(targets, data, rng)
        self._start(data, targets, rng)
        with threads(self.n_jobs):
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
        if not started:
            self._start(data, targets if known is None else known, self._generator())
        rows = np.arange(len(data.lengths))
        with threads(self.n_jobs):
            self._epoch(data.scaled(self.mean_, self.scale_), self._encoded(targets), rows, self.lr)
        return self

    def _start(self, data: Sequences, known: np.ndarray, rng: np.random.Generator) -> None:
        """Set the attributes from the first data; ``known`` is what the targets are taken from."""
        self.n_features_in_ = data.steps.shape[1]
        self.mean_, self.scale_ = moments(data.steps)
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
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []

    def _train(self, data: Sequences, targets: np.ndarray, rows: np.ndarray, held_out: np.ndarray) -> None:
        network, best = self.network_, Best(self.network_.params)
        judged = held_out if self.early_stopping else rows
        at = data.places(judged, self.per_step)
        epochs: Any = range(self.max_epochs)
        if self.verbose:
            epochs = progress_bar()(epochs, desc=type(self).__name__, unit="epoch")
        for epoch in epochs:
            loss = self._epoch(data, targets, rows, self.lr * (1 - epoch / self.max_epochs))
            if self.early_stopping or self.verbose:
                z = network.outputs(data, judged, self.batch_size)[at]
            if self.verbose:
                epochs.set_postfix(loss=f"{loss:.4f}", score=f"{self._metric(targets[at], self._decided(z)):.4f}")
            if self.early_stopping:
                self.validation_loss_curve_.append(self._loss(z, targets[at])[0])
                if best.note(self.validation_loss_curve_[-1]) == self.n_iter_no_change:
                    break
        if self.early_stopping:
            best.restore()

    def _epoch(self, data: Sequences, targets: np.ndarray, rows: np.ndarray, lr: float) -> float:
        loss = self.network_.epoch(data, targets, rows, self.batch_size, lr, self.clip_norm)
        self.n_iter_ += 1
        self.loss_curve_.append(loss)
        if not np.isfinite(loss):
            raise ValueError(f"lr: needs a smaller rate, got {self.lr}: after {self.n_iter_} epochs the loss is {loss}")
        return loss

    def _parts(self, targets: np.ndarray, data: Sequences, rng: np.random.Generator) -> Any:
        """The rows to learn from and those held out."""
        rows = np.arange(len(data.lengths))
        if not self.early_stopping:
            return rows, rows[:0]
        classes = targets if is_classifier(self) and not self.per_step else None
        seed = int(rng.integers(2**31))
        return train_test_split(rows, test_size=self.validation_fraction, random_state=seed, stratify=classes)

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))

    # -- predicting --

    def _outputs(self, X: Any) -> tuple[np.ndarray, Sequences]:
        """z, shape (n, K) or (S, K), and the sequences it is of."""
        check_is_fitted(self, "network_")
        data = self._sequences(X, self.n_features_in_).scaled(self.mean_, self.scale_)
        with threads(self.n_jobs):
            return self.network_.outputs(data, np.arange(len(data.lengths)), self.batch_size), data

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

        Returns
        -------
        float
        """
        found = self.predict(X)
        if self.network_.per_step:
            truth = Sequences.of("y", y)
            y, found = truth.steps, np.concatenate(found)
            if sample_weight is not None:
                sample_weight = np.repeat(sample_weight, truth.lengths)
        return self._metric(y, found, sample_weight=sample_weight)

    # -- arguments --

    def _check_params(self) -> None:
        _check.choice("cell", self.cell, tuple(CELLS))
        for name in ("hidden_size", "num_layers", "batch_size", "max_epochs", "n_iter_no_change"):
            _check.integer(name, getattr(self, name), 1)
        for name in ("bidirectional", "early_stopping", "per_step"):
            _check.flag(name, getattr(self, name))
        _check.real("dropout", self.dropout, 0, 1)
        _check.real("lr", self.lr, 0, open_low=True)
        _check.real("validation_fraction", self.validation_fraction, 0, np.nextafter(1, 0), open_low=True)
        if self.clip_norm is not None:
            _check.real("clip_norm", self.clip_norm, 0, open_low=True)
        if self.n_jobs is not None and _check.integer("n_jobs", self.n_jobs, -config.MOST_THREADS) == 0:
            raise ValueError("n_jobs: needs an integer other than 0 or None, got 0")
        if self.verbose:
            progress_bar()

    def _sequences(self, X: Any, features: int | None = None) -> Sequences:
        """X, its steps (S, I) numbers that are finite."""
        if not separate(X):
            X = check_array(X, dtype=FLOATS, allow_nd=True, input_name="X", estimator=self)
        data = Sequences.of("X", X)
        if not data.lengths.all():
            raise ValueError(f"X[{data.lengths.argmin()}]: needs at least one step, got none")
        if data.steps.ndim > 2:
            raise ValueError(f"X: needs sequences of shape (T, I) or (T,), got {data.steps.ndim} axes each")
        steps = data.steps if data.steps.ndim == 2 else data.steps[:, np.newaxis]
        data.steps = check_array(steps, dtype=FLOATS, input_name="X", estimator=self)
        if features not in (None, steps.shape[1]):  # in the words that scikit-learn's own checks look for
            name, found = type(self).__name__, steps.shape[1]
            raise ValueError(f"X has {found} features, but {name} is expecting {features} features as input, each step")
        return data

    def _joined(self, y: Any, data: Sequences) -> Any:
        """A target for each sequence, or for each step, along one axis; no more is known about it yet."""
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        if self.per_step:
            return data.steps_of("y", y)
        check_consistent_length(data.lengths, y)
        return y

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
        """
        if hasattr(self, "network_"):
            if classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(f"classes: needs those of the first call, {self.classes_}, or None, got {classes}")
            return self._learn_once(X, y, self.classes_)
        if classes is None:
            raise ValueError("classes: needs all labels in the first call of partial_fit, got None")
        return self._learn_once(X, y, np.unique(classes))

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
        """
        z, data = self._outputs(X)
        return self._shown(self.classes_[self._decided(z)], data)

    score = SequenceEstimator.score  # not the mixin's

    def _targets(self, y: Any, data: Sequences, known: np.ndarray | None = None) -> np.ndarray:
        """Labels, shape (n,) or (S,)."""
        labels = column_or_1d(self._joined(y, data), warn=True)
        assert_all_finite(labels, input_name="y")
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
        """
        z, data = self._outputs(X)
        return self._shown(z.reshape(-1, *np.shape(self.y_mean_)) * self.y_scale_ + self.y_mean_, data)

    score = SequenceEstimator.score  # not the mixin's

    def _targets(self, y: Any, data: Sequences, known: np.ndarray | None = None) -> np.ndarray:
        """Numbers, shape (n,), (n, K), (S,) or (S, K)."""
        targets = check_array(self._joined(y, data), dtype=np.float64, ensure_2d=False, input_name="y", estimator=self)
        if known is not None and targets.shape[1:] != np.shape(known):
            raise ValueError(f"y: needs targets of shape {np.shape(known)} as before, got {targets.shape[1:]}")
        return targets

    def _know(self, targets: np.ndarray) -> int:
        self.y_mean_, self.y_scale_ = moments(targets)
        return int(np.size(self.y_mean_))

    def _encoded(self, targets: np.ndarray) -> np.ndarray:
        scaled = (targets - self.y_mean_) / self.y_scale_
        return scaled.reshape(len(targets), -1).astype(np.float32)

    @staticmethod
    def _decided(z: np.ndarray) -> np.ndarray:
        return z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
