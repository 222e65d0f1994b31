# SPDX-License-Identifier: MIT
"""A recurrent layer under a dense head, and how both learn: what stands behind the estimators of ``sklearn.py``.

``check`` knows the settings, ``LentSetting`` the threads, ``Network`` the arithmetic, ``Learner`` the epochs.

n sequences, S steps of all of them, T time steps, B batch, H hidden size, D directions, N rows that the head reads,
F = D*H features, K outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from . import _check, config
from ._head import Dense
from ._sequences import Batch, Sequences
from .layers import GRU, LSTM, RNN, Layer
from .optim import Adam, clip_grad_norm

CELLS: dict[str, Callable[..., Layer]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
COUNTS = ("hidden_size", "num_layers", "batch_size", "max_epochs", "n_iter_no_change")
FLAGS = ("bidirectional", "early_stopping", "per_step")


def check(name: str, value: Any) -> None:
    """Refuse what is no such setting of a network or of its training; any other name passes."""
    if name == "cell":
        _check.choice(name, value, tuple(CELLS))
    elif name in COUNTS:
        _check.integer(name, value, 1)
    elif name in FLAGS:
        _check.flag(name, value)
    elif name == "verbose" and not isinstance(value, (bool, np.bool_)):
        _check.integer(name, value, 0)
    elif name == "dropout":
        _check.real(name, value, 0, 1)
    elif name == "lr" or (name == "clip_norm" and value is not None):
        _check.real(name, value, 0, open_low=True)
    elif name == "validation_fraction":
        _check.real(name, value, 0, 1, open_low=True, open_high=True)
    elif name == "n_jobs" and value is not None and _check.integer(name, value, -config.MOST_THREADS) == 0:
        raise ValueError("n_jobs: needs an integer other than 0 or None, got 0")


# -- threads ---------------------------------------------------------------------------------------------------------


class LentSetting:
    """A setting of the whole process, lent for a while: the last of those who have it at a time puts it back.

    To a forked child nothing is lent: whoever had it is not there to put it back.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.read, self.write, self.lock = read, write, Lock()
        self.users: set[object] = set()
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._take_back)

    @contextmanager
    def __call__(self, value: Any) -> Iterator[None]:
        user = object()
        try:
            with self.lock:
                if not self.users:
                    self.before = self.read()
                self.users.add(user)  # first, for a child forked in between
                self.write(value)
            yield
        finally:
            with self.lock:
                if self.users == {user}:
                    self.write(self.before)
                self.users.discard(user)  # last; in a child forked meanwhile it is gone

    def _take_back(self) -> None:
        self.lock = Lock()  # the other may be held for ever
        if self.users:
            self.users.clear()
            self.write(self.before)


@cache
def blas() -> list[Any]:
    """The BLAS libraries in use; found once, since it takes 2 ms. Imported late: ``sklearn.py`` says how to get it."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def set_blas_threads(counts: list[int]) -> None:
    """One number for each library."""
    for library, count in zip(blas(), counts, strict=True):
        library.set_num_threads(count)


lend_threads = LentSetting(config.get_num_threads, config.set_num_threads)
_lend_blas = LentSetting(lambda: [library.get_num_threads() for library in blas()], set_blas_threads)


def one_blas_thread() -> Any:
    """While a network learns, for the bits of ``Dense.backward``.

    By einsum, which is no BLAS, an epoch with 60 classes per step takes 1.3 to 2 times as long.
    """
    return _lend_blas([1] * len(blas()))


# -- the network -----------------------------------------------------------------------------------------------------


class Network:
    """A recurrent layer, read by a dense head after a sequence's last step in each direction, or at every step.

    Parameters
    ----------
    layer : Layer
        Its ``rng`` also mixes the batches; its ``dropout`` acts on what the head reads, too.
    outputs : int
        K.
    loss : callable
        ``(z, targets) -> (loss, grad_z)``.
    per_step : bool
    """

    def __init__(self, layer: Layer, outputs: int, loss: Callable[..., Any], per_step: bool) -> None:
        self.layer, self.loss, self.per_step = layer, loss, per_step
        self.head = Dense(layer.num_directions * layer.hidden_size, outputs, layer.rng)
        self.optimizers = [Adam(params) for params in self.params]

    @property
    def params(self) -> tuple[np.ndarray, np.ndarray]:
        """What the optimizers update in place."""
        return self.layer.flat_params, self.head.flat

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for optimizer, params in zip(self.optimizers, self.params, strict=True):
            optimizer.params = params  # joblib, for one, makes a copy for each who refers to an array

    def epoch(
        self, data: Sequences, targets: np.ndarray, rows: np.ndarray, size: int, lr: float, clip_norm: float | None
    ) -> float:
        """Learn from every row once, in batches of at most ``size``: the mean loss on the way."""
        total = count = 0.0
        for optimizer in self.optimizers:
            optimizer.lr = lr
        for some in data.batches(rows, size, self.layer.rng):
            batch = data.batch(some, self.per_step)
            total += len(batch.at) * self._step(batch, targets[batch.at], clip_norm)
            count += len(batch.at)
        return total / count

    def _step(self, batch: Batch, targets: np.ndarray, clip_norm: float | None) -> float:
        out, state, tape = self.layer.forward(batch.x, lengths=batch.lengths)
        h, keep = self._dropped(self._read(out, state, batch.real))
        loss, grad_z = self.loss(self.head(h), targets)
        grad_h, grad_head = self.head.backward(h, grad_z)
        grads = self.layer.backward(tape, *self._unread(grad_h * keep, out, state, batch.real))
        if clip_norm is not None:
            clip_grad_norm((grads.flat, grad_head), clip_norm)
        for optimizer, grad in zip(self.optimizers, (grads.flat, grad_head), strict=True):
            optimizer.step(grad)
        return loss

    def finite(self) -> bool:
        """Whether all parameters still are."""
        return all(bool(np.isfinite(array).all()) for array in self.params)

    def outputs(self, data: Sequences, rows: np.ndarray, size: int) -> np.ndarray:
        """z, shape (n, K) or (S, K); what belongs to other rows is undefined."""
        z = np.empty((len(data.steps if self.per_step else data.lengths), self.head.outputs), np.float32)
        for some in data.batches(rows, size):
            batch = data.batch(some, self.per_step)
            out, state = self.layer(batch.x, lengths=batch.lengths)
            z[batch.at] = self.head(self._read(out, state, batch.real))
        return z

    def _read(self, out: np.ndarray, state: Any, real: np.ndarray) -> np.ndarray:
        """What the head reads, (N, F): the outputs of all real steps, or the last layer's final states."""
        if self.per_step:
            return out[real]
        h = state[0] if self.layer.cell == "lstm" else state
        D = self.layer.num_directions
        return h[-D:].swapaxes(0, 1).reshape(len(h[0]), -1)

    def _unread(self, grad_h: np.ndarray, out: np.ndarray, state: Any, real: np.ndarray) -> tuple[Any, Any]:
        """The gradients of out and state by that of what the head read."""
        if self.per_step:
            grad_out = np.empty_like(out)  # what it holds past a length is never read
            grad_out[real] = grad_h
            return grad_out, None
        lstm, D = self.layer.cell == "lstm", self.layer.num_directions
        grad_state = np.zeros_like(state[0] if lstm else state)
        grad_state[-D:] = grad_h.reshape(len(grad_h), D, -1).swapaxes(0, 1)
        return None, (grad_state, None) if lstm else grad_state

    def _dropped(self, h: np.ndarray) -> tuple[np.ndarray, Any]:
        """What dropout leaves of h, and the factors by which."""
        p = self.layer.dropout
        if not p:
            return h, np.float32(1)
        keep = (self.layer.rng.random(h.shape, np.float32) >= p) * np.float32(0 if p == 1 else 1 / (1 - p))
        return h * keep, keep


# -- its epochs ------------------------------------------------------------------------------------------------------


def progress_bar() -> Any:
    """The class of tqdm's."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as problem:
        raise ImportError('verbose: needs tqdm: pip install "fastrnn[sklearn]"') from problem
    return tqdm


class Best:
    """The parameters of the epoch with the lowest validation loss so far."""

    def __init__(self, params: tuple[np.ndarray, ...]) -> None:
        self.params, self.loss, self.age = params, np.inf, 0
        self.copies = [array.copy() for array in params]

    def note(self, loss: float) -> int:
        """Take another epoch into account: how many epochs ago the best was."""
        self.age += 1
        if loss < self.loss:
            self.loss, self.age = loss, 0
            self.copies = [array.copy() for array in self.params]
        return self.age

    def restore(self) -> None:
        """Write the best parameters back."""
        for array, copy in zip(self.params, self.copies, strict=True):
            array[...] = copy


class Learner:
    """The epochs of an estimator, which has the settings that ``check`` knows."""

    network_: Network
    n_iter_: int
    loss_curve_: list[float]
    validation_loss_curve_: list[float]
    _metric: Callable[..., float]  # of targets and predictions
    _decided: Callable[..., np.ndarray]  # what ``_metric`` compares, of z
    _threads: Callable[[], int]
    get_params: Callable[..., dict[str, Any]]

    def _check_params(self) -> None:
        for name, value in self.get_params(deep=False).items():
            check(name, value)
        if self.verbose:
            progress_bar()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Threads to learn with; where it fails, for any reason, the attributes are put back."""
        before = dict(vars(self))
        try:
            with one_blas_thread(), lend_threads(self._threads()), np.errstate(all="ignore"):
                yield
        except BaseException:
            self.__dict__ = before
            raise

    def _train(self, data: Sequences, targets: np.ndarray, rows: np.ndarray, held_out: np.ndarray) -> None:
        network, best = self.network_, Best(self.network_.params)
        judged = held_out if self.early_stopping else rows
        at = data.places(judged, self.per_step)
        epochs: Any = range(self.max_epochs)
        if self.verbose:
            epochs = progress_bar()(epochs, desc=type(self).__name__, unit="epoch")
        for epoch in epochs:
            loss = self._epoch(data, targets, rows, float(self.lr) * (1 - epoch / self.max_epochs))
            if self.early_stopping or self.verbose:
                z = network.outputs(data, judged, int(self.batch_size))[at]
            if self.verbose:
                epochs.set_postfix(loss=f"{loss:.4f}", score=f"{self._metric(targets[at], self._decided(z)):.4f}")
            if self.early_stopping:
                self.validation_loss_curve_.append(network.loss(z, targets[at])[0])
                if best.note(self.validation_loss_curve_[-1]) == self.n_iter_no_change:
                    break
        if self.early_stopping:
            best.restore()

    def _epoch(self, data: Sequences, targets: np.ndarray, rows: np.ndarray, lr: float) -> float:
        loss = self.network_.epoch(data, targets, rows, int(self.batch_size), lr, self.clip_norm)
        self.n_iter_ += 1
        self.loss_curve_.append(loss)
        if not (np.isfinite(loss) and self.network_.finite()):
            what = "not all weights are finite" if np.isfinite(loss) else f"the loss is {loss}"
            raise ValueError(f"lr: needs a smaller rate, got {self.lr}: after {self.n_iter_} epochs {what}")
        return loss
