"""What the tests of fits share."""

import pytest

from sn9reg.fit import local_field


@pytest.fixture(autouse=True, scope="package")
def _small_solves():
    """Linear algebra so small that it stays on one thread: on busy cores the others cost a hundred times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_field, "_SUBSET", 80)
        yield
