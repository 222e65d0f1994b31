# SPDX-License-Identifier: MIT
"""Batch inference over many files with Dask.

    python examples/dask_batch.py --workers 2

A bag of file names is cut into parts; each part is a task for a worker, which loads the saved layer and runs its files
as one ragged batch. With ``distributed`` installed and a ``Client`` connected to a cluster the same lines use its
machines, if they see the files. The bits of a result do not depend on the batch that a file is in, so that any number
of parts gives what one file after the other gives, which is compared at the end.

Needs Dask: ``pip install dask``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import vowels
from arguments import count

try:
    import dask.bag
except ImportError as missing:
    raise SystemExit(f"needs {missing.name}: pip install dask") from None

import fastrnn


def infer(paths: Iterable[str], model: str) -> Iterator[tuple[str, np.ndarray]]:
    """The logits (9,) of each file's utterance (T, 12), beside the name of the file."""
    paths = list(paths)
    sequences = [np.load(path) for path in paths]
    lengths = [len(sequence) for sequence in sequences]
    x = np.zeros((max(lengths), len(paths), vowels.FEATURES), np.float32)
    for n, sequence in enumerate(sequences):
        x[: len(sequence), n] = sequence
    _, (h, _) = fastrnn.load(model)(x, lengths=lengths)
    return zip(paths, h[0], strict=True)


def prepare(folder: Path, copies: int) -> tuple[str, list[str], np.ndarray]:
    """A trained layer and many utterances, each in a file of its own: the layer's path, theirs, and the speakers."""
    train, test = vowels.load("train"), vowels.load("test")
    layer = fastrnn.LSTM(vowels.FEATURES, 64, proj_size=vowels.SPEAKERS, seed=0)
    adam = fastrnn.optim.Adam(layer.flat_params, lr=0.01)
    for _ in range(40):
        _, (h, _), tape = layer.forward(train.frames, lengths=train.lengths)
        _, grad_h = vowels.cross_entropy(h[0], train.speaker)
        grads = layer.backward(tape, grad_state=(grad_h[None] / len(grad_h), None))
        fastrnn.optim.clip_grad_norm(grads.flat, 1.0)
        adam.step(grads.flat)
    layer.save(folder / "speaker.fastrnn")
    paths = [folder / f"{copy}-{n:03d}.npy" for copy in range(copies) for n in range(len(test.lengths))]
    for k, path in enumerate(paths):
        n = k % len(test.lengths)
        np.save(path, test.frames[: test.lengths[n], n])
    return str(folder / "speaker.fastrnn"), [str(path) for path in paths], np.tile(test.speaker, copies)


def main() -> None:
    """Write the files, run them with Dask and one by one, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--copies", type=count, default=10, help="how often each of the 370 utterances is written")
    parser.add_argument("--parts", type=count, default=8, help="tasks to cut the files into")
    parser.add_argument("--workers", type=count, default=2, help="processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, paths, speaker = prepare(Path(folder), options.copies)
        start = perf_counter()
        bag = dask.bag.from_sequence(paths, npartitions=options.parts)
        found = bag.map_partitions(infer, model).compute(scheduler="processes", num_workers=options.workers)
        seconds = perf_counter() - start
        alone = [logits for path in paths for _, logits in infer([path], model)]
    names, logits = zip(*found, strict=True)
    print(f"{len(names)} files in {options.parts} parts by {options.workers} processes: {seconds:.1f} s")
    print(f"in the order of the bag: {list(names) == paths}")
    print(f"the same bits as one file at a time: {np.array_equal(logits, alone)}")
    print(f"accuracy: {(np.argmax(logits, axis=1) == speaker).mean():.3f}")


if __name__ == "__main__":
    main()
