"""Without network: other people's code that would fetch what it lacks finds out that it cannot."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_local = threading.local()  # other threads of the program keep their connections
_loading = threading.RLock()


@contextmanager
def no_connections() -> Iterator[list[str]]:
    """Inside, this thread's connections to anywhere raise ConnectionRefusedError. Gives the list of those that did."""
    _install()
    before: list[str] | None = getattr(_local, "refused", None)
    refused: list[str] = []
    _local.refused = refused
    try:
        yield refused
    finally:
        _local.refused = before


@contextmanager
def offline() -> Iterator[list[str]]:
    """As `no_connections`, and the Hugging Face hub, whose client has threads and a transport of its own, is told to
    take what is on the disk. One thread at a time."""
    from huggingface_hub import constants

    with _loading, no_connections() as refused:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield refused
        finally:
            constants.HF_HUB_OFFLINE = before


@cache
def _install() -> None:
    """An audit hook sees what no replaced function would: calls through references that others hold, and from C. It
    cannot be taken away again, so there is but one."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    refused: list[str] | None = getattr(_local, "refused", None)
    if refused is None or not event.startswith("socket."):
        return
    to = event in ("socket.connect", "socket.sendto")
    within = to and isinstance(arguments[1], str | bytes)  # by a file, to this machine's own processes
    if (to and not within) or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        refused.append(f"{event} {arguments[-1] if to else arguments[0]}")
        raise ConnectionRefusedError("sn9reg does not use the network")
