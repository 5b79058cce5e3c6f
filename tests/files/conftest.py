"""A container to put files into, and what tests of that share."""

from __future__ import annotations

import pytest

from creche import Container, FileError, Spec


@pytest.fixture
async def box(anyio_backend):
    async with Container(Spec()) as box:
        yield box


@pytest.fixture
def refused():
    """`with refused(errno, …)`: a FileError with one of these."""
    return lambda *numbers: pytest.raises(FileError, check=lambda error: error.errno in numbers)
