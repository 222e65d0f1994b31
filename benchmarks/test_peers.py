# SPDX-License-Identifier: MIT
"""That `peers.py` keeps its promises: with real processes, some of which run the peers of this file, good and bad."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from itertools import chain, cycle

import cases
import limits
import peers
import pytest
from _peer_fastrnn import native
from _peer_grid import OURS, PEERS, Entry, Peer, Result
from _peer_report import notes, record, results_of
from _peer_task import Run, Task

ENTRY = Entry("sequences", "training", "lstm", cases.Case(3, 2, 4, 4))

# -- peers -------------------------------------------------------------------------------------------------------------


def off(by: float, lives: int, task: Task) -> Run:
    """Right but for the first gradient, for so many calls; then the process ends."""
    run, left = native(task), lives

    def call() -> tuple:
        nonlocal left
        if left == 0:
            os._exit(1)
        left -= 1
        out, state, (grad_x, *grads) = run()
        return out, state, [grad_x * (1 + by), *grads]

    return call


near, far = partial(off, 0.5e-4, -1), partial(off, 2e-4, 1)  # 1: none that could be timed


def crashing(task: Task) -> Run:
    """Right, but the LSTM ends when it is timed."""
    return off(0.0, 1 if task.cell == "lstm" else -1, task)


def raising(task: Task) -> Run:
    """Gives no answer."""
    raise RuntimeError("what a library may do")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(peers, "CASE_SECONDS", 0)  # how quiet this machine is does not matter
    for name in ("near", "far", "crashing", "raising"):
        monkeypatch.setitem(PEERS, name, Peer("test_peers", name, ("numpy",)))


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_that_differ_are_refused_before_timing():
    (found,) = peers.measured([ENTRY], [OURS, "near", "far"], 1, 3)
    assert found.seconds.keys() == {OURS, "near"}
    assert found.failed.keys() == {"far"} and "differs by 2.0e-04" in found.failed["far"]


def test_a_peer_that_crashes_is_reported_and_the_rest_is_timed():
    entries = [ENTRY, replace(ENTRY, cell="gru")]
    lstm, gru = peers.measured(entries, [OURS, "raising", "crashing", "numpy"], 1, 3)
    assert lstm.seconds.keys() == {OURS, "numpy"} and lstm.failed.keys() == {"raising", "crashing"}
    assert any("the process of crashing ended" in line for line in notes([lstm]))
    assert gru.seconds.keys() == {OURS, "crashing", "numpy"} and gru.failed.keys() == {"raising"}


def test_the_command_fails_with_a_peer(monkeypatch, capsys, tmp_path):
    file = tmp_path / "peers.json"
    pick = ("--quick", "--cases", "sequences, training: rnn", "--threads", "1", "--peers", "far", "--json", str(file))
    monkeypatch.setattr(sys, "argv", ["peers.py", *pick])
    assert peers.main() == 1
    assert "| **fails** |" in capsys.readouterr().out
    (found,) = results_of(json.loads(file.read_text()))
    assert found.failed.keys() == {"far"} and found.seconds.keys() == {OURS}


# -- time --------------------------------------------------------------------------------------------------------------


class Side:
    """Asked as a process is; its calls take so many seconds, one after the other."""

    def __init__(self, *seconds):
        self.seconds, self.asked = chain(seconds, cycle([1.0])), 0

    def ask(self, calls):
        self.asked += 1
        return next(self.seconds)


WARM_UP = (1.0, 1.0)


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_others_are_held_to_avx2_as_we_are(monkeypatch, isa):
    monkeypatch.setattr(peers, "describe", lambda: {"instruction set": isa})
    for name in peers.AVX2_ALONE:
        monkeypatch.delenv(name, raising=False)
    environment = peers.environment(1)
    held = {name: environment.get(name) for name in peers.AVX2_ALONE}
    assert held == (peers.AVX2_ALONE if isa == "avx2" else dict.fromkeys(peers.AVX2_ALONE))


@pytest.mark.parametrize("seconds", [10, 0], ids=["quick", "slow"])
def test_a_noisy_round_is_repeated_however_slow_the_case(monkeypatch, seconds):
    monkeypatch.setattr(peers, "CASE_SECONDS", seconds)
    sides = quiet, noisy = Side(), Side(*WARM_UP, 1.0, 1.5, 1.01, 1.2)
    times = peers.rounds_of(sides, 3)
    assert times[:, 1].tolist() == [1.0, 1.0, 1.01]  # 1.5 and 1.2 are gone
    assert quiet.asked == noisy.asked == len(WARM_UP) + 3 + 2


def test_noise_without_end_is_given_up_and_shown():
    sides = Side(), Side(*WARM_UP, *(2.0**k for k in range(50)))
    assert peers.deviations(peers.rounds_of(sides, 3)).max() > peers.NOISY
    assert sides[0].asked == len(WARM_UP) + 3 + 3


# -- what is made of it ------------------------------------------------------------------------------------------------


def test_other_calls_of_ours_are_no_peers():
    found = Result(ENTRY, 1, {OURS: 2.0, "fastrnn-layer": 1.0, "torch": 4.0, "numpy": 6.0}, 0.0)
    assert (found.best, found.ratio) == ("torch", 2.0)
    (again,) = results_of(json.loads(json.dumps(record([found], list(found.seconds)[:2], 3))))
    assert again == found


@pytest.mark.parametrize("option", ["--json", "--markdown", "--pictures"])
def test_where_nothing_can_be_written_is_said_at_once(monkeypatch, capsys, tmp_path, option):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["peers.py", option, str(tmp_path / "file" / "deeper")])
    with pytest.raises(SystemExit):
        peers.arguments()
    assert f"argument {option}" in capsys.readouterr().err


def test_limits_add_up():
    """A processor of 2 flops a second, with a cache of 32 bytes; tanh takes a second, its way back three."""
    alone = [("tanh", 0, 10.0), ("tanh", 0, 20.0), ("rnn_back", 0, 30.0), ("gemm", 5, 0.1)]  # of ten elements
    found = {
        "caches": {"L1": 32},
        "limits": {"float32": {"fma": 2.0, "read": {"L1": 16.0, "memory": 1.0}}},
        "primitives": [
            {"primitive": {"what": "", "name": name, "n": 2, "K": K, "N": 5}, "dtype": "float32", "seconds": seconds}
            for name, K, seconds in alone
        ],
    }
    entry = Entry("", "inference", "rnn", cases.Case(T=2, B=1, I=3, H=4))
    units, project, read = 8, 8 * 3, 2 * (32 / 16 + 32)  # W_hh has 64 bytes; to multiply it by h takes but 32
    limit = limits.by_processor(found)
    assert limit(entry) == project + read + units
    assert limit(replace(entry, mode="training")) == 2 * (project + read) + project + 32 + (1 + 3) * units


def test_limits_of_functions_are_theirs_and_autograds():
    inference = replace(ENTRY, mode="inference")
    alone = (ENTRY, 1, 4.0), (inference, 1, 2.0), (ENTRY, 2, 3.0)
    results = [Result(entry, threads, {OURS: seconds, "other": 9.0}, 0.0) for entry, threads, seconds in alone]
    found = json.loads(json.dumps(record(results, [OURS], 3)))
    limit = limits.by_functions(found, {"lstm": 0.5})
    assert (limit(ENTRY), limit(inference)) == (4.5, 2.0)
    assert limits.by_functions(found, {})(ENTRY) == 4.0
