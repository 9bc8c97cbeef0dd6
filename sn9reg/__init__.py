"""Dense registration of optical to SAR satellite images."""

from sn9reg.errors import ConfigError, InputError, NotRegisteredError, OutputError, Sn9regError

__all__ = ["ConfigError", "InputError", "NotRegisteredError", "OutputError", "Sn9regError", "register"]


def __getattr__(name: str) -> object:
    # `register` brings torch, which takes seconds to load: only those who use it wait for it.
    if name == "register":
        from sn9reg.registration import register

        return register
    raise AttributeError(f"module 'sn9reg' has no attribute {name!r}")
