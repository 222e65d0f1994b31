# SPDX-License-Identifier: MIT
"""A recurrent layer under a dense head, and how both learn: what stands behind the estimators of ``sklearn.py``.

n sequences, S steps of all of them, T time steps, B batch, H hidden size, D directions, N rows that the head reads,
F = D*H features, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ._sequences import Batch, Sequences
from .layers import Layer
from .optim import Adam, clip_grad_norm


class Dense:
    """``z = h W^T + b``, starting from U(-1/sqrt(F), 1/sqrt(F)).

    Attributes
    ----------
    flat : ndarray, shape (K*F + K,), float32
        Weights and biases in one array, for an optimizer.
    """

    def __init__(self, features: int, outputs: int, rng: np.random.Generator) -> None:
        bound = features**-0.5
        self.flat = rng.uniform(-bound, bound, outputs * features + outputs).astype(np.float32)
        self.outputs = outputs

    @property
    def weight(self) -> np.ndarray:
        """W, shape (K, F): a view."""
        return self.flat[: -self.outputs].reshape(self.outputs, -1)

    @property
    def bias(self) -> np.ndarray:
        """b, shape (K,): a view."""
        return self.flat[-self.outputs :]

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """z, shape (N, K), of h, shape (N, F); by einsum, since with BLAS a row's bits depend on the number of rows."""
        return np.einsum("nf,kf->nk", h, self.weight) + self.bias

    def backward(self, h: np.ndarray, grad_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of h and of ``flat``."""
        return grad_z @ self.weight, np.concatenate([(grad_z.T @ h).ravel(), grad_z.sum(axis=0)])


def softmax(z: np.ndarray) -> np.ndarray:
    """Probabilities, shape (N, K), of logits."""
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss of logits, shape (N, K), for labels in 0..K-1, shape (N,), and its gradient by the logits."""
    p, chosen = softmax(z), (np.arange(len(z)), labels)
    loss = -np.log(np.maximum(p[chosen], np.finfo(p.dtype).tiny)).mean()
    p[chosen] -= 1
    return float(loss), p / np.float32(len(z))


def squared_error(z: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean loss of outputs, shape (N, K), and its gradient by them."""
    error = z - targets
    return float(np.mean(error * error)), error * np.float32(2 / error.size)


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
        self.params = (layer.flat_params, self.head.flat)
        self.optimizers = [Adam(params) for params in self.params]

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
