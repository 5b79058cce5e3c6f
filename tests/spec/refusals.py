"""How a table of refusals is checked: the field by its path, the value as it was given, and a wish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from creche.errors import SpecError


def refused(build: Callable[[], Any], field: str, wish: str = "") -> SpecError:
    """The SpecError that `build` raises, which names `field` and has the words `wish` in its wish."""
    with pytest.raises(SpecError) as caught:
        build()
    error = caught.value
    assert error.field == field, str(error)
    assert wish in error.wish, str(error)
    assert str(error).startswith(f"{field}: ") and str(error).endswith(error.wish)
    return error
