"""Dense registration of optical to SAR satellite images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sn9reg.errors import ConfigError, InputError, NotRegisteredError, OutputError, Sn9regError

if TYPE_CHECKING:
    from sn9reg.registration import register
else:

    def __getattr__(name):
        """`register` brings torch, which takes seconds to load: only those who use it wait for it."""
        if name != "register":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sn9reg.registration import register

        return register


__all__ = ["ConfigError", "InputError", "NotRegisteredError", "OutputError", "Sn9regError", "register"]
