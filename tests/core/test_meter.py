"""The meter sees time and memory."""

from __future__ import annotations

import mmap
import time

import numpy as np
import pytest
import torch

from warmstart.core import Meter


def test_it_sees_a_large_array_and_the_time() -> None:
    """The array has pages of its own: the allocator might give it some that are held already."""
    with Meter("cpu") as small:
        pass
    with Meter(torch.device("cpu"), interval=0.005) as large, mmap.mmap(-1, 2**27) as pages:
        values = np.frombuffer(pages, dtype=np.float64)
        values[:] = 1.0
        assert values.sum() == 2**24
        del values
        time.sleep(0.05)
    assert large.peak_bytes - small.peak_bytes > 0.8 * 2**27
    assert 0.05 <= large.seconds < 20
    assert 0 <= small.seconds < large.seconds


def test_an_error_passes_through() -> None:
    meter = Meter("cpu")
    with pytest.raises(ValueError, match="mine"), meter:
        raise ValueError("mine")
    assert meter.peak_bytes > 2**20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_allocator_counts() -> None:
    with Meter("cuda") as meter:
        torch.zeros(2**24, device="cuda")
    assert meter.peak_bytes >= 2**26
