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
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from . import _check

TINY = float(np.finfo(np.float64).tiny)  # below it a float64 has fewer digits
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "lr": partial(_check.real, low=0),
    "momentum": partial(_check.real, low=0, high=1),
    "betas": _check.betas,
    "eps": partial(_check.real, low=0),
}


class _Optimizer:
    """Options are checked whenever they are set, the gradient in each step, and with it what may have become of params
    meanwhile."""

    params: np.ndarray
    _v: np.ndarray  # of params' shape and dtype

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, OPTIONS[name](name, value) if name in OPTIONS else value)

    def _checked(self, grad: Any) -> np.ndarray:
        params = _check.alike("params", _check.writeable("params", self.params), "the optimizer's state", self._v)
        return _check.alike("grad", grad, "params", params)


class SGD(_Optimizer):
    """Stochastic gradient descent: p -= lr v, where v = momentum v + g, PyTorch's form.

    The momentum is B. T. Polyak's: "Some methods of speeding up the convergence of iteration methods", 1964.

    Parameters
    ----------
    params : ndarray of float32 or float64, any shape
        Updated in place; a layer's ``flat_params``, for example.
    lr : float
        Learning rate, >= 0.
    momentum : float
        In 0..1.

    Attributes
    ----------
    params : ndarray
        The very array that was given. May be set to another of its shape and dtype.
    lr, momentum : float
        May be set between steps, and are checked then.

    Raises
    ------
    TypeError, ValueError
        For ``params`` that cannot be updated in place, or an option of the wrong kind or out of its range.
    """

    def __init__(self, params: np.ndarray, lr: float, momentum: float = 0.0) -> None:
        self.params = _check.writeable("params", params)
        self.lr = lr
        self.momentum = momentum
        self._v = np.zeros_like(params)
        self._scratch = np.empty_like(params)

    def step(self, grad: np.ndarray) -> None:
        """Update ``params`` in place.

        Parameters
        ----------
        grad : ndarray, shape and dtype of ``params``
            Left as it is.

        Raises
        ------
        TypeError, ValueError
            For a gradient of another kind, dtype or shape, or ``params`` that are no longer as they were when the
            optimizer was made; nothing is changed then.
        """
        grad = self._checked(grad)
        params, v = self.params, self._v
        with np.errstate(all="ignore"):  # an error in their midst would leave half a step
            v *= self.momentum
            v += grad
            params -= np.multiply(v, self.lr, out=self._scratch)


class Adam(_Optimizer):
    """Adam: p -= lr m^ / (sqrt(v^) + eps).

    Algorithm 1 of D. P. Kingma and J. Ba, "Adam: A method for stochastic optimization", 2015.
    m and v are running means of g and g^2; m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t) undo their start at 0.

    Parameters
    ----------
    params : ndarray of float32 or float64, any shape
        Updated in place; a layer's ``flat_params``, for example.
    lr : float
        Learning rate, >= 0.
    betas : (float, float)
        Decay of m and v per step, each in 0..1 and below 1.
    eps : float
        >= 0; bounds the step where v is small.

    Attributes
    ----------
    params : ndarray
        The very array that was given. May be set to another of its shape and dtype.
    lr, eps : float
    betas : (float, float)
        These three may be set between steps, and are checked then.

    Raises
    ------
    TypeError, ValueError
        For ``params`` that cannot be updated in place, or an option of the wrong kind or out of its range.
    """

    def __init__(
        self,
        params: np.ndarray,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params = _check.writeable("params", params)
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self._m, self._v = np.zeros_like(params), np.zeros_like(params)
        self._scratch = np.empty_like(params)
        self._t = 0

    def step(self, grad: np.ndarray) -> None:
        """Update ``params`` in place.

        Parameters
        ----------
        grad : ndarray, shape and dtype of ``params``
            Left as it is.

        Raises
        ------
        TypeError, ValueError
            For a gradient of another kind, dtype or shape, or ``params`` that are no longer as they were when the
            optimizer was made; nothing is changed then.
        """
        grad = self._checked(grad)
        params, m, v, scratch = self.params, self._m, self._v, self._scratch
        beta1, beta2 = self.betas
        self._t += 1
        with np.errstate(all="ignore"):
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
            params -= scratch


def clip_grad_norm(grads: np.ndarray | Iterable[np.ndarray], max_norm: float) -> float:
    """Scale gradients down, in place, to a Euclidean norm of at most ``max_norm``.

    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", 2013, algorithm 1.

    Parameters
    ----------
    grads : ndarray of float32 or float64, any shape, or several
        Several are taken as one long vector. Left as they are where their norm is small enough, or not finite.
    max_norm : float
        > 0.

    Returns
    -------
    float
        The norm before clipping, summed in double precision.

    Raises
    ------
    TypeError, ValueError
        For ``grads`` that cannot be updated in place, or a ``max_norm`` that is no finite number > 0; nothing is
        changed then.
    """
    arrays = _check.several("grads", grads)
    max_norm = _check.real("max_norm", max_norm, 0, open_low=True)
    with np.errstate(all="ignore"):  # an error in their midst would leave some scaled, others not
        norm = math.hypot(*map(_norm, arrays))
        if max_norm < norm < math.inf:
            for array in arrays:
                array *= max_norm / norm
    return norm


def _norm(array: np.ndarray) -> float:
    flat = array.ravel()
    squared = _squared(flat)
    if TINY <= squared < math.inf:
        return math.sqrt(squared)
    largest = float(np.abs(flat).max(initial=0))  # the squares may have left the range of numbers, the norm not
    if not 0 < largest < math.inf:
        return math.sqrt(squared)
    return largest * math.sqrt(_squared(flat / largest))


def _squared(flat: np.ndarray) -> float:
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))
