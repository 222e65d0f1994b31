# SPDX-License-Identifier: MIT
"""Data-parallel training in PyTorch: DistributedDataParallel over gloo, on fastrnn's kernels.

    python examples/torch_ddp.py

Starts two processes that train one model, each on its half of every batch, then trains the same model alone on whole
batches, and compares. In float64, so that nothing but the order of sums is left between them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import vowels
from arguments import count

try:
    import torch
    import torch.distributed
    import torch.multiprocessing
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
except ImportError as missing:
    raise SystemExit(f'needs {missing.name}: pip install "fastrnn[torch]"') from None

import fastrnn.torch


class Speaker(nn.Module):
    """Names the speaker of an utterance by the last state of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = fastrnn.torch.GRU(vowels.FEATURES, 64)
        self.head = nn.Linear(64, vowels.SPEAKERS)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits (N, 9) of frames (T, N, 12)."""
        x = nn.utils.rnn.pack_padded_sequence(frames, lengths, enforce_sorted=False)
        return self.head(self.gru(x)[1][-1])


def train(model: nn.Module, epochs: int, rank: int = 0, size: int = 1) -> list[float]:
    """Train on every size-th utterance of each batch: the loss of each batch's share."""
    data, losses = vowels.load("train"), []
    adam = torch.optim.Adam(model.parameters(), lr=0.005)
    mixed = torch.Generator().manual_seed(0)  # the same seed: all processes agree on the batches
    for _ in range(epochs):
        for rows in torch.randperm(len(data.lengths), generator=mixed).split(30):
            share = data[rows[rank::size].numpy()]
            logits = model(torch.from_numpy(share.frames).double(), torch.from_numpy(share.lengths))
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(share.speaker))
            adam.zero_grad()
            loss.backward()  # here DistributedDataParallel averages the gradients of all processes
            adam.step()
            losses.append(loss.item())
    return losses


def fresh() -> Speaker:
    """The same random weights wherever it is called."""
    torch.manual_seed(0)
    return Speaker().double()


def process(rank: int, size: int, epochs: int, folder: str) -> None:
    """One of several processes; the first saves the trained weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    model = fresh()
    losses = train(DistributedDataParallel(model), epochs, rank, size)
    torch.save((losses, model.state_dict()), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # nobody leaves while another may still be reading
    torch.distributed.destroy_process_group()


def main() -> None:
    """Train with several processes and with one, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, choices=(2, 3, 5), default=2, help="which share batches of 30 evenly")
    parser.add_argument("--epochs", type=count, default=8)
    options = parser.parse_args()
    size, epochs = options.processes, options.epochs
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (size, epochs, folder), nprocs=size)
        ends = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(size)]
    alone = fresh()
    losses = train(alone, epochs)
    together = [sum(shares) / size for shares in zip(*(end[0] for end in ends), strict=True)]
    print(f"epoch  loss, processes: {size}  loss, processes: 1")
    batches = len(losses) // epochs
    for epoch in range(epochs):
        means = [sum(curve[epoch * batches :][:batches]) / batches for curve in (together, losses)]
        print("{:5d}  {:18.6f}  {:18.6f}".format(epoch + 1, *means))
    for rank, (_, weights) in enumerate(ends):
        apart = max((weights[name] - value).abs().max().item() for name, value in alone.state_dict().items())
        print(f"largest difference of a parameter, process {rank} and one alone: {apart:.1e}")


if __name__ == "__main__":
    main()
