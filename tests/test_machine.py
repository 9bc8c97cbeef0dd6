"""machine: what is said to the libraries, where the environment is asked first, and on what is computed."""

import os

import pytest
import torch

from sn9reg import machine
from sn9reg.errors import ConfigError
from sn9reg.machine import be_quick_and_quiet, checked_device, computing_on, device, enough_memory


def test_what_the_environment_says_stays_and_the_rest_is_set(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    be_quick_and_quiet()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.pop("OPENBLAS_NUM_THREADS")) == ("ACTIVE", "1")


@pytest.mark.parametrize(
    ("there", "name", "expected"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda", "cuda"), (2, "cuda:1", "cuda:1")],
)
def test_a_device_is_what_was_said_or_a_gpu_if_there_is_one(monkeypatch, there, name, expected):
    monkeypatch.setattr(machine, "gpus", lambda: there)
    assert checked_device(name) == torch.device(expected)
    outside = device()
    with computing_on(name):
        assert device() == torch.device(expected)
    assert device() == outside == torch.device("cuda" if there else "cpu")


@pytest.mark.parametrize(
    ("there", "name", "message"),
    [
        (0, "cuda", "--device cuda: of GPUs, this machine has none that torch can use; --device cpu"),
        (2, "cuda:2", "this machine has 2 that torch can use, counted from 0"),
        (2, "gpu", "--device gpu: there is no such device; say auto, cpu"),
    ],
)
def test_a_device_that_there_is_not(monkeypatch, there, name, message):
    monkeypatch.setattr(machine, "gpus", lambda: there)
    with pytest.raises(ConfigError, match=message), computing_on(name):
        pass


def test_too_little_memory_is_said_in_one_line():
    with pytest.raises(ConfigError, match="even for small parts; use --device cpu"), enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
