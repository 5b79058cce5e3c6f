"""Branches of a container: several attempts from one state, one of which may be kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast, overload

import anyio

from ..errors import CrecheError, SpecError
from ..files import FOLDER, failing
from ..plan.pieces import BELOW, MIB, OWN, UPPER_SIZE
from ..ranges import Reserved
from ..spec.checks import Whole
from ..wire import control

if TYPE_CHECKING:
    from ..container import Container
    from ..plan.compile import Context
    from ..spec.filesystem import Overlay
    from ..spec.spec import Spec
    from .grouping import Groups
    from .undoing import CommandLayer

__all__ = ["Branches", "Branching", "Origin"]

MOST = 256  # branches at a time


class Origin(NamedTuple):
    """What a branch has of the container that it begins from."""

    tree: int  #: a tree of its layers, attached to nothing; closed by whoever made it
    below: tuple[str, ...]  #: which of them are the root, the lowest first
    room: int  #: bytes that the branch may write


class Branches(Sequence["Container"]):
    """The branches of a container, each a Container, in a block of `Container.branches`."""

    def __init__(self, box: Container) -> None:
        self._box = box
        self._all: list[Container] = []
        self._stack = contextlib.AsyncExitStack()
        self._kept: int | None = None
        self._busy = False

    @overload
    def __getitem__(self, index: int) -> Container: ...
    @overload
    def __getitem__(self, index: slice) -> list[Container]: ...
    def __getitem__(self, index: int | slice) -> Container | list[Container]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Container]:
        return iter(self._all)

    @property
    def kept(self) -> int | None:
        """The index of the branch that was kept; None where none was, yet."""
        return self._kept

    async def keep(self, branch: int | Container) -> None:
        """Make the container what this branch is, and end all of them.

        `branch` is an index or one of them. What runs in it is killed; the files of its root are the container's from now on, and
        its commands are in the container's history, as if they had been run there. Nothing is copied. The container may be used again
        when this returns, and the others are gone, with their processes and files.

        It is done or not: where it is cancelled or fails before (`kept` is None), the container is as it was and the branches are open,
        though what ran in this one is killed. CrecheError for a branch or a container that has ended, where one was kept already,
        or where a file in the branch is being written or branches of it are open; FileError where no room is left for one more
        directory (ENOSPC); SpecError for no branch of these. Where the container can't be given its new root, it has ended (SpawnError).
        """
        index = next((number for number, one in enumerate(self._all) if one is branch), None) if not isinstance(branch, int) else branch
        if index is None or isinstance(index, bool) or not 0 <= index < len(self._all):
            raise SpecError("branch", branch, f"give one of these branches, or a number from 0 to {len(self._all) - 1}")
        if self._busy or self._box._branches is not self:
            raise CrecheError("no branch can be kept any more: " + ("one is, or is about to be" if self._busy or self._kept is not None else "their block was left"))
        self._busy = True
        try:
            await self._box._take_over(self._all[index])
        finally:
            self._busy = False
        self._kept = index
        await self._close()

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._stack.aclose()
            finally:
                if self._box._branches is self:
                    self._box._branches = None


class Branching:
    """The half of Container that has branches, with ``Overlay(…, history=True)``."""

    if TYPE_CHECKING:
        spec: Spec
        _branches: Branches | None
        _range: Reserved | None
        _context: Context
        _origin: Origin | None
        _next_name: int
        _sources: Mapping[int, int] | None
        _groups: Groups

        @property
        def _below(self) -> tuple[str, ...]: ...
        @property
        def _trees(self) -> set[str]: ...

        def _with_history(self) -> Overlay: ...
        def _still(self) -> None: ...
        async def _adopt(self, root: Overlay, commands: tuple[CommandLayer, ...], parts: tuple[tuple[str, ...], ...], pending: tuple[str, ...]) -> None: ...
        async def _freeze(self, root: Overlay) -> tuple[str, ...]: ...
        async def _ask_file(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = ..., base: int = -1, more: str | None = None, to: int = -1) -> int: ...

    @contextlib.asynccontextmanager
    async def branches(self, n: int) -> AsyncIterator[Branches]:
        """Several attempts from the state that it has now: an async context manager that gives `n` Containers, one of which may be kept.

        Each begins with the root as it is here, and has processes, namespaces, a cgroup with the Spec's limits, /dev/shm and mounts
        of the Spec's of its own; nobody sees what another does. A branch may do all that a container may, have a history and branches
        too. While they are open, nothing runs or is written in the container itself, and what its last command left behind is killed.
        Leaving the block ends those that are left; where none was kept, the container is as it was.

        Raises UnsupportedError without ``Overlay(…, history=True)``, CrecheError where a command is running, a file is being written or
        branches are open already, and what the start of a container raises.

        >>> async with box.branches(3) as branches:
        ...     results = [await branch.run(["make", "test"]) for branch in branches]
        ...     await branches.keep(1)
        """
        root = self._with_history()
        Whole(1, MOST, "a number of branches")(n, "n")
        self._still()
        made = self._branches = Branches(cast("Container", self))
        try:
            names = await self._freeze(root)
            room = max(MIB, (UPPER_SIZE - await self._used()) // MIB * MIB)
            for _ in range(n):
                made._all.append(await self._branch(made, (*self._below, *names), room))
            yield made
        finally:
            await made._close()

    async def _branch(self, made: Branches, names: tuple[str, ...], room: int) -> Container:
        from ..container import Container

        branch = Container(self.spec, sources=self._sources)
        with failing("/"):
            tree = await self._ask_file(".", verb=control.FILE_TREE)
        try:
            branch._origin = Origin(tree, tuple(f"{BELOW}/{name}" for name in names), room)
            branch._groups = self._groups.within(BELOW)
            if self._range is not None:  # its files are those of the same ids
                branch._range = Reserved(self._range.base, self._range.count, os.dup(self._range.fd))
            return await made._stack.enter_async_context(branch)
        finally:
            os.close(tree)

    async def _used(self) -> int:
        """Bytes of its layers, with those that it is a branch of."""
        used = UPPER_SIZE - self._context.room
        for place in (".", *self._trees):
            with failing("/"):
                fd = await self._ask_file(place, FOLDER, verb=control.FILE_LAYER)
                found = os.fstatvfs(fd)
                os.close(fd)
            used += (found.f_blocks - found.f_bfree) * found.f_frsize
        return used

    async def _take_over(self, branch: Container) -> None:
        """Have the root, and the history, that this branch has."""
        root = self._with_history()
        branch._with_history()
        branch._alone()
        branch._closed()
        await branch._freeze(root)
        commands, parts, pending = branch._commands[: branch._position], branch._parts[: branch._position], branch._pending
        place = f"{OWN}/b{self._next_name}"

        def here(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(place + name.removeprefix(OWN) for name in names)

        try:
            with failing("/"):
                tree = await branch._ask_file(OWN, verb=control.FILE_TREE)
                try:
                    await self._ask_file(place, verb=control.FILE_STAGE, base=tree)
                finally:
                    os.close(tree)
            await self._adopt(root, commands, tuple(here(names) for names in parts), here(pending))
        except BaseException:
            with anyio.CancelScope(shield=True), contextlib.suppress(CrecheError, OSError):
                await self._ask_file(place, verb=control.FILE_UNSTAGE)
            raise
        if place not in self._trees:  # it wrote nothing
            await self._ask_file(place, verb=control.FILE_UNSTAGE)
