# SPDX-License-Identifier: MIT
"""SGD, Adam and gradient clipping over one flat array, in place.

    layer = fastrnn.GRU(8, 32)
    optimizer = Adam(layer.flat_params)
    for x, target in batches:
        out, state, tape = layer.forward(x)
        grads = layer.backward(tape, grad_out=2 * (out - target))
        clip_grad_norm(grads.flat, 1.0)
        optimizer.step(grads.flat)

g gradient, m and v running means of g and g^2, t steps taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from . import _check


class SGD:
    """Stochastic gradient descent: p -= lr v, where v = momentum v + g, PyTorch's form (Polyak 1964).

    Parameters
    ----------
    params : ndarray of float32 or float64, any shape
        Updated in place; a layer's ``flat_params``, for example.
    lr : float
        Learning rate, >= 0. Also an attribute, which may be set between steps.
    momentum : float
        In 0..1.
    """

    def __init__(self, params: np.ndarray, lr: float, momentum: float = 0.0) -> None:
        self.params = _check.writeable("params", params)
        self.lr = _check.real("lr", lr, 0)
        self.momentum = _check.real("momentum", momentum, 0, 1)
        self._v = np.zeros_like(params)
        self._scratch = np.empty_like(params)

    def step(self, grad: np.ndarray) -> None:
        """Update ``params`` by a gradient of the same shape and dtype, which is left as it is."""
        grad = _check.alike("grad", grad, "params", self.params)
        v = self._v
        v *= self.momentum
        v += grad
        self.params -= np.multiply(v, self.lr, out=self._scratch)


class Adam:
    """Adam: p -= lr m^ / (sqrt(v^) + eps), algorithm 1 of Kingma and Ba 2015.

    m and v are running means of g and g^2; m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t) undo their start at 0.

    Parameters
    ----------
    params : ndarray of float32 or float64, any shape
        Updated in place; a layer's ``flat_params``, for example.
    lr : float
        Learning rate, >= 0. Also an attribute, which may be set between steps.
    betas : (float, float)
        Decay of m and v per step, each in 0..1 and below 1.
    eps : float
        >= 0; bounds the step where v is small.
    """

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params = _check.writeable("params", params)
        self.lr = _check.real("lr", lr, 0)
        self.betas = _check.betas("betas", betas)
        self.eps = _check.real("eps", eps, 0)
        self._m, self._v = np.zeros_like(params), np.zeros_like(params)
        self._scratch = np.empty_like(params)
        self._t = 0

    def step(self, grad: np.ndarray) -> None:
        """Update ``params`` by a gradient of the same shape and dtype, which is left as it is."""
        grad = _check.alike("grad", grad, "params", self.params)
        m, v, scratch = self._m, self._v, self._scratch
        beta1, beta2 = self.betas
        self._t += 1
        m *= beta1
        m += np.multiply(grad, 1 - beta1, out=scratch)
        v *= beta2
        np.multiply(grad, grad, out=scratch)
        v += np.multiply(scratch, 1 - beta2, out=scratch)
        np.sqrt(v, out=scratch)
        scratch /= math.sqrt(1 - beta2**self._t)
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= self.lr / (1 - beta1**self._t)
        self.params -= scratch


def clip_grad_norm(grads: np.ndarray | Iterable[np.ndarray], max_norm: float) -> float:
    """Scale gradients down, in place, to a Euclidean norm of at most ``max_norm``: Pascanu, Mikolov and Bengio 2013.

    Parameters
    ----------
    grads : ndarray of float32 or float64, or several
        Several are taken as one long vector. Left as they are where their norm is small enough, or not finite.
    max_norm : float
        > 0.

    Returns
    -------
    float
        The norm before clipping, summed in double precision.
    """
    arrays = [grads] if isinstance(grads, np.ndarray) else list(grads)
    arrays = [_check.writeable("grads", array) for array in arrays]
    max_norm = _check.real("max_norm", max_norm, 0, open_low=True)
    norm = math.hypot(*(_norm(array) for array in arrays))
    if max_norm < norm < math.inf:
        for array in arrays:
            array *= max_norm / norm
    return norm


def _norm(array: np.ndarray) -> float:
    flat = array.ravel()
    return math.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64))
