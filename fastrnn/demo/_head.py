# SPDX-License-Identifier: MIT
"""A softmax classifier on top of a recurrent layer, with its gradients, in plain NumPy.

N examples, F features, C classes.
"""

from __future__ import annotations

import numpy as np


class SoftmaxHead:
    """``logits = h W^T + b``, trained by cross-entropy.

    Parameters
    ----------
    features, classes : int
        F and C.
    seed : int
        Of the random weights, U(-1/sqrt(F), 1/sqrt(F)).

    Attributes
    ----------
    flat : ndarray, shape (C*F + C,), float32
        Weights and biases in one array, for an optimizer.
    """

    def __init__(self, features: int, classes: int, seed: int) -> None:
        bound = features**-0.5
        rng = np.random.default_rng(seed)
        self.flat = rng.uniform(-bound, bound, classes * features + classes).astype(np.float32)
        self.weight = self.flat[: classes * features].reshape(classes, features)
        self.bias = self.flat[classes * features :]

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """Logits, shape (..., C), of features, shape (..., F)."""
        return h @ self.weight.T + self.bias

    def loss(self, h: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The mean cross-entropy and its gradients.

        Parameters
        ----------
        h : ndarray, shape (N, F), float32
        labels : ndarray, shape (N,), integers in 0..C-1

        Returns
        -------
        loss : float
        grad_h : ndarray, shape (N, F)
        grad_flat : ndarray, shape (C*F + C,)
        """
        logits = self(h)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        chosen = np.arange(len(labels)), labels
        loss = float(-np.log(p[chosen] + 1e-30).mean())
        p[chosen] -= 1
        grad_logits = p / np.float32(len(labels))
        grad_flat = np.concatenate([(grad_logits.T @ h).ravel(), grad_logits.sum(axis=0)])
        return loss, grad_logits @ self.weight, grad_flat
