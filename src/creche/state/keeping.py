"""What a container has written over its lower layers: told as a list, and kept as a layer of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import CrecheError, UnsupportedError
from ..files import FOLDER, Inside, failing
from ..lifecycle import State
from ..spec.filesystem import Overlay
from ..wire import control

if TYPE_CHECKING:
    from ..plan.compile import Plan
    from ..spec.identity import IdMap
    from ..spec.spec import Spec
    from .layers import Change, Layer

__all__ = ["Keeping"]


class Keeping:
    """The half of Container that looks at the upper layer of its root."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _plan: Plan | None

        @property
        def _written(self) -> tuple[str, ...]: ...
        @property
        def _below(self) -> tuple[str, ...]: ...
        async def _layer(self, name: str) -> Layer: ...
        async def _changes_since(self, root: Overlay, lower: tuple[str, ...], upper: tuple[str, ...], max_files: int) -> list[Change]: ...
        async def _ask_file(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = ..., base: int = -1, more: str | None = None, to: int = -1) -> int: ...

    async def changes(self, *, max_files: int = 100_000) -> list[Change]:
        """What differs from the lower layers of its root, which is an Overlay: added, changed and deleted, in the order of paths.

        What is on other mounts (/tmp, /dev, a Tmpfs) is no part of it. Commands may go on meanwhile; what they write then may
        or may not be told. Raises UnsupportedError for a root without an upper layer; FileError, with EFBIG beyond `max_files` names.

        >>> await box.run(["sh", "-c", "echo 1 > /etc/new; rm /etc/old"])
        >>> await box.changes()
        [Change(path='/etc/new', kind='added', type='file'), Change(path='/etc/old', kind='deleted', type='file')]
        """
        from .layers import closing  # imported by those who look at layers

        root = self._written_root("changes")
        if root.history:
            return await self._changes_since(root, (), self._written, max_files)
        with closing([await self._upper(root)]) as layers:
            return await self._compared(root, layers, max_files)

    async def commit(self, path: str | os.PathLike[str], *, max_bytes: int | None = None, max_files: int = 1_000_000) -> None:
        """Write its upper layer to a new folder of the host, which ``Overlay([path, *lower])`` has as its topmost layer.

        Owners, modes, times, hard links, extended attributes, holes, whiteouts and opaque directories are those of the upper layer;
        ids are such as the container's own lower layers have. The folder is there whole or not at all: it is written beside its
        place and renamed. `path` must not exist; its parent must. Stop or freeze what writes meanwhile, or the layer is of no one moment.

        Raises UnsupportedError for a root without an upper layer; FileError, with EFBIG beyond `max_bytes` of content or
        `max_files` names, with ENOSPC where the disk is full.

        >>> await box.commit("/srv/layers/built")
        >>> async with Container(Spec(rootfs=Overlay(["/srv/layers/built", "/srv/base"]))) as other: ...
        """
        from .layering import Writer, written
        from .layers import closing

        root = self._written_root("a layer")
        inside = Inside(self._ask_file)
        with closing([]) as layers:
            if root.history:
                for name in (*self._below, *self._written):
                    layers.append(await self._layer(name))
            else:
                layers.append(await self._upper(root))
            async with written(os.fsdecode(path)) as target:
                writer = Writer(target, self._prefix, self._disk, self._inner, inside, max_bytes, max_files)
                for layer in layers:
                    await writer.lay(layer)

    def _written_root(self, what: str) -> Overlay:
        root = self.spec.rootfs
        if not isinstance(root, Overlay) or root.readonly:
            raise UnsupportedError(f"{what} of a root that has no upper layer", "give rootfs=Overlay([folder]), not readonly")
        if self._state is not State.RUNNING or self._plan is None:
            raise CrecheError(f"the container's layers can't be reached: {self._state.value}")
        return root

    async def _upper(self, root: Overlay) -> Layer:
        from .layers import Layer

        if root.upper is not None:
            with failing(root.upper):
                return Layer(os.open(root.upper, FOLDER), Inside(self._ask_file))
        with failing("/"):
            return Layer(await self._ask_file("upper", FOLDER, verb=control.FILE_LAYER), Inside(self._ask_file))

    async def _compared(self, root: Overlay, layers: list[Layer], max_files: int, whole: bool = False) -> list[Change]:
        """What the first of these layers changed; the root's lower ones are opened behind them (`whole`: they are there), to be closed with them.

        What was made for the container's own mounts is no change.
        """
        from .layers import Layer, Reader

        for path in () if whole else root.lower:
            with failing(path):
                layers.append(Layer(os.open(path, FOLDER)))
        targets = ["/proc", "/dev", "/tmp", *(mount.target or "" for mount in self.spec.mounts), *self.spec.devices]
        places = {target.rstrip("/").rsplit("/", up)[0] for target in targets for up in range(target.count("/"))}
        reader = Reader(self._prefix, lambda found: (self._disk(found.st_uid, False), self._disk(found.st_gid, True)), max_files, places)
        return await reader.compare(layers[0], layers[1:])

    @property
    def _prefix(self) -> str:
        return "trusted.overlay." if self.spec.namespaces.user is False else "user.overlay."

    def _disk(self, id: int, group: bool) -> int:
        """An id of the upper layer's as the lower layers on disk have it: those of idmapped ones are the container's own."""
        assert self._plan is not None and isinstance(self.spec.rootfs, Overlay)
        idmapped = self._plan.who.idmaps and self.spec.rootfs.upper is None
        return self._inner(id, group) if idmapped else id

    def _inner(self, id: int, group: bool) -> int:
        assert self._plan is not None
        who = self._plan.who
        return inner(who.gid_map if group else who.uid_map, id) if who.new else id


def inner(maps: tuple[IdMap, ...], id: int) -> int:
    """The id inside that an id outside is; itself where it is none of the container's."""
    for item in maps:
        if item.outside <= id < item.outside + item.count:
            return item.inside + id - item.outside
    return id
