# SPDX-License-Identifier: MIT
"""Run as a program: two processes of DistributedDataParallel, each on half of a batch, beside one on all of it.

Prints the greatest difference between their gradients. Its argument is a file for the processes to meet in.
"""

from __future__ import annotations

import sys

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import fastrnn.torch

WORLD, T, B, I, H = 2, 9, 6, 4, 8


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = fastrnn.torch.GRU(I, H, num_layers=2, bidirectional=True)
        self.second = fastrnn.torch.LSTM(2 * H, H, proj_size=3)
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.second(self.first(x)[0])[0]).pow(2).mean()


def model_and_batch():
    torch.manual_seed(0)
    return Tagger(), torch.randn(T, B, I)


def gradients(model, x):
    model(x).backward()
    return [part.grad for part in model.parameters()]


def work(rank, meeting):
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    model, x = model_and_batch()
    wanted = gradients(model, x)
    model, x = model_and_batch()
    found = gradients(DistributedDataParallel(model), x.chunk(WORLD, dim=1)[rank])
    if rank == 0:
        print(max((a - b).abs().max().item() for a, b in zip(found, wanted, strict=True)))
    distributed.barrier()  # nobody leaves while the other may still be reading
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(work, (sys.argv[1],), nprocs=WORLD)
