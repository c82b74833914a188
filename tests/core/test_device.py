"""Devices: chosen by name, refused with the cure."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from warmstart.core import (
    UsageError,
    describe_machine,
    pick_device,
    synchronize,
)


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")


def test_unknown() -> None:
    with pytest.raises(UsageError, match=r"device 'cpuu' is unknown\. Did you mean \"cpu\"\?"):
        pick_device("cpuu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=rf"device '{name}' was asked for, .* Use cpu"):
        pick_device(name)


@pytest.mark.parametrize("name", ["meta", "xpu"])
def test_a_device_that_computes_nothing_here(name: str) -> None:
    if name == "xpu" and torch.xpu.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(UsageError, match=rf"device '{name}' cannot be used here"):
        pick_device(name)


def test_machine_facts() -> None:
    facts = describe_machine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["cores"] >= 1
    synchronize(torch.device("cpu"))


def test_peak_memory_grows_with_what_is_held() -> None:
    """In a process of its own: a peak never falls, and other tests may have had a higher one."""
    code = """
import torch
from warmstart.core import peak_memory_bytes
here = torch.device("cpu")
before = peak_memory_bytes(here)
kept = torch.ones(30_000_000)
print(peak_memory_bytes(here) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60_000_000 < int(done.stdout) < 400_000_000
