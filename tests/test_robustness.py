# SPDX-License-Identifier: MIT
"""The compiled half in rough weather: Python threads, forks, ten thousand calls, subnormals, sizes of 0 and beyond all
memory, its own absence, and what the environment says.

T time steps, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import IN_USE, USABLE
from strategies import make_case
from test_layers import KINDS, LENGTHS, arguments, make, parts
from trials import (
    backward,
    call_of,
    changes_in_place,
    close,
    each_cell,
    each_direction,
    each_dtype,
    everything,
    forward,
    same_bits,
)

import fastrnn
from fastrnn import _check, _kernels, _run, config, native, reference

pytestmark = pytest.mark.usefixtures("compiled")

each_kind = pytest.mark.parametrize("kind", KINDS)


def all_kinds():
    """Of every kind, a layer to train and one to stream."""
    return {kind: (make(kind, "both", np.float32), make(kind, "stacked", np.float32)) for kind in KINDS}


def run_all(layers, _=None):
    """Training, inference and a stream of every kind: all that they give."""
    found = {}
    for kind, (trained, streamed) in layers.items():
        x, state = arguments(trained)
        out, end, tape = trained.forward(x, state, LENGTHS)
        grads = trained.backward(tape, out, end)
        stream = streamed.stream(4)
        steps = np.stack([stream(x_t) for x_t in x])
        arrays = (out, *parts(end), grads.x, grads.flat, *parts(grads.state), steps, streamed(x)[0])
        found |= {f"{kind} {k}": a for k, a in enumerate(arrays)}
    return found


# -- Python threads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_many_python_threads_at_once(threads, n):
    threads(n)
    layers = all_kinds()
    expected = run_all(layers)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(functools.partial(run_all, layers), range(60)):
            same_bits(found, expected)


# -- forks -----------------------------------------------------------------------------------------------------------

forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_a_child(work, patience=60.0):
    """Run in a forked child; whether it came to its end, in time and without an error."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@forks
def test_a_fork_after_threads(threads):
    layers = all_kinds()
    expected = run_all(layers)
    threads(3)
    run_all(layers)

    def work():
        same_bits(run_all(layers), expected)

    def work_of_a_parent():
        work()
        assert in_a_child(work)
        work()

    assert in_a_child(work)
    assert in_a_child(work_of_a_parent)
    work()


@forks
def test_a_fork_in_the_midst_of_a_call(threads):
    layers = all_kinds()
    expected = run_all(layers)
    threads(3)
    done = threading.Event()

    def keep_calling():
        while not done.is_set():
            same_bits(run_all(layers), expected)

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(keep_calling)
        try:
            assert all(in_a_child(lambda: same_bits(run_all(layers), expected)) for _ in range(10))
        finally:
            done.set()
        calls.result()


@forks
def test_multiprocessing(threads):
    layers = all_kinds()
    threads(3)
    expected = run_all(layers)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(functools.partial(run_all, layers), range(4)):
            same_bits(found, expected)


# -- memory ----------------------------------------------------------------------------------------------------------


def infer(layer, x, state):
    layer(x, state, LENGTHS)


def train(layer, x, state):
    out, end, tape = layer.forward(x, state, LENGTHS)
    layer.backward(tape, out, end)


def freeze(layer, x, state):
    layer.freeze()(x, state)


def stream(layer, x, state):
    steps = layer.stream(4)
    steps.state = state
    steps(x[0])
    steps(x[0][:, ::-1].copy()[:, ::-1], out=np.empty((4, layer.output_size), layer.dtype))


def refuse(layer, x, state):
    steps = layer.stream(4)
    for call, args in ((layer, (x[0, 0],)), (layer, (x, [])), (steps, (x[0, 0],)), (steps, (x[0], x[0]))):
        with pytest.raises((TypeError, ValueError)):
            call(*args)


def resident():
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("use", [infer, train, freeze, stream, refuse], ids=lambda use: use.__name__)
def test_ten_thousand_calls_take_no_more_memory_than_a_thousand(use):
    layers = [make(kind, dtype=np.float32) for kind in KINDS]
    given = [(layer, *arguments(layer)) for layer in layers]

    def calls(n):
        for k in range(n):
            use(*given[k % len(given)])
        gc.collect()

    calls(1000)
    before, blocks_before = resident(), sys.getallocatedblocks()
    calls(10_000)
    assert sys.getallocatedblocks() - blocks_before < 1000
    assert resident() - before < 2**19  # 52 bytes a call


# -- subnormals ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@each_dtype
def test_a_state_decays_to_nothing(dtype, threads):
    """h_t = h_(t-1) / 2: powers of two, exact until they would be subnormal, then 0; a row on each of two threads."""
    threads(2)
    digits = np.finfo(dtype)
    T = 40 - digits.minexp - digits.machep
    layer = fastrnn.RNN(1, 9, nonlinearity="relu", dtype=dtype)
    layer.flat_params = 0
    layer.params["weight_hh_l0"] = np.eye(9) / 2
    x, h0 = np.zeros((T, 2, 1), dtype), np.ones((1, 2, 9), dtype)
    halves = np.ldexp(1.0, -np.arange(1, T + 1)).astype(dtype)
    halves[halves < digits.tiny] = 0
    expected = np.broadcast_to(halves[:, None, None], (T, 2, 9))
    out, _, tape = layer.forward(x, h0)
    stream = layer.stream(2)
    stream.state = h0
    assert np.array_equal(out, expected) and np.array_equal([stream(x_t) for x_t in x], expected)
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(reference.forward(tape.tapes[0].call, False)[0], out, rtol=0, atol=digits.tiny)
    back = layer.backward(tape, grad_state=h0)  # through units that are no longer at work: relu's slope at 0 is 0
    assert not back.state.any() and np.isfinite(back.flat).all()


@pytest.mark.usefixtures("isa")
@each_direction
@each_dtype
@each_cell
def test_a_subnormal_counts_as_zero(cell, variant, P, dtype, reverse):
    """In weights, states and inputs; the results are close to those of the reference, which takes it as it is."""
    case = make_case(cell, variant, H=9, P=P, dtype=dtype, reverse=reverse)
    tiny, zero = ({name: faded(a, factor) for name, a in case.items()} for factor in (np.finfo(dtype).tiny / 64, 0))
    found = everything(native, cell, tiny)
    same_bits(found, everything(native, cell, zero))
    close(found, everything(reference, cell, tiny))


def faded(value, factor):
    """An argument with the first of each three floats made tiny."""
    if isinstance(value, tuple):
        return tuple(faded(part, factor) for part in value)
    if isinstance(value, np.ndarray):
        value = value.copy()
        value[..., ::3] *= factor
    return value


def subnormals_are_alive():
    """In this thread, in NumPy's vectors and in Python's scalars."""
    halves = [np.full(16, np.finfo(dtype).tiny, dtype) * dtype(0.5) for dtype in (np.float32, np.float64)]
    return all(h.all() for h in halves) and sys.float_info.min / 2 > 0


@pytest.mark.usefixtures("isa")
@each_kind
@pytest.mark.parametrize("n", [1, 3])
def test_the_caller_s_subnormals_stay_alive(kind, n, threads):
    threads(n)
    layer = make(kind, "stacked")
    x, state = arguments(layer)
    for use in (infer, train, stream, refuse):
        use(layer, x, state)
        assert subnormals_are_alive(), use.__name__


@changes_in_place
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_change_in_place_reach_no_tape(kind, lengths):
    """As users flatten ``out`` for a dense layer; nor do those of the parameters reach a layer."""
    layer = make(kind, "both")
    x, state = arguments(layer)
    out, _, tape = layer.forward(x, state, lengths)
    grad_out, x_like = np.ones_like(out), x.copy()
    before = layer.backward(tape, grad_out).flat
    for array in (x, out, *layer.params.values()):
        array.shape = (1, -1)
    assert np.array_equal(layer.backward(tape, grad_out).flat, before)
    assert np.array_equal(layer(x_like, state, lengths)[0].ravel(), out[0])


@changes_in_place
@each_cell
def test_shapes_that_change_in_place_reach_no_tape_of_a_function(cell, variant, P):
    case = make_case(cell, variant, P=P)
    out, _, tape = _run.forward(native, call_of(cell, case))
    losses = {"grad_out": np.ones_like(out), "grad_h_n": None}
    before = backward(tape, losses)
    for array in (out, *(value for value in case.values() if isinstance(value, np.ndarray))):
        array.shape = (1, -1)
    same_bits(backward(tape, losses), before)


class Reshaping:
    """Like an array, but whoever asks for it gives another one another shape."""

    def __init__(self, array, other):
        self.array, self.other = array, other

    def __array__(self, dtype=None, copy=None):
        self.other.shape = (1, 1, -1)
        return self.array


@changes_in_place
@pytest.mark.parametrize("name", ["w_hh", "h0", "lengths"])
def test_arguments_that_change_the_shape_of_others(name):
    """Nothing is read past an end: it is the result of the shape there was, or an error."""
    T, B, I, H = 200, 50, 8, 9
    case = {"x": np.ones((T, B, I)), "w_ih": np.ones((H, I)), "w_hh": np.ones((H, H)), "h0": np.ones((B, H))}
    expected = fastrnn.rnn(**case, lengths=[T - 1] * B)[0]
    given = case | {"lengths": np.full(B, T - 1)}
    given[name] = Reshaping(given[name], case["x"])
    with contextlib.suppress(ValueError):
        assert np.array_equal(fastrnn.rnn(**given)[0], expected)


@changes_in_place
@pytest.mark.parametrize("name", ["state", "lengths", "grad_state"])
def test_arguments_that_change_the_shape_of_a_layers_others(name):
    layer = fastrnn.RNN(8, 9, dtype=np.float64, seed=0)
    x, state, lengths = np.ones((200, 50, 8)), np.ones((1, 50, 9)), np.full(50, 199)
    out, _, tape = layer.forward(x, state, lengths)
    if name == "grad_state":
        expected = layer.backward(tape, out.copy(), state).flat
        assert np.array_equal(layer.backward(tape, out, Reshaping(state, out)).flat, expected)
        return
    given = {"state": state, "lengths": lengths}
    given[name] = Reshaping(given[name], x)
    assert np.array_equal(layer(x, **given)[0], out)


def pairs_of_arguments():
    """Calls of which one argument, when an array is made of it, changes the shape of another."""

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    T, B, I, H = 5, 2, 3, 1024
    x, lengths, h, c = np.ones((T, B, I), np.float32), [3, 5], zeros(B, H), zeros(B, H)
    w_ih, w_hh, layer = zeros(4 * H, I), zeros(4 * H, H), fastrnn.LSTM(I, H, 2)
    out, _, tape = layer.forward(x)
    _, _, function_tape = fastrnn.lstm_forward(x, w_ih, w_hh, lengths=lengths)
    of_layer, other = zeros(2, B, H), zeros(2, B, H)
    return {
        "state of a layer": lambda: layer(x, (of_layer, Reshaping(other, of_layer))),
        "state and lengths": lambda: layer(x, (of_layer, other), Reshaping(np.array(lengths), of_layer)),
        "state of a function": lambda: fastrnn.lstm(x, w_ih, w_hh, None, None, (h, Reshaping(c, h)), lengths=lengths),
        "weights": lambda: fastrnn.lstm(x, w_ih, w_hh, Reshaping(zeros(4 * H), w_hh)),
        "grad_state": lambda: layer.backward(tape, out, (of_layer, Reshaping(other, of_layer))),
        "gradients": lambda: fastrnn.lstm_backward(function_tape, None, h, Reshaping(c, h)),
    }


@changes_in_place
@pytest.mark.parametrize("which", pairs_of_arguments())
def test_any_argument_that_changes_the_shape_of_another(which):
    for _ in range(3):
        pairs_of_arguments()[which]()


# -- sizes -----------------------------------------------------------------------------------------------------------


def endless(*shape):
    """Zeros of any shape that take no memory."""
    return np.broadcast_to(np.zeros(1, np.float32), shape)


ONE = {"w_ih": endless(4, 1), "w_hh": endless(4, 1)}  # an LSTM of one unit
HUGE = {
    "time": lambda: fastrnn.lstm(endless(2**50, 1, 1), **ONE),
    "batch": lambda: fastrnn.lstm(endless(1, 2**50, 1), **ONE),
    "product": lambda: fastrnn.lstm(endless(2**30, 2**30, 1), **ONE),
    "training": lambda: fastrnn.lstm_forward(endless(2**50, 1, 1), **ONE),
    "states": lambda: fastrnn.lstm(endless(0, 2**50, 1), **ONE),
    "projection": lambda: fastrnn.lstm(endless(2**44, 1, 1), endless(4, 1), endless(4, 2**18), w_hr=endless(2**18, 1)),
    "inputs": lambda: fastrnn.lstm(endless(1, 1, 2**50), endless(4, 2**50), ONE["w_hh"]),
    "units": lambda: fastrnn.rnn(endless(1, 1, 1), endless(2**30, 1), endless(2**30, 2**30)),
    "gates": lambda: fastrnn.LSTM(2**31, 2**31),
    "weights": lambda: fastrnn.RNN(2**46, 1),
    "layers": lambda: fastrnn.GRU(1, 1, 2**60),
    "layer's time": lambda: fastrnn.GRU(1, 1)(endless(2**50, 1, 1)),
    "layer's batch": lambda: fastrnn.GRU(1, 1, batch_first=True)(endless(2**50, 1, 1)),
    "layer's product": lambda: fastrnn.GRU(1, 1, bidirectional=True).forward(endless(2**30, 2**30, 1)),
    "stream's batch": lambda: fastrnn.GRU(1, 1).stream(2**50),
    "stream's product": lambda: fastrnn.GRU(1, 1).stream(2**60),
    "frozen stream's product": lambda: fastrnn.GRU(1, 8).freeze().stream(2**58),
}


@pytest.mark.parametrize("huge", HUGE)
def test_what_no_memory_holds_is_an_error(huge):
    with pytest.raises((MemoryError, ValueError)):
        HUGE[huge]()


def test_what_no_address_space_holds_is_named():
    for call in (fastrnn.lstm, fastrnn.lstm_forward, reference.lstm):
        with pytest.raises(
            ValueError, match=r"^x: needs T\*B\*4 elements below 2\*\*50 bytes, got T = 1073741824, B = 107"
        ):
            call(endless(2**30, 2**30, 1), **ONE)
        with pytest.raises(ValueError, match=r"^x: needs T\*B\*262144 elements below 2\*\*50 bytes"):
            call(endless(2**44, 1, 1), endless(4, 1), endless(4, 2**18), w_hr=endless(2**18, 1))


def test_bytes_are_counted_not_elements():
    x, w = np.broadcast_to(0.0, (2**47, 1, 1)), np.ones((3, 1))
    with pytest.raises(ValueError, match="elements below 2"):
        fastrnn.gru(x, w, w)
    with pytest.raises(ValueError, match="bytes of weights"):
        fastrnn.RNN(1, 2**24, dtype=np.float64)
    with pytest.raises(ValueError, match="bytes of states"):
        fastrnn.GRU(3, 5).stream(2**46)


def test_no_size_of_a_workspace_overflows():
    """One for each of 64 threads, and in it some arrays of the size that is checked."""
    assert _check.MAX_BYTES * config.MOST_THREADS * 16 < 2**63


def test_no_rows_of_endless_steps_take_no_time():
    *_, tape = fastrnn.rnn_forward(np.empty((2**40, 0, 1), np.float32), *np.ones((2, 1, 1), np.float32))
    assert not fastrnn.rnn_backward(tape).w_ih.any()


SCARCE = """
import resource
from fastrnn._kernels import Memory
kept = [Memory(120 << 20) for _ in range(2)]
del kept
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (100 << 20),) * 2)
Memory(200 << 20)
"""


def test_memory_that_is_kept_is_given_back_where_it_is_scarce():
    ended = python(SCARCE)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)], ids=str)
@each_dtype
@each_cell
def test_no_steps_or_no_rows(cell, variant, P, dtype, T, B):
    for lengths, reverse in ((None, False), (np.zeros(B, int), True)):
        case = make_case(cell, variant, T=T, B=B, P=P, dtype=dtype, lengths=lengths, reverse=reverse)
        found = everything(native, cell, case)
        close(found, everything(reference, cell, case))
        h0 = case["state0"][0] if cell == "lstm" else case["h0"]
        assert np.array_equal(found["h_n"], h0) and found["out"].shape == (T, B, P or 5)
        assert not any(a.any() for name, a in found.items() if name.startswith(("grad_w", "grad_b")))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)], ids=str)
@each_kind
def test_layers_of_no_steps_or_no_rows(kind, shape):
    layer = make(kind, "both")
    x = np.zeros((*shape, 3))
    out, end, tape = layer.forward(x)
    grads = layer.backward(tape, out, end)
    for found in (out, layer(x)[0], layer.freeze()(x)[0]):
        assert found.shape == (*shape, 2 * layer.output_size)
    assert grads.x.shape == x.shape and not grads.flat.any()
    assert [a.shape for a in parts(grads.state)] == [a.shape for a in parts(end)]


# -- without the compiled half ---------------------------------------------------------------------------------------


def python(script, **environment):
    """Run a script in a process of its own, with nothing of fastrnn's in its environment but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")}
    command = [sys.executable, "-W", "always", "-c", script]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


BLOCK = """
import sys
sys.modules["fastrnn.{}"] = None
"""
TRY = """
import numpy as np, fastrnn
out, state, tape = fastrnn.lstm_forward(np.ones((2, 1, 1)), np.ones((4, 1)), np.ones((4, 1)))
print(out.ravel().tolist(), fastrnn.lstm_backward(tape, out).x.ravel().tolist())
print(fastrnn.GRU(3, 5, seed=0, dtype=np.float64).stream()(np.ones(3)).tolist())
fastrnn.show_config()
"""


@pytest.mark.parametrize("module", ["_kernels", "_unroll", "_lstm", "_stepper"])
def test_no_compiled_half(module):
    ended = python(BLOCK.format(module) + TRY)
    assert ended.returncode == 0
    assert ended.stderr.count("Warning") == 1
    assert (
        "RuntimeWarning: fastrnn runs on NumPy alone, many times slower: the compiled kernels could not" in ended.stderr
    )
    first, second, *shown = ended.stdout.splitlines()
    expected = python(TRY, FASTRNN_BACKEND="numpy")
    assert expected.stdout.splitlines()[:2] == [first, second] and expected.stderr == ""
    shown = dict(line.split(maxsplit=1) for line in shown if line.startswith(("backend", "threads", "compiler")))
    assert shown["backend"].startswith("numpy (the compiled kernels could not be loaded: ")
    assert f"fastrnn.{module}" in shown["backend"] and shown["compiler"] == "none"


@pytest.mark.parametrize("module", ["_kernels", "_stepper"])
def test_no_compiled_half_where_it_is_wanted(module):
    ended = python(BLOCK.format(module) + TRY, FASTRNN_BACKEND="native")
    assert ended.returncode == 1 and ended.stdout == "" and "RuntimeWarning" not in ended.stderr
    message = "ImportError: FASTRNN_BACKEND=native, but the compiled kernels could not be loaded: "
    assert ended.stderr.splitlines()[-1].startswith(message)


# -- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FASTRNN_BACKEND", "cuda", "FASTRNN_BACKEND: needs one of 'native', 'numpy', got 'cuda'"),
        ("FASTRNN_BACKEND", "NumPy", "FASTRNN_BACKEND: needs one of 'native', 'numpy', got 'NumPy'"),
        ("FASTRNN_ISA", "sse9", "FASTRNN_ISA: needs one of 'portable', 'avx2', 'avx512', got 'sse9'"),
        ("FASTRNN_NUM_THREADS", "0", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got 0"),
        ("FASTRNN_NUM_THREADS", "65", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got 65"),
        ("FASTRNN_NUM_THREADS", "-1", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got '-1'"),
        ("FASTRNN_NUM_THREADS", "1.5", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got '1.5'"),
        ("FASTRNN_NUM_THREADS", "all", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got 'all'"),
        ("FASTRNN_NUM_THREADS", " ", "FASTRNN_NUM_THREADS: needs an integer in 1..64, got ' '"),
    ],
)
@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_a_bad_setting(name, value, message, backend):
    ended = python("import fastrnn", **{"FASTRNN_BACKEND": backend} | {name: value})
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1] == f"ValueError: {message}"


DESCRIBE = """
import fastrnn
from fastrnn.config import describe
print(describe()["backend"], describe()["instruction set"], fastrnn.get_num_threads(), sep=";")
"""


def test_the_settings_are_obeyed():
    def described(**environment):
        return python(DESCRIBE, **environment).stdout.strip().split(";")

    for k, name in enumerate(config.ISAS):
        best = [known for known in config.ISAS[: k + 1] if known in USABLE][-1]
        assert described(FASTRNN_ISA=name) == ["native (compiled kernels)", best, str(usual_threads())]
    assert described() == ["native (compiled kernels)", USABLE[-1], str(usual_threads())]
    assert described(FASTRNN_BACKEND="native", FASTRNN_NUM_THREADS="7")[::2] == ["native (FASTRNN_BACKEND=native)", "7"]
    assert described(FASTRNN_BACKEND="numpy", FASTRNN_ISA="", FASTRNN_NUM_THREADS=" 64 ") == [
        "numpy (FASTRNN_BACKEND=numpy)",
        "NumPy's own",
        "64",
    ]


def test_the_kernels_work_where_nobody_has_chosen():
    script = "from fastrnn import _check, native; import numpy as np; one = np.ones((1, 1)); "
    script += "print(native.forward(_check.rnn(one[None], one, one, None, None, None, 'relu', None, False), False)[0])"
    assert python(script, FASTRNN_BACKEND="numpy").stdout.strip() == "[[[1.]]]"


def usual_threads():
    return min(config._processors(), config.MOST_THREADS)


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "nonsense\n"}, 64),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "0\n"}, 64),
        ({"cpu.cfs_quota_us": "400000\n"}, 64),
    ],
)
def test_a_container_has_as_many_threads_as_its_share_of_processors(files, threads, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(config, "CGROUPS", (tmp_path / "none", tmp_path))
    monkeypatch.setattr(config, "CPU_QUOTA", config._cpu_quota())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.delenv("FASTRNN_NUM_THREADS", raising=False)
    assert config._default_threads() == threads


def test_threads_are_set_without_reading_files(monkeypatch):
    monkeypatch.setattr(config, "_cpu_quota", None)  # it takes as long as a short pass
    fastrnn.set_num_threads(fastrnn.get_num_threads())


def test_no_call_has_more_threads_than_processors():
    """Many more would take several times as long as one, waiting for each other."""
    script = """
import os, numpy as np, fastrnn
layer, x = fastrnn.LSTM(64, 128), np.ones((20, 64, 64), np.float32)
for n in (64, 1):
    fastrnn.set_num_threads(64)
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:n])
    fastrnn.set_num_threads(64)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(9):
        layer(x)
    print(len(os.listdir("/proc/self/task")) - before)
"""
    many, one = map(int, python(script).stdout.split())
    assert many == usual_threads() - 1 and one == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_worker_keeps_its_processors_and_its_faults():
    """It may go where it could before it was woken, and a fault in it is not blocked, so that handlers learn of it."""
    script = """
import os, signal, time, numpy as np, fastrnn
from fastrnn import _unroll
_unroll.set_shared_flops(0)
_unroll.set_threads(2)
layer, x = fastrnn.LSTM(8, 16), np.ones((20, 64, 8), np.float32)
before = set(os.listdir("/proc/self/task"))
layer(x)
(worker,) = set(os.listdir("/proc/self/task")) - before
last = {max(os.sched_getaffinity(0))}
os.sched_setaffinity(int(worker), last)
for _ in range(5):
    time.sleep(0.02)  # it falls asleep
    layer(x)
    assert os.sched_getaffinity(int(worker)) == last
text = open(f"/proc/self/task/{worker}/status").read()
blocked = int(text.partition("SigBlk:")[2].split()[0], 16)
print(*(blocked >> (number - 1) & 1 for number in (signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS, signal.SIGINT)))
"""
    assert python(script).stdout.split() == ["0", "0", "0", "1"]


def test_the_source_folder_says_what_it_is(tmp_path):
    shutil.copytree(config.__file__.rpartition(os.sep)[0], tmp_path / "fastrnn", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / "fastrnn" / "_kernels.pyx").touch()  # an installed package has none
    script = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
    ended = python(f"{script} sys.path[0] = {str(tmp_path)!r}; import fastrnn; fastrnn.show_config()")
    assert "No module named 'fastrnn._kernels'; this is the source folder: start Python elsewhere, or" in ended.stdout


def test_who_looks_at_all_names_imports_no_framework():
    script = "import inspect, sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'sklearn', 'keras', 'h5py')));"
    ended = python(script + "import fastrnn; print(len(inspect.getmembers(fastrnn)))")
    assert ended.stderr == "" and int(ended.stdout) > len(fastrnn.__all__)


def test_the_callers_rounding_mode_does_not_matter():
    libm = ctypes.CDLL(None)
    upward = {"x86_64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}[platform.machine()]
    layer = fastrnn.LSTM(9, 17, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 9)).astype(np.float32)
    before, tape = layer(x)[0], layer.forward(x)[2]
    grads = layer.backward(tape, before).flat
    assert libm.fesetround(upward) == 0
    try:
        after, tape = layer(x)[0], layer.forward(x)[2]
        after_grads = layer.backward(tape, before).flat
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(0)
    if config.backend() is not reference:  # NumPy's BLAS rounds as it is told
        assert np.array_equal(after, before) and np.array_equal(after_grads, grads)


def test_each_instruction_set_computes_what_it_does_here():
    case = make_case("lstm", T=4, B=2, I=1, H=1, dtype=np.float64, bias="none", state="none", seed=3)
    for name in USABLE:
        script = f"""
import numpy as np, fastrnn
x, w_ih, w_hh = (np.array(a) for a in {[case[k].tolist() for k in ("x", "w_ih", "w_hh")]!r})
print(fastrnn.lstm(x, w_ih, w_hh)[0].tolist())
"""
        ended = python(script, FASTRNN_ISA=name)
        _kernels.use(name)
        expected = forward(native, call_of("lstm", case))[0]["out"].tolist()
        _kernels.use(IN_USE)
        assert ended.stdout.strip() == str(expected)
