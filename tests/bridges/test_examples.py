# SPDX-License-Identifier: MIT
"""The examples, each run as somebody would type it, with the real engine, and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn

EXAMPLES = Path(__file__).parents[2] / "examples"
SHARED = {"arguments.py", "vowels.py"}
MPI = {  # two processes wherever the tests run: as root, on one core
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
NUMBER = r"([-+.e\d]+)"


def run(name, *arguments, launcher=()):
    """What an example prints."""
    command = [*launcher, sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | MPI, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern, text):
    """The numbers in the one place where a pattern matches."""
    (found,) = re.findall(pattern.replace("#", NUMBER), text)
    return [float(number) for number in ([found] if isinstance(found, str) else found)]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_one_line_changes_nothing_but_the_time(cell):
    text = run("pytorch_one_line.py", "--cell", cell, "--epochs", 3)
    lines = text.splitlines()
    assert lines[0].split() == ["loss", "torch.nn.modules.rnn", "fastrnn.torch"]  # not twice the same
    curves = np.array([[float(number) for number in line.split()[2:]] for line in lines[1:4]])
    np.testing.assert_allclose(curves[:, 1], curves[:, 0], rtol=1e-4)
    assert curves[-1, 0] < 0.7 * curves[0, 0]  # it learns
    theirs, ours = numbers("test accuracy +# +#", text)
    assert abs(theirs - ours) <= 0.01
    assert all(time > 0 for time in numbers("ms an epoch +# +#", text))


def test_two_processes_of_ddp_equal_one():
    text = run("torch_ddp.py", "--epochs", 2)
    curves = np.array([[float(number) for number in line.split()[1:]] for line in text.splitlines()[1:3]])
    np.testing.assert_allclose(curves[:, 0], curves[:, 1], rtol=1e-5)
    assert curves[1, 0] < curves[0, 0]
    for rank in (0, 1):
        assert numbers(f"process {rank} and one alone: #", text)[0] < 1e-9


def test_a_stream_is_served_without_torch():
    text = run("serve_stream.py", "--epochs", 5, "--utterances", 20)
    torch_server, own_server = (numbers(rf"{name} +# s +# MB +# us", text) for name in ("torch", "fastrnn"))
    assert own_server[1] < torch_server[1]  # memory, which other programs do not change
    assert numbers("largest difference of a logit: #", text)[0] < 1e-5
    assert numbers("speakers named right: #", text)[0] > 0.3


def test_two_processes_of_mpi_equal_one(tmp_path):
    one, two = tmp_path / "one.fastrnn", tmp_path / "two.fastrnn"
    run("numpy_mpi.py", "--epochs", 3, "--save", one)
    text = run("numpy_mpi.py", "--epochs", 3, "--save", two, launcher=("mpirun", "-n", "2"))
    assert "processes: 2" in text
    assert 0 < numbers("difference of a parameter: #", text)[0] < 1e-9  # 0: both would have been the same process
    alone, together = fastrnn.load(one).flat_params, fastrnn.load(two).flat_params
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-9)
    assert np.abs(alone - fastrnn.LSTM(12, 64, proj_size=9, dtype=np.float64, seed=0).flat_params).max() > 1e-2
    assert numbers("test accuracy: #", text)[0] > 0.5


def test_dask_workers_give_what_one_file_after_the_other_does():
    text = run("dask_batch.py", "--copies", 1, "--parts", 3)
    assert "370 files in 3 parts by 2 processes" in text
    assert "in the order of the bag: True" in text
    assert "the same bits as one file at a time: True" in text
    assert numbers("accuracy: #", text)[0] > 0.9


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in SHARED))
def test_each_example_has_help_is_listed_and_counts_from_one(name):
    usage = run(name, "--help")
    assert "usage" in usage
    assert f"({name})" in (EXAMPLES / "README.md").read_text("utf-8")
    assert f'run("{name}"' in Path(__file__).read_text("utf-8")
    option = "--epochs" if "--epochs" in usage else "--parts"
    done = subprocess.run([sys.executable, str(EXAMPLES / name), option, "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{option}: needs an integer of at least 1, got '0'" in done.stderr
