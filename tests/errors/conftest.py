"""The folders of these failures, gone again whoever owns what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from creche.remove import remove_tree


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's own, emptied by `remove_tree`: overlayfs leaves directories there that nobody can enter."""
    yield tmp_path
    anyio.run(remove_tree, tmp_path)
