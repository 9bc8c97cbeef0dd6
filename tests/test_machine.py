"""machine: what is said to the libraries, and that the environment is asked first."""

import os

from sn9reg.machine import be_quick_and_quiet


def test_what_the_environment_says_stays_and_the_rest_is_set(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    be_quick_and_quiet()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.pop("OPENBLAS_NUM_THREADS")) == ("ACTIVE", "1")
