# SPDX-License-Identifier: MIT
"""Keras' recurrent layers, live or from a file, as fastrnn layers with the same weights.

Live objects, ``.keras`` archives and legacy ``.h5`` files each have a few lines of their own, which find the layers'
configurations and the weights of their cells. From there on all go one way.
Keras is never imported: who holds an object of it has done so, and files are read with zipfile, json and h5py.

I input size, H hidden size, G gates, L layers, D directions.
A Keras cell has a kernel (I, G*H), a recurrent kernel (H, G*H) and a bias, (G*H,) or, for a GRU with reset_after,
(2, G*H). An LSTM's gates are in our order, i f g o; a GRU's, called z r h there, come as z r n, ours being r z n.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import IO, Any

import numpy as np

from . import _check
from ._records import GATES
from .layers import GRU, LSTM, RNN

Spec = dict[str, Any]  # an object as Keras serializes it: module, class_name, config, ...
FastLayer = RNN | LSTM | GRU

CLASSES: dict[str, type[FastLayer]] = {"SimpleRNN": RNN, "LSTM": LSTM, "GRU": GRU}
CELLS = {f"{kind}Cell": kind for kind in CLASSES}
PARTS = ("kernel", "recurrent_kernel", "bias")
MOST_EXPANSION = 100  # Keras does not compress: what claims to unpack to more is there to fill the memory
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks other methods without a limit


@dataclass(slots=True)
class Cell:
    """What one layer of a stack is in one direction."""

    kind: str  # a key of CLASSES
    config: dict[str, Any]
    path: tuple[str | int, ...]  # attributes and index that lead to it from the Keras layer
    names: set[str]  # of the layer of its direction and of itself, as far as they are told
    weights: list[np.ndarray] = field(default_factory=list)  # kernel, recurrent kernel and, if there is one, bias


Grid = list[list[Cell]]  # all cells of a Keras layer: by direction, then by layer


def from_keras(layer_or_model: Any) -> FastLayer | dict[str, FastLayer]:
    """Make fastrnn layers of Keras' recurrent layers, with their weights.

    These are SimpleRNN, LSTM, GRU, ``RNN`` of one of their cells or of a stack of equal ones, and ``Bidirectional`` of
    one of these but the stack; on any backend of Keras 3. One layer of Keras becomes one of fastrnn: a stack of cells
    gets ``num_layers``, a stack of layers remains a chain, each called with what the one before it returned.

    Parameters
    ----------
    layer_or_model : keras.layers.Layer, or path of a saved model
        A recurrent layer; a model, or any other layer with recurrent ones in it, at any depth; or a ``.keras`` or
        legacy ``.h5`` file, for which h5py is needed but not Keras. All other layers are passed over, and of a
        subclassed model or layer a file does not say what is in it: recurrent layers there are passed over, too.

    Returns
    -------
    RNN, LSTM or GRU
        Of a recurrent layer: new, ``batch_first=True``, with the dtype of Keras' variables.
    dict of str to RNN, LSTM or GRU
        Of all else: such layers by name, in the model's order. Names inside of another layer are ``"outer/inner"``.

    Raises
    ------
    TypeError
        If the argument is none of these, or weights are neither float32 nor float64; of a file, ValueError.
    ValueError
        If there is no recurrent layer. If one is custom, has no weights yet, or has what fastrnn has not: another
        activation, ``go_backwards`` outside of ``Bidirectional``, another ``merge_mode`` than ``"concat"``, directions
        or stacked cells that differ; the message names it. If a file is not what it should be; the message names that.
    OSError
        If a file cannot be opened.
    ImportError
        If h5py is missing for a file.

    Notes
    -----
    The numbers are those of Keras in inference. What differs is how to ask for them:

    - ``out, state = layer(x)`` gives every step and the final state. The last step (``return_sequences=False``) is
      ``h[-1]``, of two directions ``np.concatenate([h[0], h[1]], axis=-1)``; h is the state, or an LSTM's ``state[0]``.
    - ``stateful``: hand the state to the next call, or use ``layer.stream()``.
    - A mask that pads on the right is ``lengths``. Past its length a sequence's output is 0, where Keras repeats the
      last one unless ``zero_output_for_mask`` is set. Masks with holes or on the left have no equivalent.
    - ``dropout`` and ``recurrent_dropout`` act in Keras' training only, and are not taken over.
    - A policy of mixed precision keeps variables in float32, and so are the layer and its results.
    """
    if isinstance(layer_or_model, (str, os.PathLike)):
        return _from_file(os.fspath(layer_or_model))
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(layer_or_model, keras.layers.Layer):
        wanted = "a Keras layer or model, or the path of a saved one"
        raise TypeError(f"layer_or_model: needs {wanted}, got {_check.text(layer_or_model)}")
    if isinstance(layer_or_model, (keras.layers.RNN, keras.layers.Bidirectional)):
        return _of_live(layer_or_model.name, layer_or_model)
    return _by_name((name, _of_live(name, layer)) for name, layer in _live(layer_or_model, keras))


def _by_name(layers: Iterable[tuple[str, FastLayer]]) -> dict[str, FastLayer]:
    named: dict[str, FastLayer] = {}
    for name, layer in layers:
        if name in named:
            raise ValueError(f"layer_or_model: needs recurrent layers of different names, got {name!r} twice")
        named[name] = layer
    if not named:
        raise ValueError("layer_or_model: needs a recurrent layer in it, got none")
    return named


# -- live objects ----------------------------------------------------------------------------------------------------


def _live(layer: Any, keras: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The recurrent layers in another one, by name."""
    model = isinstance(layer, keras.Model)
    for child in layer.layers if model else layer._flatten_layers(include_self=False, recursive=False):
        name = prefix + child.name
        if isinstance(child, (keras.layers.RNN, keras.layers.Bidirectional)):
            yield name, child
        else:
            yield from _live(child, keras, f"{name}/")


def _of_live(name: str, layer: Any) -> FastLayer:
    kind = type(layer)
    try:
        config = layer.get_config()
    except NotImplementedError:  # as custom objects answer
        raise ValueError(f"{name}: needs a layer and cells of Keras, got custom ones without get_config") from None
    grid = _grid(name, {"module": kind.__module__, "class_name": kind.__name__, "config": config})
    for cell in chain(*grid):
        cell.weights = _live_weights(name, layer, cell.path)
    return _layer(name, grid)


def _is_keras(module: str | None) -> bool:
    return str(module).partition(".")[0] == "keras"


def _live_weights(name: str, layer: Any, path: tuple[str | int, ...]) -> list[np.ndarray]:
    for step in path:
        layer = layer[step] if isinstance(step, int) else getattr(layer, step)
        if not isinstance(layer, list) and not _is_keras(type(layer).__module__):
            raise ValueError(f"{name}: needs layers and cells of Keras, got a custom {type(layer).__name__}")
    for option in ("activation", "recurrent_activation"):
        function = getattr(layer, option, None)
        if function is not None and not _is_keras(function.__module__):  # it may be called tanh, too
            raise ValueError(f"{name}.{option}: needs a function of Keras, got {_check.text(function)}")
    if not layer.built:
        raise ValueError(f"{name}: needs weights, got a layer that was not yet built or called")
    return layer.get_weights()


# -- files -----------------------------------------------------------------------------------------------------------


def _from_file(path: str) -> dict[str, FastLayer]:
    try:
        import h5py  # noqa: F401
    except ImportError as problem:
        raise ImportError('from_keras: needs h5py to read files: pip install "fastrnn[keras]"') from problem
    with open(path, "rb") as file:
        try:
            return _by_name(_of_archive(file) if zipfile.is_zipfile(file) else _of_legacy(file))
        except Exception as problem:  # bytes at random raise anything
            found = f"{problem}" if isinstance(problem, ValueError) else f"{type(problem).__name__}: {problem}"
            raise ValueError(f"{path}: cannot be taken over: {found}") from problem


def _recurrent(spec: Spec, prefix: str = "", place: str = "") -> Iterator[tuple[str, str, Spec]]:
    """The recurrent layers that a spec is or holds: name, place in an archive, spec."""
    config = spec["config"]
    name = f"{prefix}{config.get('name')}"
    if "go_backwards" in config or {"merge_mode", "layer"} <= config.keys():  # which custom ones inherit
        yield name, place, spec
    else:
        yield from _inside(config, f"{name}/", f"{place}/")


def _inside(config: dict[str, Any], prefix: str = "", place: str = "") -> Iterator[tuple[str, str, Spec]]:
    """The recurrent layers in a model's or a wrapper's configuration."""
    layers, count = config.get("layers"), Counter[str]()
    for child in layers if isinstance(layers, list) else ():
        if _is_spec(child):
            kind = _snake_case(child["class_name"])
            yield from _recurrent(child, prefix, f"{place}layers/{_numbered(kind, count[kind])}")
            count[kind] += 1
    if _is_spec(config.get("layer")):
        yield from _recurrent(config["layer"], prefix, f"{place}layer")


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("config"), dict)


def _snake_case(name: str) -> str:
    """As in Keras: SimpleRNNCell is simple_rnn_cell."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _numbered(name: str, number: int) -> str:
    """What an archive calls a member of a list, after so many others of its class."""
    return f"{name}_{number}" if number else name


def _of_archive(file: IO[bytes]) -> Iterator[tuple[str, FastLayer]]:
    """The layers of a ``.keras`` file: a zip of a configuration and a tree of weights, laid out as the objects are."""
    import h5py

    with zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        config = json.loads(_member(archive, "config.json", size))["config"]
        weights = _member(archive, "model.weights.h5", size)
    with h5py.File(BytesIO(weights), "r") as store:
        for name, place, spec in _inside(config):
            grid = _grid(name, spec)
            for cell in chain(*grid):
                cell.weights = _archived(name, store, place, cell)
            yield name, _layer(name, grid)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """A file in an archive of this size."""
    info = archive.getinfo(name)
    packed = min(info.compress_size, size)  # which the archive says itself, and may be a lie
    if info.file_size > MOST_EXPANSION * packed:
        raise ValueError(f"{name}: needs {info.file_size} bytes, got {packed} to unpack them from")
    if info.compress_type not in BOUNDED:
        raise ValueError(f"{name}: needs to be stored or deflated, got method {info.compress_type}")
    with archive.open(info) as member:
        return member.read(info.file_size)  # no more than this is unpacked, as it is with read()


def _archived(name: str, store: Any, place: str, cell: Cell) -> list[np.ndarray]:
    steps = (_numbered(_snake_case(f"{cell.kind}Cell"), step) if isinstance(step, int) else step for step in cell.path)
    variables = "/".join((place, *steps, "vars"))
    return [_array(name, store, f"{variables}/{k}") for k in range(3 if cell.config["use_bias"] else 2)]


def _of_legacy(file: IO[bytes]) -> Iterator[tuple[str, FastLayer]]:
    """The layers of an ``.h5`` file: a configuration, and for each of the outermost layers all weights in one row.

    In a row come first the weights that are trained, then the frozen ones, both in the order of the layers inside.
    """
    import h5py

    with h5py.File(file, "r") as store:
        for outer in json.loads(store.attrs["model_config"])["config"]["layers"]:
            grids = [(name, _grid(name, spec)) for name, _, spec in _recurrent(outer)]
            cells = [cell for _, grid in grids for cell in chain(*grid)]
            if not cells:
                continue
            name = outer["config"]["name"]
            for full, grid in grids:
                for cell in chain(*grid):
                    cell.names.update(full.split("/"))
            row = dict(_row(name, store))
            if len(row) != len(cells):
                raise ValueError(f"{name}: needs the weights of {len(cells)} cells, got those of {len(row)}")
            if outer["config"].get("trainable", True):  # else all are frozen, whatever those inside say
                cells.sort(key=lambda cell: not cell.config.get("trainable", True))
            for cell, scope in zip(cells, _in_order(name, cells, list(row)), strict=True):
                cell.weights = row[scope]
            for full, grid in grids:
                yield full, _layer(full, grid)


def _in_order(name: str, cells: list[Cell], scopes: list[str]) -> list[str]:
    """The scopes of weights, one for each cell: by their names, or in a row where these do not tell.

    A cell or a weight may be frozen by itself, which puts it behind the others, and no configuration says so.
    """

    def alike(cell: Cell, scope: str) -> tuple[int, int]:
        parts = set(scope.split("/"))
        return len(cell.names & parts), -len(cell.names - parts)

    likeness = {scope: [alike(cell, scope) for cell in cells] for scope in scopes}
    best = {scope: {k for k, value in enumerate(row) if value == max(row)} for scope, row in likeness.items()}
    chosen: dict[int, str] = {}
    for scope in sorted(scopes, key=lambda scope: len(best[scope])):  # what is sure leaves less for the others
        left = best[scope] - chosen.keys()
        if len(left) != 1:
            break
        chosen[left.pop()] = scope
    else:
        return [chosen[k] for k in range(len(cells))]
    for k, scope in enumerate(scopes):
        if k not in best[scope]:
            raise ValueError(f"{name}: needs weights in the order of its cells, got those of {scope} in place {k}")
    return scopes


def _row(name: str, store: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The weights of every cell in a layer's group, by their scope, which all before the last part of their paths is.

    Only this last part is certain; the scope depends on how the layer was made. Frozen weights come last.
    """
    place = f"model_weights/{name}"
    attributes = _at(name, store, place).attrs
    lists, key = [], "weight_names"
    if key in attributes:
        lists.append(attributes[key])
    while (part := f"{key}{len(lists)}") in attributes:  # a long list is cut into numbered ones
        lists.append(attributes[part])
    paths = [path.decode() if isinstance(path, bytes) else path for part in lists for path in part]
    known = {path.rpartition(":")[0] if path.endswith(":0") else path: path for path in paths}
    for path in known:
        scope, _, last = path.rpartition("/")
        if last == "recurrent_kernel":
            around = (known.get(path.removesuffix(last) + part) for part in PARTS)
            yield scope, [_array(name, store, f"{place}/{near}") for near in around if near is not None]


def _at(name: str, store: Any, place: str) -> Any:
    """What a file has at a place, in itself: links could lead to other files."""
    import h5py

    for step in place.strip("/").split("/"):
        if not isinstance(store.get(step, getlink=True), h5py.HardLink):
            raise ValueError(f"{name}: needs weights at {place}, got none")
        store = store[step]
    return store


def _array(name: str, store: Any, place: str) -> np.ndarray:
    dataset = _at(name, store, place)
    stored = 0 if dataset.external or dataset.is_virtual else dataset.id.get_storage_size()
    stored = min(stored, dataset.file.id.get_filesize())
    if dataset.nbytes > MOST_EXPANSION * stored:
        raise ValueError(f"{name}: needs {dataset.nbytes} bytes at {place}, got {stored}")
    return dataset[()]


# -- from what Keras says to a layer ---------------------------------------------------------------------------------


def _known(name: str, spec: Spec, kinds: Iterable[str]) -> str:
    """A spec's class, if it is Keras' own and one of these."""
    kind, module = spec["class_name"], spec.get("module", "keras")  # legacy files do not say it; of custom ones: None
    custom = not _is_keras(module) or bool(spec.get("registered_name"))
    if kind not in kinds or custom:
        raise ValueError(f"{name}: needs one of Keras' {', '.join(kinds)}, got {'a custom ' * custom}{kind}")
    return kind


def _choice(name: str, value: Any, *known: Any) -> Any:
    if value not in known:
        if isinstance(value, dict):  # a function has its name for a configuration, an object has a class
            value = value["config"] if isinstance(value["config"], str) else value["class_name"]
        raise ValueError(f"{name}: needs {' or '.join(map(repr, known))}, got {_check.text(value)}")
    return value


def _grid(name: str, spec: Spec) -> Grid:
    """The cells of a recurrent layer."""
    if _known(name, spec, (*CLASSES, "RNN", "Bidirectional")) != "Bidirectional":
        return [_stack(name, spec, False)]
    config = spec["config"]
    _choice(f"{name}.merge_mode", config["merge_mode"], "concat")
    ahead = config["layer"]
    back = config.get("backward_layer") or ahead | {"config": ahead["config"] | {"go_backwards": True}}
    grid = [_stack(name, ahead, False, "forward_layer"), _stack(name, back, True, "backward_layer")]
    if any(len(cells) > 1 for cells in grid):
        raise ValueError(f"{name}: needs one cell for each direction, got a stack of them")
    return grid


def _stack(name: str, spec: Spec, backwards: bool, *path: str) -> list[Cell]:
    """The cells of one direction, of the layer at a path."""
    kind, config = _known(name, spec, (*CLASSES, "RNN")), spec["config"]
    _choice(f"{name}.go_backwards", config["go_backwards"], backwards)
    _choice(f"{name}.time_major", config.get("time_major", False), False)  # Keras 2 had it
    own = str(config.get("name"))
    names = {own, *(f"{step.removesuffix('layer')}{own}" for step in path)}  # Keras 2 does not tell forward_, backward_
    if kind != "RNN":
        return [Cell(kind, config, (*path, "cell"), names)]
    cell = config["cell"]
    if _known(name, cell, (*CELLS, "StackedRNNCells")) != "StackedRNNCells":
        return [_cell(name, cell, (*path, "cell"), names)]
    return [_cell(name, c, (*path, "cell", "cells", l), names) for l, c in enumerate(cell["config"]["cells"])]


def _cell(name: str, spec: Spec, path: tuple[str | int, ...], names: set[str]) -> Cell:
    config = spec["config"]
    return Cell(CELLS[_known(name, spec, CELLS)], config, path, names | {str(config.get("name"))})


def _options(name: str, cell: Cell) -> dict[str, Any]:
    """The options of our layer that a cell asks for."""
    kind, config, options = cell.kind, cell.config, {}
    if kind == "SimpleRNN":
        options["nonlinearity"] = _choice(f"{name}.activation", config["activation"], "tanh", "relu")
    else:
        _choice(f"{name}.activation", config["activation"], "tanh")
        _choice(f"{name}.recurrent_activation", config["recurrent_activation"], "sigmoid")
    if kind == "GRU":
        options["reset_after"] = config.get("reset_after", False)  # files may be older than the option
    return {"hidden_size": config["units"], "bias": bool(config["use_bias"]), **options}


def _layer(name: str, grid: Grid) -> FastLayer:
    """Our layer for the cells of one of Keras'."""
    (kind, options), *others = [(cell.kind, _options(name, cell)) for cell in chain(*grid)]
    for other in others:
        if other != (kind, options):
            raise ValueError(f"{name}: needs directions or cells that are alike, got {(kind, options)} and {other}")
    params = {}
    for cells, end in zip(grid, ("", "_reverse"), strict=False):
        for l, cell in enumerate(cells):
            for part, array in _params(name, cell, options).items():
                params[f"{part}_l{l}{end}"] = array
    dtypes = {array.dtype for array in params.values()}
    if len(dtypes) > 1:
        raise TypeError(f"{name}: needs weights of one dtype, got {' and '.join(sorted(map(str, dtypes)))}")
    layer = CLASSES[kind](
        params["weight_ih_l0"].shape[1],
        num_layers=len(grid[0]),
        batch_first=True,
        bidirectional=len(grid) == 2,
        dtype=dtypes.pop(),
        **options,
    )
    layer.load_state_dict(params)
    return layer


def _params(name: str, cell: Cell, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """One cell's weights, in our shapes and order of gates."""
    H = options["hidden_size"]
    GH = GATES[CLASSES[cell.kind].cell] * H
    names = PARTS[: 3 if options["bias"] else 2]
    shapes = [array.shape for array in cell.weights]
    bias = (2, GH) if options.get("reset_after") else (GH,)
    I = shapes[0][:1] if shapes else ("I",)
    wanted = [(*I, GH), (H, GH), bias][: len(names)]
    if shapes != wanted:
        raise ValueError(f"{name}: needs weights of shapes {wanted}, got {shapes}")
    arrays = [_check.floats(f"{name}.{part}", array) for part, array in zip(names, cell.weights, strict=True)]
    if cell.kind == "GRU":  # z r n -> r z n
        arrays = [np.concatenate([a[..., H : 2 * H], a[..., :H], a[..., 2 * H :]], axis=-1) for a in arrays]
    params = {"weight_ih": arrays[0].T, "weight_hh": arrays[1].T}
    for array in arrays[2:]:
        params["bias_ih"], params["bias_hh"] = array if array.ndim == 2 else (array, np.zeros_like(array))
    return params
