# SPDX-License-Identifier: MIT
"""How much memory a pass takes beyond its results: tracemalloc sees the kernels' blocks and NumPy's arrays alike.

T time steps, B batch, I input size, H hidden size, P size of the projected h, G gates.
"""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from strategies import make_case
from test_layers import KINDS, STACKS, arguments, make, parts
from trials import backward, call_of, each_cell, each_direction, each_dtype, each_lengths, forward, losses_of

from fastrnn import _kernels, native
from fastrnn._records import GATES

CHUNK_BYTES = 128 * 1024  # of the hoisted projection, see _unroll.pyx
KEPT_BYTES = 256 * 2**20  # of blocks kept for later calls, see _kernels.pyx
LEAST_BYTES = 32 * 2**10  # of a result that takes one
TAPE = {"rnn": 0, "lstm": 5, "gru": 4}  # floats for each unit and step: i f g o c, r z n q (or rh)


@contextmanager
def traced():
    """Memory is traced meanwhile."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def forget_blocks():
    """Two blocks as large as any that is kept take the room of all others."""
    blocks = [_kernels.Memory(KEPT_BYTES // 2) for _ in range(2)]
    del blocks


def beyond_results(run):
    """The most bytes in use at a time in a call, its results not included."""
    forget_blocks()
    with traced():
        results = run()
        return tracemalloc.get_traced_memory()[1] - sum(a.nbytes for a in results.values())


# -- workspaces ------------------------------------------------------------------------------------------------------


@each_lengths
@each_direction
@each_dtype
@each_cell
def test_workspaces_do_not_grow_with_time(cell, variant, P, dtype, reverse, ragged, threads):
    threads(1)
    B, I, H = 2, 16, 32
    forwards, backwards = [], []
    for T in (3000, 9000):
        lengths = (T // 2, T) if ragged else None
        case = make_case(cell, variant, T, B, I, H, P, dtype, lengths=lengths, reverse=reverse)
        call = call_of(cell, case)
        forwards.append(beyond_results(lambda call=call: forward(native, call, training=False)[0]))
        results, tape = forward(native, call)
        losses = losses_of(results, lengths)
        backwards.append(beyond_results(lambda tape=tape, losses=losses: backward(tape, losses)))
    for short, long in (forwards, backwards):
        assert long <= short + 4000  # one float more a step would be 24 000
    gates, size = GATES[cell] * H, np.dtype(dtype).itemsize
    packed = gates * (I + H + 2) * size
    assert forwards[0] < CHUNK_BYTES * (1 + I / gates) + 2 * packed + 10_000


def test_kept_blocks_are_bounded():
    forget_blocks()
    with traced():
        blocks = [_kernels.Memory(10**7) for _ in range(30)]
        assert tracemalloc.get_traced_memory()[0] > 30 * 10**7 > KEPT_BYTES
        del blocks
        assert 10**7 < tracemalloc.get_traced_memory()[0] < KEPT_BYTES


def test_a_block_of_more_than_half_is_not_kept():
    forget_blocks()
    with traced():
        before = tracemalloc.get_traced_memory()[0]
        block = _kernels.Memory(KEPT_BYTES // 2 + 1)
        del block
        assert tracemalloc.get_traced_memory()[0] < before + 10_000


# -- results -------------------------------------------------------------------------------------------------------


def pass_of(layer, x):
    """All arrays of a pass forward and back."""
    out, state, tape = layer.forward(x)
    grads = layer.backward(tape, np.ones_like(out))
    return [out, *parts(state), grads.x, grads.flat, *parts(grads.state)]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("stack", ["plain", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_results_last_while_anything_refers_to_them(kind, stack):
    """Their memory is used again, but not before nobody sees it any more, not through a view either."""
    kind, options = KINDS[kind]
    layer = kind(64, 64, **options, **STACKS[stack], seed=0)
    x, other = np.random.default_rng(0).standard_normal((2, 40, 8, 64), np.float32)
    results = pass_of(layer, x)
    assert results[0].nbytes > LEAST_BYTES or layer.output_size < 64
    copies, views = [a.copy() for a in results], [a[..., 1:] for a in results]
    del results
    for _ in range(4):
        pass_of(layer, other)
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy[..., 1:])


@pytest.mark.parametrize(("bytes_", "taken"), [(240_000, True), (300_000, False), (190_000, False)])
def test_a_result_takes_memory_of_about_its_size(bytes_, taken):
    """It may last: what it would leave unused of a block would be lost as long."""
    forget_blocks()
    block = _kernels.Memory(bytes_)
    place = np.frombuffer(block, np.uint8).ctypes.data
    del block
    array = _kernels.new_array((200, 250), np.dtype("f4"))
    assert (array.ctypes.data == place) is taken


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (7,), (100, 3, 41), (8192,), (64, 50, 20)])
@each_dtype
def test_new_arrays_are_as_numpy_makes_them(shape, dtype):
    array, like = _kernels.new_array(shape, np.dtype(dtype)), np.empty(shape, dtype)
    assert array.dtype == like.dtype and array.shape == shape and array.strides == like.strides
    assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
    array[...] = 7
    assert array.sum() == 7 * array.size


# -- the tape --------------------------------------------------------------------------------------------------------


@each_lengths
@each_dtype
@each_cell
def test_what_the_tape_holds(cell, variant, P, dtype, ragged):
    """For the steps that the sequences have what TAPE says and h, the initial states, and no copy of x."""
    T, B, H = 50, 3, 17
    lengths = (50, 20, 5) if ragged else None
    call = call_of(cell, make_case(cell, variant, T, B, 5, H, P, dtype, lengths=lengths))
    x, w_hh = call.x, call.w_hh
    _, tape = forward(native, call)
    assert tape.call.w_hh is w_hh
    assert tape.call.x.__array_interface__ == x.__array_interface__  # the same memory
    gates, _, h, c0 = tape.saved
    size, R = np.dtype(dtype).itemsize, sum(lengths or [T] * B)
    assert gates.size == TAPE[cell] * R * H * size
    assert h.size == (B + R) * call.P * size
    assert c0 is None or c0.nbytes == B * H * size


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("B", [None, 1, 3])
@each_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_into_out_allocates_nothing(kind, dtype, B):
    """Nothing that it keeps; for a moment a number of Python's."""
    layer = make(kind, "stacked", dtype)
    stream = layer.stream(B or 1)
    x = arguments(layer, rows=B or 1)[0][0]
    x, out = (a if B else a[0] for a in (x, np.empty((B or 1, layer.output_size), dtype)))

    def steps(n):
        for _ in itertools.repeat(None, n):
            stream(x, out)

    steps(10)
    before = sys.getallocatedblocks()
    steps(1000)
    assert sys.getallocatedblocks() - before < 10
    with traced():
        steps(100)
        kept, most = tracemalloc.get_traced_memory()
    assert kept < 100 and most < 1000
