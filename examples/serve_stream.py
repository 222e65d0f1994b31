# SPDX-License-Identifier: MIT
"""A model trained in PyTorch, saved, and served as a stream by a process that never imports torch.

    python examples/serve_stream.py

Trains a GRU with a linear head in PyTorch, saves it for both, and starts two servers, each a new process that feeds one
frame after the other and names the speaker: one with torch, one with fastrnn and NumPy alone. Prints what each took.

Only the training and its own server need PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter

from arguments import count

HIDDEN = 64


def train(folder: Path, epochs: int) -> None:
    """Train in PyTorch; save the weights for PyTorch (model.pt), and for fastrnn (gru.fastrnn, head.npz)."""
    import numpy as np
    import vowels

    try:
        import torch
    except ImportError:
        raise SystemExit('training needs torch: pip install "fastrnn[torch]"') from None
    import fastrnn

    torch.set_num_threads(1)  # more are no help at this size
    torch.manual_seed(0)
    gru, head = torch.nn.GRU(vowels.FEATURES, HIDDEN), torch.nn.Linear(HIDDEN, vowels.SPEAKERS)
    data = vowels.load("train")
    x = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(data.frames), data.lengths, enforce_sorted=False)
    adam = torch.optim.Adam([*gru.parameters(), *head.parameters()], lr=0.01)
    for _ in range(epochs):
        adam.zero_grad()
        _, h = gru(x)
        torch.nn.functional.cross_entropy(head(h[0]), torch.from_numpy(data.speaker)).backward()
        adam.step()

    torch.save({"gru": gru.state_dict(), "head": head.state_dict()}, folder / "model.pt")
    fastrnn.from_torch(gru).save(folder / "gru.fastrnn")
    np.savez(folder / "head.npz", **{name: value.numpy() for name, value in head.state_dict().items()})


def torch_step(folder: Path):
    """A function from a frame (12,) and a state to the logits (9,) and the next state, in PyTorch."""
    import torch

    torch.set_num_threads(1)
    gru, head = torch.nn.GRU(12, HIDDEN), torch.nn.Linear(HIDDEN, 9)
    weights = torch.load(folder / "model.pt")
    gru.load_state_dict(weights["gru"])
    head.load_state_dict(weights["head"])

    @torch.inference_mode()
    def step(frame, h):
        out, h = gru(torch.from_numpy(frame)[None], h)
        return head(out[0]).numpy(), h

    return step


def fastrnn_step(folder: Path):
    """The same with fastrnn: the stream keeps the state itself."""
    import numpy as np

    import fastrnn

    stream = fastrnn.load(folder / "gru.fastrnn").stream()
    head = np.load(folder / "head.npz")
    weight, bias = head["weight"], head["bias"]

    def step(frame, h):
        if h is None:
            stream.reset()
        return weight @ stream(frame) + bias, stream

    return step


def serve(library: str, folder: Path, utterances: int) -> dict:
    """Run test utterances frame by frame: time to import and to be ready, peak memory, time of a step, the logits."""
    start = perf_counter()
    import_module(library)
    imported = perf_counter() - start
    step = {"torch": torch_step, "fastrnn": fastrnn_step}[library](folder)
    ready = perf_counter() - start
    assert ("torch" in sys.modules) == (library == "torch")

    import vowels

    test = vowels.load("test")
    times, logits = [], []
    for n in range(utterances):
        h = None
        for frame in test.frames[: test.lengths[n], n].copy():
            start = perf_counter()
            scores, h = step(frame, h)
            times.append(perf_counter() - start)
        logits.append(scores.tolist())
    return {"imported": imported, "ready": ready, "memory": peak_memory(), "step": median(times), "logits": logits}


def peak_memory() -> float:
    """The most memory, in MB, that this process has had in use."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss would count the process that started this one, too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Train, then serve with each library in a process of its own, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=count, default=40)
    parser.add_argument("--utterances", type=count, default=370, help="to serve, of the 370 for testing")
    parser.add_argument("--serve", nargs=2, metavar=("LIBRARY", "FOLDER"), help="be one of the two servers")
    options = parser.parse_args()
    if options.serve:
        library, folder = options.serve
        print(json.dumps(serve(library, Path(folder), options.utterances)))
        return
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), options.epochs)
        found = {}
        for library in ("torch", "fastrnn"):
            me = [sys.executable, __file__, "--utterances", str(options.utterances)]
            found[library] = json.loads(subprocess.check_output([*me, "--serve", library, folder]))
    print("server   ready after  peak memory  median step  import alone")
    for library, it in found.items():
        ready, imported, step = f"{it['ready']:9.3f} s", f"{it['imported']:10.3f} s", f"{1e6 * it['step']:8.1f} us"
        print(f"{library:8} {ready}  {it['memory']:8.0f} MB  {step}  {imported}")
    report([it["logits"] for it in found.values()])


def report(logits: list[list[list[float]]]) -> None:
    """How far apart the two servers' logits are, and how often the speaker was right."""
    import numpy as np
    import vowels

    theirs, ours = np.array(logits)
    speaker = vowels.load("test").speaker[: len(ours)]
    print(f"largest difference of a logit: {np.abs(theirs - ours).max():.1e}")
    print(f"speakers named right: {(ours.argmax(axis=1) == speaker).mean():.3f}")


if __name__ == "__main__":
    main()
