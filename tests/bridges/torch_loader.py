# SPDX-License-Identifier: MIT
"""Run as a program: forked workers of a DataLoader compute with a module, our threads being there and having worked.

Prints whether they find what this process does, bit by bit. A process of its own, since PyTorch refuses to go backward
in a fork once its own threads have gone backward in the parent, as they have in some tests.
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

import fastrnn.torch
from fastrnn import _unroll

N, T, B, I, H = 8, 6, 16, 4, 5


class Running(Dataset):
    """Examples that the module computes wherever the loader asks for them."""

    def __init__(self, module):
        self.module, self.x = module, torch.randn(N, T, I)

    def __len__(self):
        return N

    def __getitem__(self, n):
        x = self.x[n].clone().requires_grad_()
        out, _ = self.module(x)
        (grad,) = torch.autograd.grad(out.sum(), x)
        return out.detach(), grad


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _unroll.set_threads(2)
    _unroll.set_shared_flops(0)
    module = fastrnn.torch.LSTM(I, H, num_layers=2)
    data = Running(module)
    module(torch.randn(T, B, I))[0].sum().backward()
    wanted = [torch.stack(parts) for parts in zip(*(data[n] for n in range(N)), strict=True)]
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    print(all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)))


if __name__ == "__main__":
    main()
