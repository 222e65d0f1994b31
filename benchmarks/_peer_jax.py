# SPDX-License-Identifier: MIT
"""JAX: `jit` and `lax.scan`, the input's product and the biases outside the loop, ragged batches by a mask.

T time steps, B batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from _peer_task import Run, Task
from jax import lax
from jax import numpy as jnp
from jax.nn import sigmoid

jax.config.update("jax_enable_x64", True)  # allows float64; float32 stays what it is


def rnn(state: tuple, z: Any, w: Any, b: Any) -> tuple:
    """The next state from the input's share z, the recurrent weights w, and the bias that is left."""
    return (jnp.tanh(z + state[0] @ w),)


def lstm(state: tuple, z: Any, w: Any, b: Any) -> tuple:
    """Likewise."""
    i, f, g, o = jnp.split(z + state[0] @ w, 4, axis=-1)
    c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
    return sigmoid(o) * jnp.tanh(c), c


def gru(state: tuple, z: Any, w: Any, b: Any) -> tuple:
    """Likewise; b is the bias inside the reset gate's product."""
    r, u, n = jnp.split(z, 3, axis=-1)
    r_h, u_h, n_h = jnp.split(state[0] @ w, 3, axis=-1)
    n = jnp.tanh(n + sigmoid(r + r_h) * (n_h + b))
    return (n + sigmoid(u + u_h) * (state[0] - n),)


CELLS = {"rnn": rnn, "lstm": lstm, "gru": gru}


@partial(jax.jit, static_argnums=0)
def folded(cell: str, weights: Any) -> tuple:
    """Both matrices transposed, the bias outside the loop and, for the GRU, what is left inside."""
    w_ih, w_hh, b_ih, b_hh = weights
    if cell != "gru":
        return w_ih.T, w_hh.T, b_ih + b_hh, None
    r, u, n = jnp.split(b_hh, 3)
    return w_ih.T, w_hh.T, b_ih + jnp.concatenate([r, u, jnp.zeros_like(n)]), n


@partial(jax.jit, static_argnums=0)
def forward(cell: str, x: Any, ready: tuple, state: tuple, valid: Any) -> tuple:
    """The output and the state from folded weights; valid is None or a mask (T, B, 1)."""
    w_ih, w, bias, left = ready

    def step(state: tuple, now: tuple) -> tuple:
        z, on = now
        new = CELLS[cell](state, z, w, left)
        if on is None:
            return new, new[0]
        return tuple(jnp.where(on, a, b) for a, b in zip(new, state, strict=True)), jnp.where(on, new[0], 0)

    state, out = lax.scan(step, state, (x @ w_ih + bias, valid))
    return out, state


@partial(jax.jit, static_argnums=0)
def train(cell: str, x: Any, weights: Any, state: tuple, valid: Any, grad_out: Any) -> tuple:
    """The output, the state and the gradients."""

    def run(x: Any, weights: Any, state: tuple) -> tuple:
        return forward(cell, x, folded(cell, weights), state, valid)

    out, pull, last = jax.vjp(run, x, weights, state, has_aux=True)
    return out, last, pull(grad_out)


@partial(jax.jit, static_argnums=0)
def advance(cell: str, x: Any, ready: tuple, state: tuple) -> tuple:
    """One time step, without a loop."""
    w_ih, w, bias, left = ready
    return CELLS[cell](state, x @ w_ih + bias, w, left)


def scanned(task: Task) -> Run:
    """All on the device and compiled beforehand, for inference the weights folded too; each call waited for."""
    x, weights, grad_out = jax.device_put((task.x, task.weights, task.grad_out))
    state = jax.device_put(tuple(part[0] for part in task.state))
    ready = folded(task.cell, weights)
    if task.mode == "step":
        return steps(task.cell, x[0], ready, state)
    T, lengths = len(task.x), task.lengths
    valid = None if lengths is None else jnp.asarray(np.arange(T)[:, None, None] < lengths[:, None])
    if task.mode == "inference":
        run = partial(forward, task.cell, x, ready, state, valid)
    else:
        run = partial(train, task.cell, x, weights, state, valid, grad_out)
    jax.block_until_ready(run())
    return lambda: jax.block_until_ready(run())


def steps(cell: str, x: Any, ready: tuple, state: tuple) -> Run:
    """One time step after the other."""

    def run() -> Any:
        nonlocal state
        state = advance(cell, x, ready, state)
        return state[0].block_until_ready()

    return run
