# SPDX-License-Identifier: MIT
"""Optimizers against their formulas in scalars, clipping, and a problem learned."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from trials import changes_in_place

from fastrnn.layers import GRU
from fastrnn.optim import SGD, Adam, clip_grad_norm

GRADS = [0.5, -1.5, 0.0, 2.0, 1e-9]


def run(optimizer, make=np.float64):
    """The single parameter's path under GRADS."""
    path = []
    for g in GRADS:
        optimizer.step(np.array([g], make))
        path.append(float(optimizer.params[0]))
    return path


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_sgd(momentum):
    p, v, path = 1.0, 0.0, []
    for g in GRADS:
        v = momentum * v + g
        p -= 0.1 * v
        path.append(p)
    np.testing.assert_allclose(run(SGD(np.ones(1), 0.1, momentum)), path, rtol=1e-14)


@pytest.mark.parametrize(
    ("lr", "betas", "eps"), [(1e-3, (0.9, 0.999), 1e-8), (0.1, (0.0, 0.5), 0.01), (1.0, (0.99, 0.0), 1.0)]
)
def test_adam(lr, betas, eps):
    p, m, v, path = 1.0, 0.0, 0.0, []
    for t, g in enumerate(GRADS, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        p -= lr * m_hat / (math.sqrt(v_hat) + eps)
        path.append(p)
    np.testing.assert_allclose(run(Adam(np.ones(1), lr, betas, eps)), path, rtol=1e-12)


def test_adam_s_first_step_is_lr():
    params = np.zeros(3)
    Adam(params).step(np.array([5.0, -0.01, 0.0]))
    np.testing.assert_allclose(params, [-1e-3, 1e-3, 0], rtol=1e-5)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p)], ids=["SGD", "Adam"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_in_place(make, dtype):
    params, grad = np.ones(100_000, dtype), np.full(100_000, 0.5, dtype)
    optimizer = make(params)
    optimizer.step(grad)
    assert optimizer.params is params and (params < 1).all() and (grad == 0.5).all()
    tracemalloc.start()
    optimizer.step(grad)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < params.nbytes / 20


def test_the_learning_rate_may_change():
    params = np.zeros(1)
    optimizer = SGD(params, 1.0)
    optimizer.step(np.ones(1))
    optimizer.lr = 0.25
    optimizer.step(np.ones(1))
    assert params[0] == -1.25


@pytest.mark.parametrize(
    ("make", "name", "bad", "message"),
    [
        (SGD, "lr", "x", "lr: needs a number, got 'x'"),
        (Adam, "lr", -1, "lr: needs a finite number >= 0, got -1"),
        (SGD, "momentum", 2, "momentum: needs a finite number >= 0 and <= 1, got 2"),
        (Adam, "betas", (0.9, 1), r"betas\[1\]: needs a finite number >= 0 and < 1, got 1"),
        (Adam, "eps", None, "eps: needs a number, got None"),
    ],
)
def test_an_option_is_checked_when_it_is_set(make, name, bad, message):
    changed, other = make(np.ones(3), 0.1), make(np.ones(3), 0.1)
    with pytest.raises((TypeError, ValueError), match=message):
        setattr(changed, name, bad)
    for optimizer in (changed, other):
        optimizer.step(np.ones(3))
        optimizer.step(np.ones(3))
    assert np.array_equal(changed.params, other.params)


def test_parameters_of_any_shape():
    params = np.ones((2, 3), np.float32)
    Adam(params[:, ::2]).step(np.ones((2, 2), np.float32))
    assert np.array_equal(params[:, 1], [1, 1]) and (params[:, ::2] < 1).all()


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p)], ids=["SGD", "Adam"])
def test_a_step_is_whole_where_numpy_would_raise_errors(make):
    """As are those of a diverging loss, or of one next to nothing."""
    optimizers, grad = [make(np.ones(4)) for _ in range(2)], np.array([1e308, 1e-310, np.inf, 1.0])
    for optimizer, way in zip(optimizers, ("ignore", "raise"), strict=True):
        with np.errstate(all=way):
            for g in (grad, grad, -grad):
                optimizer.step(g)
    np.testing.assert_array_equal(optimizers[0].params, optimizers[1].params)


# -- clipping --------------------------------------------------------------------------------------------------------


def test_clipping_scales_to_the_norm():
    grads = np.array([3.0, 4.0])
    assert clip_grad_norm(grads, 10) == 5 and np.array_equal(grads, [3, 4])
    assert clip_grad_norm(grads, 1) == 5
    np.testing.assert_allclose(grads, [0.6, 0.8], rtol=1e-15)


def test_clipping_several_arrays_by_their_common_norm():
    several = [np.array([[3.0]], np.float32), np.array([4.0, 0.0])]
    assert clip_grad_norm(several, 2.5) == 5
    np.testing.assert_allclose(np.concatenate([array.ravel() for array in several]), [1.5, 2, 0], rtol=1e-7)
    assert clip_grad_norm([], 1) == 0


def test_norms_are_summed_in_double_precision():
    grads = np.full(1000, 1e30, np.float32)
    np.testing.assert_allclose(clip_grad_norm(grads, 1), 1e30 * math.sqrt(1000), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(grads), 1, rtol=1e-6)


@pytest.mark.parametrize(("size", "max_norm"), [(1e200, 1.0), (1e-170, 1e-200), (1e-320, 1e-322), (5e-324, 1.0)])
def test_clipping_works_where_squares_leave_the_range_of_numbers(size, max_norm):
    grads = np.full(4, size)
    np.testing.assert_allclose(clip_grad_norm(grads, max_norm), 2 * size, rtol=1e-15)
    np.testing.assert_allclose(grads, min(size, max_norm / 2), rtol=1e-15, atol=5e-324)


def test_norms_at_the_edges():
    assert clip_grad_norm(np.empty(0), 1) == 0
    assert clip_grad_norm(np.array([3.0, -np.inf]), 1) == np.inf
    np.testing.assert_allclose(clip_grad_norm(np.full(4, 1e-160), 1.0), 2e-160, rtol=1e-15)


def test_clipping_is_whole_where_numpy_would_raise_errors():
    several = [np.array([3.0, 1e-310]), np.array([4.0, 1e200])]
    with np.errstate(all="raise"):
        assert clip_grad_norm(several, 1) == 1e200
    np.testing.assert_array_equal(several, [[3e-200, 0], [4e-200, 1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_leaves_the_gradients(bad):
    grads = np.array([3.0, bad])
    assert not math.isfinite(clip_grad_norm(grads, 1))
    assert grads[0] == 3


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda grads: pickle.loads(pickle.dumps(grads))], ids=["deepcopy", "pickle"]
)
def test_clipping_copied_gradients_reaches_their_params(copied):
    layer = GRU(3, 4, seed=0)
    out, _, tape = layer.forward(np.ones((5, 2, 3), np.float32))
    grads = layer.backward(tape, out)
    twin, before = copied(grads), grads.flat.copy()
    clip_grad_norm(twin.flat, 1e-3)
    assert list(twin.params) == list(grads.params)
    assert np.array_equal(np.concatenate([array.ravel() for array in twin.params.values()]), twin.flat)
    assert not np.array_equal(twin.flat, before) and np.array_equal(grads.flat, before)


# -- bad input -------------------------------------------------------------------------------------------------------

read_only = np.ones(3)
read_only.flags.writeable = False


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: SGD([1.0], 0.1),
            TypeError,
            "params: needs an array of float32 or float64 to update in place, got list",
        ),
        (lambda: Adam(np.ones(3, int)), TypeError, "params: .*got dtype int64"),
        (lambda: Adam(np.ma.ones(3)), TypeError, "params: needs a plain array, got a masked one"),
        (lambda: Adam(read_only), ValueError, "params: needs a writeable array, got a read-only one"),
        (lambda: SGD(np.ones(3), -1), ValueError, "lr: needs a finite number >= 0, got -1"),
        (lambda: SGD(np.ones(3), float("nan")), ValueError, "lr: needs a finite number >= 0, got nan"),
        (lambda: SGD(np.ones(3), 0.1, 1.5), ValueError, "momentum: needs a finite number >= 0 and <= 1, got 1.5"),
        (lambda: Adam(np.ones(3), "fast"), TypeError, "lr: needs a number, got 'fast'"),
        (lambda: Adam(np.ones(3), betas=0.9), TypeError, "betas: needs a pair of numbers, got 0.9"),
        (
            lambda: Adam(np.ones(3), betas=(0.9, 1.0)),
            ValueError,
            r"betas\[1\]: needs a finite number >= 0 and < 1, got 1",
        ),
        (lambda: Adam(np.ones(3), eps=-1e-8), ValueError, "eps: needs a finite number >= 0, got -1e-08"),
        (lambda: clip_grad_norm(np.ones(3), 0), ValueError, "max_norm: needs a finite number > 0, got 0"),
        (lambda: clip_grad_norm([[1.0]], 1), TypeError, r"grads\[0\]: needs an array of float32 or float64"),
        (lambda: clip_grad_norm(5, 1), TypeError, "grads: needs an array of float32 or float64, or several, got 5"),
        (lambda: clip_grad_norm(None, 1), TypeError, "grads: needs an array of .*, or several, got None"),
        (lambda: clip_grad_norm(read_only, 1), ValueError, "grads: needs a writeable array"),
        (lambda: clip_grad_norm(np.ma.ones(3), 1), TypeError, "grads: needs a plain array, got a masked one"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("optimizer", [SGD(np.ones(3), 0.1, 0.9), Adam(np.ones(3))], ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (np.ones(3, np.float32), TypeError, "grad: needs dtype float64 like params, got float32"),
        (np.ones(1), ValueError, r"grad: needs shape \(3,\) like params, got \(1,\)"),
        (None, TypeError, "grad: needs dtype float32 or float64, got object"),
    ],
)
def test_bad_gradients(optimizer, grad, error, message):
    with pytest.raises(error, match=message):
        optimizer.step(grad)
    assert (optimizer.params == 1).all()


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, 0.05)], ids=["SGD", "Adam"])
def test_a_gru_learns_to_remember(make):
    """The first input's sign, after five more of noise."""
    rng = np.random.default_rng(0)
    layer = GRU(1, 8, init="orthogonal", seed=0)
    optimizer = make(layer.flat_params)
    losses = []
    for _ in range(300):
        x = rng.standard_normal((6, 16, 1)).astype(np.float32)
        target = np.sign(x[0, :, 0])
        _, h, tape = layer.forward(x)
        error = h[0, :, 0] - target
        losses.append(float((error**2).mean()))
        grad = np.zeros_like(h)
        grad[0, :, 0] = 2 * error / 16
        grads = layer.backward(tape, grad_state=grad)
        clip_grad_norm(grads.flat, 1.0)
        optimizer.step(grads.flat)
    assert np.mean(losses[:10]) > 0.8 and np.mean(losses[-20:]) < 0.2


@changes_in_place
@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, 0.9), Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda o: setattr(o.params, "shape", (2, 2)), ValueError, r"params: needs shape \(4,\) like the optimizer's"),
        (lambda o: o.params.setflags(write=False), ValueError, "params: needs a writeable array"),
        (lambda o: setattr(o, "params", np.ones(5)), ValueError, r"params: needs shape \(4,\) like the optimizer's"),
        (lambda o: setattr(o, "params", np.ones(4, np.float32)), TypeError, "params: needs dtype float64 like the opt"),
        (lambda o: setattr(o, "params", [1.0, 2.0]), TypeError, "params: needs an array of float32 or float64"),
    ],
    ids=["shape", "read-only", "size", "dtype", "list"],
)
def test_params_that_changed_meanwhile_are_refused_before_the_step(make, change, error, message):
    optimizer = make(np.ones(4))
    optimizer.step(np.ones(4))
    change(optimizer)
    before = copy.deepcopy(vars(optimizer))
    with pytest.raises(error, match=message):
        optimizer.step(np.ones(np.shape(optimizer.params)))
    del before["_scratch"]
    assert all(np.array_equal(vars(optimizer)[name], value) for name, value in before.items())
