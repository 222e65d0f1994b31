# SPDX-License-Identifier: MIT
"""The demo: what its chapters find, and what they leave in the folder. It runs once, without display and network."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import subprocess
import sys
from time import perf_counter
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest

import fastrnn
from fastrnn import cli, demo
from fastrnn.demo import _data, learned, memory, one_network, prices, speech

PLOTS = ["1-one-network", "2-learned", "3-one-unit", "3-cells", "4-prices", "5-speech"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The whole demo: what it returned, printed and wrote, and the seconds it took."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"

    def no_network(*args, **kwargs):
        raise AssertionError("the demo needs no network")

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(socket, "socket", no_network)
        patch.delenv("DISPLAY", raising=False)
        start = perf_counter()
        results = demo.run(folder)
        seconds = perf_counter() - start
    report = (folder / "report.md").read_text(encoding="utf-8")
    return SimpleNamespace(results=results, printed=printed.getvalue(), folder=folder, report=report, seconds=seconds)


# -- the whole -------------------------------------------------------------------------------------------------------


def test_under_a_minute(shown):
    assert shown.seconds < 60


def test_folder_holds_report_and_plots_only(shown):
    assert {path.name for path in shown.folder.iterdir()} == {"report.md", *(f"{name}.png" for name in PLOTS)}


@pytest.mark.parametrize("name", PLOTS)
def test_plot_is_no_blank_sheet(shown, name):
    pixels = matplotlib.image.imread(shown.folder / f"{name}.png")
    assert min(pixels.shape[:2]) > 250
    assert len(np.unique(pixels)) > 20


def test_report_has_every_chapter_and_plot(shown):
    assert re.findall(r"^## (\d)\. ", shown.report, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert re.findall(r"!\[[^]]+\]\((.+)\.png\)", shown.report) == PLOTS
    assert "Japanese Vowels" in shown.report
    assert "CC BY 4.0" in shown.report


def test_paths_are_printed_last(shown):
    last = shown.printed.split("Written:\n")[1].split()
    assert last == [str(shown.folder / name) for name in ("report.md", *(f"{name}.png" for name in PLOTS))]


def test_findings_are_printed_and_reported(shown):
    findings = re.findall(r"^\*\*(.+)\*\*$", shown.report, re.MULTILINE)
    assert len(findings) >= 5
    assert all(f"   {finding}\n" in shown.printed for finding in findings)


def test_chosen_chapters_from_the_command(tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path), "--chapters", "3,1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", *(f"{PLOTS[k]}.png" for k in (0, 2, 3))}
    captured = capsys.readouterr()
    assert re.findall(r"^(\d)\. ", captured.out, re.MULTILINE) == ["1", "3"]
    assert captured.err == ""


def test_no_pyplot(tmp_path):
    """Pyplot looks for a display; importing it would be a global change to a host program, too."""
    code = (
        "import sys; from fastrnn.cli import main; main(['demo', '--chapters', '1', '--out', sys.argv[1]]); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


# -- chapters 1 and 2 ------------------------------------------------------------------------------------------------


def test_one_network_by_hand(shown):
    np.testing.assert_allclose(shown.results[1], [0, 0.99, 0, 0.99], atol=1e-6)
    for line in (
        "  yesterday  h = relu(1.8 * 1.0 + (-0.5) * 0.00) = 1.80",
        "  today      h = relu(1.8 * 0.5 + (-0.5) * 1.80) = 0.00",
        "  tomorrow   1.1 * 0.90 = 0.99  ->  high",
    ):
        assert line in shown.report.splitlines()


def test_the_same_network_learned(shown):
    np.testing.assert_allclose(shown.results[2], one_network.TOMORROW, atol=learned.CLOSE)


def test_every_seed_tried_is_reported(shown):
    tried = learned.attempts(demo.quiet)
    assert [attempt.solved for attempt in tried] == [False] * (len(tried) - 1) + [True]
    assert all(attempt.fate in shown.report for attempt in tried[:-1])


def test_a_silent_unit_is_told_from_a_wrong_one():
    silent = learned.Attempt(3, np.ones(3), [0.5], np.zeros(4))
    wrong = silent._replace(predictions=np.full(4, 0.5))
    assert silent.fate == "seed 3 (error 0.5, its unit silent)"
    assert wrong.fate == "seed 3 (error 0.5)"
    assert not silent.solved
    assert not wrong.solved


def test_by_hand_is_what_the_network_computes(shown):
    by_hand = [learned.by_hand(case) for case in one_network.PRICES]
    np.testing.assert_allclose(shown.results[1], by_hand, atol=1e-6)


# -- chapter 3 -------------------------------------------------------------------------------------------------------


def test_one_unit_follows_the_formula(shown):
    flows = shown.results[3].scalar
    assert list(flows) == [0.5, 0.9, 1.0, 1.1, 2.0]
    for weight, norms in flows.items():
        w = float(np.float32(weight))
        np.testing.assert_allclose(norms, w ** np.arange(49, -1, -1.0), rtol=1e-9)


def test_gates_carry_farther(shown):
    shares = {name: memory.share(flow) for name, flow in shown.results[3].cells.items()}
    assert 0 < shares["RNN"] < shares["GRU"] < shares["LSTM"] < 1


# -- chapter 4 -------------------------------------------------------------------------------------------------------


def test_classes_never_look_ahead():
    price = _data.stock_prices()[0].price
    whole = prices.classes(price)
    for months in (13, 40, 200):
        np.testing.assert_array_equal(prices.classes(price[:months]), whole[: months - prices.WARM_UP])


def test_classes_by_hand():
    past = np.arange(1.0, 13.0)  # its terciles: 4 2/3 and 8 1/3
    assert [prices.classes(np.append(past, p))[0] for p in (0, 4.6, 4.7, 8.3, 8.4, 99)] == [0, 0, 1, 1, 2, 2]


def test_the_last_fifth_of_each_ticker_is_held_out():
    tickers = _data.stock_prices()
    batch = prices.Batch.of(tickers)
    pairs = np.array([len(ticker.price) - prices.WARM_UP - 1 for ticker in tickers])
    assert len(set(pairs)) > 1
    np.testing.assert_array_equal(batch.lengths, pairs)
    np.testing.assert_array_equal(batch.test.sum(axis=0), pairs // 5)
    np.testing.assert_array_equal(batch.train.sum(axis=0) + batch.test.sum(axis=0), pairs)
    assert not (batch.train & batch.test).any()
    np.testing.assert_array_equal(2 * batch.x[1:, 0, 0], batch.target[:-1, 0])  # a month's target is the next input


def test_training_does_not_see_what_is_held_out(monkeypatch):
    monkeypatch.setattr(prices, "STEPS", 3)
    batch = prices.Batch.of(_data.stock_prices())
    spoilt = batch._replace(
        target=np.where(batch.test, 0, batch.target), x=np.where(batch.test[:, :, np.newaxis], 9, batch.x)
    )
    spoilt = spoilt._replace(x=spoilt.x.astype(np.float32))
    plain, blind = (prices.train(fastrnn.RNN, b, demo.quiet)[batch.train] for b in (batch, spoilt))
    np.testing.assert_array_equal(plain, blind)


def test_scores_count(shown):
    batch = prices.Batch.of(_data.stock_prices())
    perfect = prices.Score.of(batch.target, batch)
    assert (perfect.right, perfect.changes_foreseen) == (perfect.months, perfect.changes)
    same = shown.results[4]["same as this month"]
    assert (same.right, same.changes_foreseen) == (same.months - same.changes, 0)


def test_networks_learned_something_and_all_are_reported(shown):
    scores = shown.results[4]
    assert list(scores) == ["same as this month", "majority class", "RNN", "GRU", "LSTM"]
    assert all(scores[name].right > scores["majority class"].right for name in ("RNN", "GRU", "LSTM"))
    for name, score in scores.items():
        assert f"| {name} | {score.right} | {score.months} |" in shown.report


@pytest.mark.parametrize(("right", "says"), [(49, "No network beats"), (50, "No network beats"), (52, "by 2 months")])
def test_verdict_is_honest(right, says):
    scores = {
        "RNN": prices.Score(right, 100, 0, 0),
        "GRU": prices.Score(7, 100, 0, 0),
        "rule": prices.Score(50, 100, 0, 0),
    }
    verdict = prices.verdict(scores, ["RNN", "GRU"])
    assert says in verdict
    assert f"RNN {right}.0%, 'rule' 50.0%" in verdict


# -- chapter 5 -------------------------------------------------------------------------------------------------------


def test_speakers_are_named(shown):
    result = shown.results[5]
    assert len(result["accuracies"]) == len(speech.SEEDS)
    assert min(result["accuracies"]) >= 0.95
    assert f"test accuracy {np.mean(result['accuracies']):.3f}" in shown.report
    assert f"{result['fallback_seconds'] / result['seconds']:.1f} times as long" in shown.report


def test_vowels_are_whole_and_standardised():
    train, test = _data.japanese_vowels()
    assert (len(train.speaker), len(test.speaker)) == (270, 370)
    for part in (train, test):
        assert part.frames.shape == (part.lengths.max(), len(part.speaker), 12)
        padding = np.arange(len(part.frames))[:, np.newaxis] >= part.lengths
        assert not part.frames[padding].any()
        assert set(part.speaker) == set(range(9))
    spoken = train.frames[np.arange(len(train.frames))[:, np.newaxis] < train.lengths]
    np.testing.assert_allclose(spoken.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(spoken.std(axis=0), 1, atol=1e-4)


def test_confusion_counts():
    counts = speech.confusion(np.array([2, 2, 0]), np.array([2, 1, 0]))
    assert counts.sum() == 3
    assert counts[2, 2] == counts[1, 2] == counts[0, 0] == 1
