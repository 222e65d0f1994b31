# SPDX-License-Identifier: MIT
"""ONNX's activations of recurrent operators, by their names, with alpha and beta."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .. import _check

NEEDED = None  # in place of a default: the standard gives none


def sigmoid(z):
    """1 / (1 + e^-z)."""
    return 1 / (1 + np.exp(-z))


def relu(z):
    """max(0, z)."""
    return np.maximum(z, 0)


def affine(z, alpha, beta):
    """alpha z + beta."""
    return alpha * z + beta


def leaky_relu(z, alpha):
    """Below 0, alpha z."""
    return np.where(z >= 0, z, alpha * z)


def thresholded_relu(z, alpha):
    """Below alpha, 0."""
    return np.where(z >= alpha, z, 0)


def scaled_tanh(z, alpha, beta):
    """alpha tanh(beta z)."""
    return alpha * np.tanh(beta * z)


def hard_sigmoid(z, alpha, beta):
    """alpha z + beta, kept in 0..1."""
    return np.clip(alpha * z + beta, 0, 1)


def elu(z, alpha):
    """Below 0, alpha (e^z - 1)."""
    return np.where(z >= 0, z, alpha * np.expm1(z))


def softsign(z):
    """z / (1 + |z|)."""
    return z / (1 + np.abs(z))


def softplus(z):
    """log(1 + e^z)."""
    return np.logaddexp(z, 0)


ACTIVATIONS: dict[str, tuple[Callable, dict[str, float | None]]] = {  # what computes it, and the parameters it takes
    "Relu": (relu, {}),
    "Tanh": (np.tanh, {}),
    "Sigmoid": (sigmoid, {}),
    "Affine": (affine, {"alpha": NEEDED, "beta": NEEDED}),
    "LeakyRelu": (leaky_relu, {"alpha": 0.01}),
    "ThresholdedRelu": (thresholded_relu, {"alpha": 1.0}),
    "ScaledTanh": (scaled_tanh, {"alpha": NEEDED, "beta": NEEDED}),
    "HardSigmoid": (hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "Elu": (elu, {"alpha": 1.0}),
    "Softsign": (softsign, {}),
    "Softplus": (softplus, {}),
}


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation with its parameters: a function of an array."""

    name: str
    values: tuple[float | None, ...] = ()

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """The activation of each element."""
        return ACTIVATIONS[self.name][0](z, *self.values)


def parsed(where: str, names: Iterable[str], alphas: Iterable[float], betas: Iterable[float]) -> list[Activation]:
    """The activations of a node; each takes the next alpha and the next beta, if it has such a parameter."""
    left = {"alpha": list(alphas), "beta": list(betas)}
    found = []
    for name in names:
        _, defaults = ACTIVATIONS[_check.choice(f"{where}, activations", name, tuple(ACTIVATIONS))]
        values = [left[key].pop(0) if left[key] else default for key, default in defaults.items()]
        if NEEDED in values:
            raise ValueError(f"{where}: needs activation_alpha and activation_beta for {name}, got too few values")
        found.append(Activation(name, tuple(values)))
    for key, unused in left.items():
        if unused:
            raise ValueError(f"{where}, activation_{key}: needs one value per activation that takes it, got more")
    return found
