# SPDX-License-Identifier: MIT
"""What a module takes beside its input: the profiler sees what PyTorch allocates, tracemalloc the kernels and NumPy.

T times, B batch, I input size, H hidden size.
"""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from test_memory import forget_blocks, traced
from torch.nn.utils.rnn import pack_padded_sequence
from torch.profiler import ProfilerActivity, profile
from torch_cases import CELLS, STACKS, H, each_cell, packed, quiet

import fastrnn.torch

pytestmark = [*quiet, pytest.mark.usefixtures("compiled")]

T, B, I = 256, 64, 256  # 16 MB


@pytest.mark.parametrize("stack", ["plain", "both"])
@pytest.mark.parametrize("layout", ["time-first", "batch-first", "unbatched", "packed"])
@each_cell
def test_inference_does_not_copy_its_input(cell, layout, stack):
    kind, more = CELLS[cell]
    module = fastrnn.torch.accelerate(kind(I, H, batch_first=layout == "batch-first", **more, **STACKS[stack]))
    x = torch.randn(*{"batch-first": (B, T), "unbatched": (T * B,)}.get(layout, (T, B)), I)
    given = pack_padded_sequence(x, [T] * B) if layout == "packed" else x
    forget_blocks()
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched, traced():
        out = packed(module(given)[0])
        most = tracemalloc.get_traced_memory()[1]
    most += sum(max(event.self_cpu_memory_usage, 0) for event in watched.events())
    assert out.nbytes <= most < x.nbytes / 8
