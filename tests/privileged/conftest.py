"""Roots of one static program for tests of file systems, and folders that are gone again whoever owns what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from privileged.look import busybox_root

from creche.remove import remove_tree


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """pytest's own, emptied by `remove_tree`: overlayfs leaves directories there that nobody can enter."""
    yield tmp_path
    anyio.run(remove_tree, tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder that can be a root: busybox and a few accounts."""
    return busybox_root(tmp_path / "image")
