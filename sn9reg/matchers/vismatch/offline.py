"""Keeps third-party code from using the network, so that it fails instead of downloading what it lacks."""

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
    """Inside, every connection of this thread raises ConnectionRefusedError. Gives the list of those refused so far."""
    _install()
    before, _local.refused = getattr(_local, "refused", None), []
    try:
        yield _local.refused
    finally:
        _local.refused = before


@contextmanager
def offline() -> Iterator[list[str]]:
    """As `no_connections`, also for the Hugging Face hub's client, with threads of its own. One thread at a time."""
    from huggingface_hub import constants

    with _loading, no_connections() as refused:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield refused
        finally:
            constants.HF_HUB_OFFLINE = before


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    refused: list[str] | None = getattr(_local, "refused", None)
    if refused is None or not event.startswith("socket."):
        return
    to = event in ("socket.connect", "socket.sendto")
    local = to and isinstance(arguments[1], str | bytes)  # a Unix socket, to a process on this machine
    if (to and not local) or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        refused.append(f"{event} {arguments[-1] if to else arguments[0]}")
        raise ConnectionRefusedError("sn9reg does not use the network")


# Once, since an audit hook cannot be removed. It also sees calls from C and through references of other modules.
_install = cache(lambda: sys.addaudithook(_hook))
