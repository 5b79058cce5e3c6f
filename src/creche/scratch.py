"""Folders on disk for throw-away upper layers, where a tmpfs can't be one: in a user namespace before Linux 6.6."""

from __future__ import annotations

import os
import shutil
import tempfile

__all__ = ["make", "remove", "renew"]


def make(count: int) -> str:
    """A folder with `count` pairs of upper and work. In /var/tmp, which is a disk: /tmp may be a tmpfs itself."""
    place = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else None)
    path = tempfile.mkdtemp(prefix="creche-upper-", dir=place)
    for index in range(count):
        for name in ("upper", "work"):
            os.makedirs(f"{path}/{index}/{name}", mode=0o755)
    return path


def renew(path: str) -> None:
    """Fresh pairs in their places, for a reset; what was written until then lies beside them, and goes with the folder."""
    for index in sorted(name for name in os.listdir(path) if name.isdecimal()):
        former = tempfile.mkdtemp(prefix="former-", dir=path)
        for name in ("upper", "work"):
            os.rename(f"{path}/{index}/{name}", f"{former}/{name}")
            os.mkdir(f"{path}/{index}/{name}", mode=0o755)


def remove(path: str) -> None:
    """Remove it, with the directories that overlayfs leaves there and that their owner can't enter (mode 000)."""
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)
            try:
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
            except OSError:
                continue  # another's: for `remove_tree`
    shutil.rmtree(path, ignore_errors=True)
