# SPDX-License-Identifier: MIT
"""A dense layer on top of a recurrent one, and what it learns by, with gradients, in plain NumPy.

N rows, F features, K outputs.
"""

from __future__ import annotations

import numpy as np


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
        """z, shape (..., K), of h, shape (..., F); by einsum: with BLAS a row's bits depend on the number of rows."""
        return np.einsum("...f,kf->...k", h, self.weight) + self.bias

    def backward(self, h: np.ndarray, grad_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of h, shape (N, F), and of ``flat``; their bits depend on the number of BLAS's threads."""
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
