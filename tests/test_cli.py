# SPDX-License-Identifier: MIT
"""The command: help, exit codes, info, bench."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import fastrnn
from fastrnn import bench, cli, reference
from fastrnn.config import backend


def run(capsys, *argv):
    """(exit code, stdout, stderr) of a command line."""
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def python(*argv):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60)


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "bench", "info"])
def test_help_of_a_command_describes_it_by_example(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"\n  fastrnn {command}" in out
    assert "example" in out


def test_help_lists_the_commands(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(re.search(rf"^    {name}  ", out, re.MULTILINE) for name in ("demo", "bench", "info"))


def test_version_is_printed(capsys):
    assert run(capsys, "--version") == (0, f"fastrnn {fastrnn.__version__}\n", "")


def test_info_shows_the_configuration(capsys):
    fastrnn.show_config()
    expected = capsys.readouterr().out
    assert "NumPy" in expected
    assert run(capsys, "info") == (0, expected, "")


def test_python_m_is_the_command():
    done = python("-m", "fastrnn", "info")
    assert done.returncode == 0
    assert fastrnn.__version__ in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["train"], "train"),
        (["demo", "--chapters", "6"], "numbers from 1 to 5 with commas between, got '6'"),
        (["demo", "--chapters", ""], "numbers from 1 to 5"),
        (["demo", "--chapters", "1,,3"], "numbers from 1 to 5"),
        (["bench", "--threads", "0"], "an integer in 1..64, got '0'"),
        (["bench", "--threads", "two"], "an integer in 1..64, got 'two'"),
        (["bench", "--threads", "65"], "an integer in 1..64, got '65'"),
        (["bench", "--slow"], "--slow"),
    ],
)
def test_wrong_usage_is_named(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_chapters_in_order_and_once():
    assert cli.chapter_list("3, 1,3") == [1, 3]


def test_a_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run(capsys, "demo", "--out", str(tmp_path / "file"))
    assert code == 1
    assert err.startswith("fastrnn: ")
    assert err.count("\n") == 1


def test_an_interrupt_ends_with_130(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(fastrnn, "show_config", interrupt)
    assert run(capsys, "info") == (130, "", "")


def test_demo_without_matplotlib():
    hide = "import sys; sys.modules['matplotlib'] = None; from fastrnn.cli import main; sys.exit(main(['demo']))"
    done = python("-W", "ignore", "-c", hide)
    assert done.returncode == 1
    assert done.stderr == 'fastrnn: the demo needs matplotlib: pip install "fastrnn[demo]"\n'


def test_progress_is_silent_away_from_a_terminal(capsys):
    for _ in cli.progress(range(2), "two"):
        time.sleep(1.1)  # on a terminal a bar would come after a second
    assert capsys.readouterr() == ("", "")


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    items = range(3)
    assert cli.progress(items, "three") is items


# -- bench -----------------------------------------------------------------------------------------------------------


def test_bench_quick_prints_an_aligned_table():
    done = python("-W", "ignore", "-m", "fastrnn", "bench", "--quick", "--threads", "1")
    assert done.returncode == 0, done.stderr
    config, table = done.stdout.split("\n\n")
    assert re.search(r"^threads +1$", config, re.MULTILINE)
    head, rule, *rows = table.splitlines()
    rows, notes = rows[:12], rows[12:]
    assert head.split()[:5] == ["cell", "T", "B", "H", "mode"]
    assert len(rows) == len(bench.grid(quick=True)) == 12
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}
    assert all(float(row.split()[-1].removesuffix("x")) > 0 for row in rows)
    assert "time step" in notes[0]
    assert ["Both sides are NumPy" in note for note in notes[1:]] == [True] * (backend() is reference)


def test_bench_starts_again_with_its_own_arguments(monkeypatch):
    seen = {}

    def run(command, **options):
        seen.update(options, command=command)
        return SimpleNamespace(returncode=3)

    for name in cli.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["bench", "--quick", "--threads", "2"]) == 3
    assert seen["command"][1:] == ["-m", "fastrnn", "bench", "--threads", "2", "--quick"]
    assert {name: seen["env"][name] for name in cli.THREAD_VARIABLES} == dict.fromkeys(cli.THREAD_VARIABLES, "2")


def test_a_case_is_timed_three_times_at_least(monkeypatch):
    calls, rnn = [], fastrnn.rnn
    monkeypatch.setattr(fastrnn, "rnn", lambda *args: calls.append(1) or rnn(*args))
    bench.measure(bench.Case("rnn", T=2, B=1, H=4, training=False), budget=0)
    assert len(calls) == 1 + 3  # one to compare results


def test_the_default_grid_holds_every_cell_in_both_modes():
    kinds = {(case.cell, case.training) for case in bench.grid()}
    assert kinds == {(cell, training) for cell in ("rnn", "lstm", "gru") for training in (False, True)}


def test_flops_of_a_case():
    inference, training = (bench.Case("lstm", T=3, B=5, H=7, training=training) for training in (False, True))
    assert inference.flops == 2 * 3 * 5 * (4 * 7) * (7 + 7)
    assert training.flops == 3 * inference.flops


def test_row_of_a_result():
    result = bench.Result(bench.Case("rnn", T=100, B=1, H=10, training=False), ours=0.001, fallback=0.002)
    row = ("rnn", "100", "1", "10", "inference", "100,000", "50,000", "0.0", "0.0", "2.0x")
    assert result.row() == row


@pytest.mark.parametrize("training", [False, True])
def test_wrong_results_are_not_timed(capsys, monkeypatch, training):
    name = "gru_forward" if training else "gru"
    right = getattr(fastrnn, name)

    def wrong(*args):
        out, *rest = right(*args)
        out[-1, 0, 0] += np.float32(0.01)
        return out, *rest

    case = bench.Case("gru", T=4, B=2, H=8, training=training)
    bench.check(case)
    monkeypatch.setattr(fastrnn, name, wrong)
    with pytest.raises(ArithmeticError, match="differ by"):
        bench.measure(case, budget=0)
