"""Where folders of the host's show files of the kernel: /proc and /sys themselves, by whatever name, and what is mounted elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from ._surroundings import Mount, parse_mounts, text
from .spec.filesystem import Bind, Directory
from .spec.spec import Spec

__all__ = ["Shown", "kernel_trees", "sources_of", "trees_of"]

#: What lies where in a tree: a path in the host's /proc or /sys, and the place below the tree's top ("" is the top itself).
Shown = tuple[tuple[str, str], ...]
_TOPS = {"proc": "/proc", "sysfs": "/sys"}


def sources_of(spec: Spec) -> tuple[str, ...]:
    """The folders of the host's that a container gets with all that is mounted below them."""
    found = [mount.source for mount in spec.mounts if isinstance(mount, Bind)]
    if isinstance(spec.rootfs, Directory):
        found.append(spec.rootfs.path)
    elif spec.rootfs is None and spec.namespaces.mount is True:
        found.append("/")
    return tuple(found)


_known: tuple[int, tuple[Mount, ...], dict[tuple[str, ...], Mapping[str, Shown]]] = 0, (), {}
_KEPT = 64


def kernel_trees(spec: Spec, mounts_are: int = 0) -> Mapping[str, Shown]:
    """For each of a Spec's sources that shows some, which. Links are followed as the kernel follows them; a source that is not there shows none.

    `mounts_are`: a number that was the same before only where the mounts of the host are, too; 0 is none.
    """
    global _known
    sources = sources_of(spec)
    if not sources:
        return {}
    number, mounts, shown = _known
    if not mounts_are or number != mounts_are:
        mounts, shown = parse_mounts(text("/proc/thread-self/mountinfo")), {}
        _known = mounts_are, mounts, shown
    real = tuple(map(_real, sources))
    found = shown.get((*sources, *real))
    if found is None:
        if len(shown) >= _KEPT:
            shown.clear()
        found = shown[(*sources, *real)] = trees_of(dict(zip(sources, real, strict=True)), mounts)
    return found


def _real(path: str) -> str:
    """A path without links, as the kernel finds it; what it does not find is asked for word by word."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # no /proc
        return os.path.realpath(path)
    finally:
        os.close(fd)


def trees_of(sources: Mapping[str, str], mounts: Iterable[Mount]) -> Mapping[str, Shown]:
    """The same for sources whose real paths are given, among these mounts; pure."""
    mounts = tuple(mounts)
    kernels = [mount for mount in mounts if mount.kind in _TOPS]
    found = {source: _shown(real, mounts, kernels) for source, real in sources.items()}
    return {source: shown for source, shown in found.items() if shown}


def _shown(real: str, mounts: tuple[Mount, ...], kernels: list[Mount]) -> Shown:
    top = real.rstrip("/") + "/"
    below = [
        (_inside(mount, ""), mount.point[len(top) :]) for mount in kernels if mount.point.startswith(top)
    ]
    if any(_holds(mount, real) for mount in kernels):
        # the mount in which it lies is the innermost, and of several at one place the last
        own = max(
            (mount for mount in mounts if _holds(mount, real)), key=lambda mount: len(mount.point.rstrip("/"))
        )
        last = [mount for mount in mounts if mount.point == own.point][-1]
        if last.kind in _TOPS:
            below.insert(0, (_inside(last, real[len(last.point) :]), ""))
    return tuple(dict.fromkeys(below))


def _holds(mount: Mount, path: str) -> bool:
    return path == mount.point or path.startswith(mount.point.rstrip("/") + "/")


def _inside(mount: Mount, rest: str) -> str:
    """What the kernel's own file system calls a place that is `rest` below where it is mounted."""
    return _TOPS[mount.kind] + mount.root.rstrip("/") + rest
