"""Layers that are written to belong to one container at a time: two overlays on one upper layer are undefined (overlayfs.rst)."""

from __future__ import annotations

import fcntl
import os

from .errors import SpawnError
from .spawn import SHORT, exhausted
from .spec.filesystem import Overlay
from .spec.spec import Spec

__all__ = ["claim", "release"]


def claim(spec: Spec) -> list[int]:
    """Locks (flock(2)) on every upper and work folder of the Spec, held until `release`.

    The kernel itself only warns in its log. A folder that can't be opened is left to the mount, which says why.
    Raises SpawnError, naming the field, where another container has one of them.
    """
    held: list[int] = []
    layers = [("rootfs", spec.rootfs), *((f"mounts[{index}]", mount) for index, mount in enumerate(spec.mounts))]
    for place, layer in layers:
        if not isinstance(layer, Overlay):
            continue
        for name, path in (("upper", layer.upper), ("work", layer.work)):
            if path is None:
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno in SHORT:
                    release(held)
                    raise exhausted(error.errno) from None
                continue
            held.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                release(held)
                raise SpawnError(
                    field=f"{place}.{name}", step="flock", errno=error.errno,
                    hint="another container writes to this layer: give each its own, or leave upper and work out for a throw-away one",
                ) from None  # fmt: skip
    return held


def release(held: list[int], *, ours: bool = True) -> None:
    """Give them up; unlocked by name, since a fork of ours may have the descriptors too. Not `ours`: we are such a fork."""
    while held:
        fd = held.pop()
        if ours:
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
