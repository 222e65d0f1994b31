# SPDX-License-Identifier: MIT
"""save and load: what comes back, what a path and a file may be, and files that are not what they should be."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import stat
import threading
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from trials import changes_in_place

from fastrnn.files import load, save
from fastrnn.layers import GRU, LSTM, RNN

LAYERS = [
    RNN(3, 4, seed=0),
    RNN(3, 4, 2, nonlinearity="relu", bias=False, dtype=np.float64, seed=0),
    LSTM(3, 4, 2, bidirectional=True, proj_size=2, batch_first=True, dropout=0.25, seed=0),
    GRU(3, 4, reset_after=False, seed=0),
]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=repr)


def saved(layer=LAYERS[0]) -> bytes:
    file = io.BytesIO()
    save(layer, file)
    return file.getvalue()


def archive(header=None, **changes) -> bytes:
    """What is in a file like ``save``'s, with another header or other arrays."""
    arrays = {**LAYERS[0].params, **changes}
    if header is not None:
        arrays["fastrnn"] = np.array(header)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def header(**changes):
    """The header of ``LAYERS[0]``'s file, changed; ``None`` takes an option away."""
    options = {**LAYERS[0].options(), "dtype": "float32", **changes.pop("options", {})}
    options = {name: value for name, value in options.items() if value is not None}
    return json.dumps({"version": 1, "class": "RNN", "options": options, **changes})


def same(layer, other):
    assert type(layer) is type(other) and layer.options() == other.options()
    assert np.array_equal(layer.flat_params, other.flat_params)


@each_layer
def test_round_trip(layer, tmp_path):
    path = tmp_path / "layer.any"
    layer.save(path)
    twin = load(path)
    same(twin, layer)
    x = np.ones((5, 2, 3), layer.dtype)
    assert np.array_equal(twin(x)[0], layer(x)[0])
    twin.flat_params[...] = 0
    assert not any(array.any() for array in twin.params.values())


def test_path_of_any_kind_is_taken_as_it_is(tmp_path):
    layer = LAYERS[0]
    layer.save(str(tmp_path / "plain"))
    save(layer, tmp_path / "dotted.v2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dotted.v2", "plain"]
    same(load(str(tmp_path / "plain")), layer)
    same(load(tmp_path / "dotted.v2"), layer)
    with open(tmp_path / "plain", "rb") as file:
        same(load(file), layer)
    same(load(io.BytesIO(saved())), layer)


def test_a_file_need_only_be_written_to():
    class Sink:
        def write(self, data):
            written.append(data)

    written = []
    LAYERS[2].save(Sink())
    same(load(io.BytesIO(b"".join(written))), LAYERS[2])


@pytest.mark.parametrize(("opened", "mode"), [(gzip.open, "wb"), (open, "ab")])
def test_what_can_only_be_added_to(opened, mode, tmp_path):
    """zipfile would go back to mend what it wrote."""
    with opened(tmp_path / "layer", mode) as file:
        LAYERS[2].save(file)
    with opened(tmp_path / "layer", "rb") as file:
        same(load(file), LAYERS[2])


def test_a_subclass_is_not_saved():
    with pytest.raises(TypeError, match="got Mine"):
        save(type("Mine", (GRU,), {})(3, 4), io.BytesIO())


def test_flags_of_numpy_become_pythons():
    layer = GRU(3, 4, bias=np.True_)
    assert layer.bias is True
    file = io.BytesIO()
    layer.save(file)
    same(load(io.BytesIO(file.getvalue())), layer)


def test_two_layers_in_one_file():
    with pytest.raises(ValueError, match="file: needs a whole file written by fastrnn, got something before it, perh"):
        load(io.BytesIO(saved(LAYERS[0]) + saved(LAYERS[1])))


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_ih_l0.npy", "fastrnn.npy"])
def test_an_entry_twice(name):
    file = io.BytesIO(saved(LAYERS[0]))
    with zipfile.ZipFile(file, "a") as more, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own
        more.writestr(name, zipfile.ZipFile(file).read("weight_ih_l0.npy"))
    with pytest.raises(ValueError, match="got an archive with two entries of one name"):
        load(io.BytesIO(file.getvalue()))


def test_files_are_plain_npz(tmp_path):
    LAYERS[2].save(tmp_path / "layer")
    with np.load(tmp_path / "layer", allow_pickle=False) as arrays:
        assert set(arrays) == {*LAYERS[2].params, "fastrnn"}
        assert json.loads(str(arrays["fastrnn"]))["class"] == "LSTM"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    LAYERS[0].save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    same(load(tmp_path / "real"), LAYERS[0])


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    LAYERS[0].save(tmp_path / "link")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and len(list(tmp_path.iterdir())) == 2
    reader.join()
    same(load(io.BytesIO(read[0])), LAYERS[0])


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o666], ids=oct)
def test_a_file_keeps_its_mode(mode, tmp_path):
    path = tmp_path / "layer"
    path.touch()
    path.chmod(mode)
    LAYERS[0].save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    same(load(path), LAYERS[0])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0, 0o666)])
def test_a_new_file_has_the_mode_of_any_new_file(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        LAYERS[0].save(tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "layer"
    LAYERS[0].save(path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space left"):
            LAYERS[3].save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["layer"]
    same(load(path), LAYERS[0])


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match="layer: needs one of fastrnn's RNN, LSTM, GRU, got Frozen"):
        save(LAYERS[0].freeze(), tmp_path / "layer")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        LAYERS[0].save(tmp_path / "none" / "layer")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "got"),
    [(7, "7"), (None, "None"), (b"layer", "b'layer'"), (io.StringIO("PK"), "<_io.StringIO object"), ([], "[]")],
    ids=lambda value: type(value).__name__,
)
def test_what_is_neither_a_path_nor_a_binary_file_is_named(path, got):
    for call in (load, LAYERS[0].save):
        with pytest.raises(TypeError, match=re.escape(f"path: needs a path or a binary file, got {got}")):
            call(path)


def test_no_path_is_empty():
    for call in (load, LAYERS[0].save):
        with pytest.raises(ValueError, match="path: needs a path, got an empty one"):
            call("")


def test_an_error_names_the_path_that_was_given(tmp_path):
    path = str(tmp_path / "nowhere" / "layer.fastrnn")
    with pytest.raises(FileNotFoundError) as caught:
        LAYERS[0].save(path)
    assert caught.value.filename == path and "fastrnn-" not in str(caught.value).replace(path, "")


@changes_in_place
def test_a_parameter_s_shape_changed_in_place_is_not_saved(tmp_path):
    layer = GRU(3, 4, seed=0)
    layer.params["weight_ih_l0"].shape = (-1,)
    assert layer.state_dict()["weight_ih_l0"].shape == (12, 3)
    layer.save(tmp_path / "layer")
    assert np.array_equal(load(tmp_path / "layer").flat_params, layer.flat_params)


def test_no_path_has_null_characters():
    for call in (load, LAYERS[0].save):
        with pytest.raises(ValueError, match="path: needs a path without null characters, got 'a"):
            call("a\0b")


@pytest.mark.parametrize("data", [b"", b"PK", b"hello" * 99, pickle.dumps({"a": 1}), b"\x93NUMPY\x01\x00"], ids=repr)
def test_other_files(data, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"other: needs a whole file written by fastrnn, got no \.npz archive"):
        load(path)


def test_archives_of_others():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as other:
        other.writestr("readme.txt", "hello")
    file.seek(0)
    with pytest.raises(
        ValueError, match="file: needs a whole file written by fastrnn, got an archive without the entry"
    ):
        load(file)
    with pytest.raises(ValueError, match="got an archive without the entry 'fastrnn'"):
        load(io.BytesIO(archive()))


def test_truncated_anywhere():
    data = saved()
    for size in range(0, len(data), 7):
        with pytest.raises(ValueError, match="needs a whole file written by fastrnn"):
            load(io.BytesIO(data[:size]))


def test_damaged_anywhere():
    data = saved()
    detected = 0
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        try:
            layer = load(io.BytesIO(damaged))
        except ValueError as problem:
            assert "needs a whole file written by fastrnn" in str(problem)
            detected += 1
        else:
            same(layer, LAYERS[0])  # a byte that carries nothing, such as a date
    assert detected > len(data) / 3 * 0.8


def test_nothing_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "pwned").touch, ()

    evil = np.array([Evil()], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(io.BytesIO(archive(header(), weight_ih_l0=evil)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(header(version=2)), "format version 2, this fastrnn reads 1"),
        (archive(header(version=0)), "format version 0, this fastrnn reads 1"),
        (archive(header()[:-1]), "Expecting"),
        (archive("[]"), "TypeError"),
        (archive("{}"), "KeyError: 'version'"),
        (archive(header(**{"class": "CNN"})), "KeyError: 'CNN'"),
        (archive(header(options={"dtype": None})), "KeyError: 'dtype'"),
        (archive(header(options={"dtype": "object"})), "TypeError"),
        (archive(header(options={"hidden_size": 10**9})), r"archive\['weight_ih_l0'\]: needs shape \(1000000000, 3\)"),
        (archive(header(options={"num_layers": 10**9})), "archive: needs an entry 'weight_ih_l1', got none"),
        (archive(header(options={"hidden_size": "4"})), "TypeError: hidden_size: needs an integer, got '4'"),
        (archive(header(options={"dropout": 7})), "dropout: needs a finite number"),
        (archive(header(options={"nonlinearity": "elu"})), "nonlinearity: needs one of"),
        (archive(header(options={"proj_size": 2})), "archive: needs an entry 'weight_hr_l0', got none"),
        (archive(header(options={"width": 2})), "unexpected keyword argument 'width'"),
        (archive(header(), bias_ih_l0=np.zeros(5)), r"archive\['bias_ih_l0'\]: needs shape \(4,\), got \(5,\)"),
        (archive(header(), bias_ih_l0=np.zeros(4, int)), r"archive\['bias_ih_l0'\]: needs an array of floats"),
        (archive(header(), bias_ih_l7=np.zeros(4)), "archive: needs no entry 'bias_ih_l7'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contents_that_do_not_fit(data, message):
    with pytest.raises(ValueError, match=f"file: needs a whole file written by fastrnn, got .*{message}"):
        load(io.BytesIO(data))


def unpacking_to(size, name, method):
    """``LAYERS[0]``'s file, with an entry of so many zeros, which take hardly any room."""
    file, zeros = io.BytesIO(), io.BytesIO()
    np.save(zeros, np.zeros(size // 4, np.float32))
    with zipfile.ZipFile(io.BytesIO(saved())) as plain, zipfile.ZipFile(file, "w", method) as bomb:
        entries = {entry: plain.read(entry) for entry in plain.namelist()}
        for entry, content in {**entries, name: zeros.getvalue()}.items():
            bomb.writestr(entry, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("bomb", zipfile.ZIP_DEFLATED, "archive: needs no entry 'bomb'"),
        ("bias_ih_l0.npy", zipfile.ZIP_DEFLATED, r"bias_ih_l0\.npy of 33554560 bytes where at most 65600 have a use"),
        ("fastrnn.npy", zipfile.ZIP_DEFLATED, r"fastrnn\.npy of 33554560 bytes where at most 65552 have a use"),
        ("bias_ih_l0.npy", zipfile.ZIP_BZIP2, r"fastrnn\.npy of compression method 12, which NumPy does not write"),
        ("bias_ih_l0.npy", zipfile.ZIP_LZMA, r"fastrnn\.npy of compression method 14, which NumPy does not write"),
    ],
)
def test_what_no_layer_needs_is_not_unpacked(name, method, message):
    data = unpacking_to(2**25, name, method)
    assert len(data) < 2**16
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"file: needs a whole file written by fastrnn, got {message}"):
        load(io.BytesIO(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_compressed_file_is_read():
    same(
        load(io.BytesIO(unpacking_to(16, "bias_ih_l0.npy", zipfile.ZIP_DEFLATED))),
        load(io.BytesIO(archive(header(), bias_ih_l0=np.zeros(4)))),
    )


def test_the_other_archives_would_load():
    same(load(io.BytesIO(archive(header()))), LAYERS[0])
