"""A fixed number of threads for torch: sums are cut by threads, and results must not depend on the machine's cores."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

THREADS = 2


@contextmanager
def torch_threads() -> Iterator[None]:
    """Runs its body with THREADS threads in torch, then restores what was set."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
