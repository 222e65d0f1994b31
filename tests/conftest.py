# SPDX-License-Identifier: MIT
"""Fixtures: the compiled kernels on each instruction set, behind the public API, and on as many threads as wanted."""

from __future__ import annotations

import pytest

from fastrnn import _kernels, _unroll, config, native

USABLE = [name for name, runs in _kernels.instruction_sets().items() if runs]
IN_USE = config._isa or USABLE[-1]

_kernels.use(IN_USE)  # with FASTRNN_BACKEND=numpy nobody has


@pytest.fixture(scope="module", params=USABLE)
def isa(request):
    """Each instruction set that this machine runs, in turn. What was packed for one is of no use to the next."""
    _kernels.use(request.param)
    yield request.param
    _kernels.use(IN_USE)


@pytest.fixture(scope="module")
def compiled():
    """The public API on the compiled kernels, whatever FASTRNN_BACKEND says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "_backend", native)
        yield


@pytest.fixture
def threads():
    """A function that sets the number of threads. Meanwhile every call is shared out, however small."""
    flops, weights = _unroll.set_shared_flops(0), _unroll.set_shared_weights(0)
    yield _unroll.set_threads
    _unroll.set_shared_flops(flops)
    _unroll.set_shared_weights(weights)
    _unroll.set_threads(config.get_num_threads())
