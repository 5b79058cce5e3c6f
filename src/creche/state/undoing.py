"""A container's history: what each command wrote to the root is a layer, to look at and to go back to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CrecheError, UnsupportedError
from ..files import FOLDER, Inside, failing
from ..lifecycle import State
from ..plan import steps as st
from ..plan.compile import Context, Plan, compile_layers
from ..plan.pieces import OWN
from ..spec.checks import Whole
from ..spec.filesystem import Overlay
from ..spec.spec import Spec
from ..wire import control
from ..wire.encode import encode
from .grouping import Groups

if TYPE_CHECKING:
    from ..machine import Machine
    from ..process import Process
    from .branching import Branches
    from .layers import Change, Layer

__all__ = ["CommandLayer", "Undoing"]

MOST = 400  # layers; overlayfs takes 500 with the Overlay's own (OVL_MAX_STACK)


class CommandLayer(NamedTuple):
    """One layer of a history: its number, from 1 on, and the command that wrote it."""

    number: int
    command: tuple[str, ...]


class Undoing:
    """The half of Container that goes back and forth in its history, with ``Overlay(…, history=True)``."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _plan: Plan | None
        _machine: Machine | None
        _context: Context
        _compiled: Spec
        _processes: dict[int, Process]
        _resetting: bool
        _groups: Groups

        async def _compared(self, root: Overlay, layers: list[Layer], max_files: int, whole: bool = False) -> list[Change]: ...
        @contextlib.asynccontextmanager
        async def _whole(self) -> AsyncIterator[None]:
            yield

        async def _again(self, blob: bytes, steps: tuple[st.Step, ...]) -> None: ...
        async def _ask_file(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = ..., base: int = -1, more: str | None = None, to: int = -1) -> int: ...

    _commands: tuple[CommandLayer, ...] = ()
    _parts: tuple[tuple[str, ...], ...] = ()  # the layers that each of them wrote, the lowest first
    _pending: tuple[str, ...] = ()  # and those of the next one that are there already: what was put there before it
    _position = 0
    _next_name = 1
    _fresh = True  # nothing has been started over the layer that is written to now
    _touched = False  # but something was put there
    _writing = 0  # files that are being written from here
    _stale: tuple[str, ...] = ()
    _branches: Branches | None = None  # that are open

    @property
    def history(self) -> tuple[CommandLayer, ...]:
        """Every command's layer, the first first; those behind `position` are undone, and forgotten when a command starts."""
        return self._commands

    @property
    def position(self) -> int:
        """How many layers of the history the root has now."""
        return self._position

    async def at(self, n: int) -> None:
        """Go to the root as it was after `n` commands, 0 being the start; back and forth, until a command starts there.

        What still runs in it is killed, and what was written since the last command (by `put`) belongs to that. /tmp is part of the
        root here, but /dev/shm and mounts of the Spec's own are not. Raises SpecError for a number that the history does not have,
        CrecheError where a command is running, UnsupportedError without ``Overlay(…, history=True)``.

        >>> async with Container(Spec(rootfs=Overlay(["/srv/base"], history=True))) as box:
        ...     await box.run(["touch", "/one"])
        ...     await box.run(["rm", "-rf", "/etc"])
        ...     await box.undo()          # or: await box.at(1)
        """
        root = self._with_history()
        Whole(0, len(self._commands), "a number of commands that the history has")(n, "n")
        self._still()
        gone = (*self._pending, *([self._top] if self._fresh else []))
        await self._lay(root, self._first(n))
        self._position, self._pending = n, ()
        self._stale += gone

    async def undo(self) -> None:
        """Take back what the last command wrote. Raises as `at`; CrecheError where nothing is left to undo."""
        self._with_history()
        if not self._position:
            raise CrecheError("nothing is left to undo: the root is as it was at the start")
        await self.at(self._position - 1)

    async def diff(self, n: int, *, max_files: int = 100_000) -> list[Change]:
        """What layer `n` of the history changed, as of `changes`. Raises SpecError for a number that the history does not have."""
        root = self._with_history()
        Whole(1, len(self._commands), "the number of a command in the history")(n, "n")
        return await self._changes_since(root, self._first(n - 1), self._parts[n - 1], max_files)

    async def _changes_since(self, root: Overlay, lower: tuple[str, ...], upper: tuple[str, ...], max_files: int) -> list[Change]:
        """What these layers changed together, over those that lie below them."""
        lower = (*self._below, *lower)
        return merged([await self._changes_of(root, (*lower, *upper[: n + 1]), max_files) for n in range(len(upper))])

    async def _changes_of(self, root: Overlay, names: tuple[str, ...], max_files: int) -> list[Change]:
        """What the last of these layers changed."""
        from .layers import closing

        group, above = self._groups.below(names[:-1])
        with closing([]) as layers:
            for name in (names[-1], *reversed(above), *([group] if group else [])):
                layers.append(await self._layer(name))
            return await self._compared(root, layers, max_files, whole=group is not None)

    async def _layer(self, name: str) -> Layer:
        from .layers import Layer

        with failing("/"):
            return Layer(await self._ask_file(name, FOLDER, verb=control.FILE_LAYER), Inside(self._ask_file))

    @property
    def _top(self) -> str:
        """The layer that is written to."""
        return f"{OWN}/u{self._next_name}"

    @property
    def _below(self) -> tuple[str, ...]:
        """The layers of the container that it is a branch of, the lowest first."""
        return self._context.below or ()

    def _first(self, n: int) -> tuple[str, ...]:
        """The layers of the first `n` commands, the lowest first."""
        return tuple(name for parts in self._parts[:n] for name in parts)

    @property
    def _written(self) -> tuple[str, ...]:
        """The layers that the root has now, the lowest first, with the one that is written to."""
        return (*self._first(self._position), *self._pending, *([self._top] if self._fresh else []))

    def _with_history(self) -> Overlay:
        root = self.spec.rootfs
        if not isinstance(root, Overlay) or not root.history:
            raise UnsupportedError("a container without a history", "give rootfs=Overlay([folder], history=True)")
        if self._state is not State.RUNNING or self._resetting:
            raise CrecheError(f"the container's history can't be reached: {'it is being reset' if self._resetting else self._state.value}")
        return root

    def _alone(self) -> None:
        if self._branches is not None:
            raise CrecheError("its branches are open, and begin from it as it is: keep one of them, or leave their block first")

    def _still(self) -> None:
        """Raise CrecheError where something may be writing."""
        self._alone()
        for process in self._processes.values():
            if process.sent and process._exit is None and process.failure is None:
                raise CrecheError("a command is running: with a history there is one at a time, since each has a layer of its own")
        self._closed()

    def _closed(self) -> None:
        if self._writing:
            raise CrecheError("a file in it is being written by box.put or box.open_file: with a history that ends first, since it has its place in a layer")

    @contextlib.contextmanager
    def _writes(self) -> Iterator[None]:
        """Something is written from here, without a command."""
        self._alone()
        self._touched, self._writing = True, self._writing + 1
        try:
            yield
        finally:
            self._writing -= 1

    async def _lay(self, root: Overlay, names: tuple[str, ...]) -> None:
        """These layers as the root, under one that is new."""
        assert self._plan is not None and self._machine is not None
        number = self._next_name + 1
        fresh = f"{OWN}/u{number}", f"{OWN}/w{number}"
        names = (*self._below, *names)
        due = self._groups.due(names, root.lower)
        group, above = (f"{OWN}/g{number}", names[len(due) :]) if due else self._groups.below(names)
        steps = compile_layers(self._compiled, self._machine, self._plan.who, self._context, (*fresh, *reversed(above)), group, due[::-1])
        async with self._whole():
            await self._again(encode(steps), steps)
        if due and group:
            self._groups.add(due, group)
        self._next_name, self._fresh, self._touched = number, True, False

    async def _freeze(self, root: Overlay) -> tuple[str, ...]:
        """Have nothing written to the root as it is any more, what runs in it being killed: the layers that it is made of."""
        if not self._fresh or self._touched:
            frozen = self._written[len(self._first(self._position)) :]
            await self._lay(root, self._written)
            self._pending = frozen
        return (*self._first(self._position), *self._pending)

    async def _begin_layer(self, command: tuple[str, ...]) -> None:
        """A command is about to start, over a layer of its own; what was undone before is forgotten."""
        root = self.spec.rootfs
        if not isinstance(root, Overlay) or not root.history:
            return
        self._still()
        if len(self._below) + len(self._written) >= MOST:
            raise CrecheError(f"the history has {MOST} layers, which are the most: commit() what is to stay, and reset()")
        if not self._fresh:
            await self._lay(root, self._first(self._position))
        self._append((CommandLayer(self._position + 1, command),), ((*self._pending, self._top),))
        self._pending, self._fresh = (), False
        await self._throw_away()

    def _append(self, commands: tuple[CommandLayer, ...], parts: tuple[tuple[str, ...], ...]) -> None:
        """More commands than there were, behind the position; what was undone is forgotten."""
        self._stale += tuple(name for names in self._parts[self._position :] for name in names)
        self._commands = (*self._commands[: self._position], *commands)
        self._parts = (*self._parts[: self._position], *parts)
        self._position += len(commands)

    async def _adopt(self, root: Overlay, commands: tuple[CommandLayer, ...], parts: tuple[tuple[str, ...], ...], pending: tuple[str, ...]) -> None:
        """Commands that a branch had, with the layers that they wrote there, as if they had been our own."""
        parts = ((*self._pending, *parts[0]), *parts[1:]) if parts else ()
        pending = pending if parts else (*self._pending, *pending)
        former = self._top
        await self._lay(root, (*self._first(self._position), *(name for names in parts for name in names), *pending))
        self._stale += (former,)
        self._append(tuple(layer._replace(number=self._position + layer.number) for layer in commands), parts)
        self._pending = pending

    def _tree_of(self, name: str) -> str | None:
        """Where the tree is attached that a layer lies in; None for one of our own."""
        place = "/".join(name.split("/")[:2])
        return place if place != name else None

    @property
    def _trees(self) -> set[str]:
        """Of branches that were kept, and still have a layer in the history."""
        return {tree for names in (*self._parts, self._pending) for name in names if (tree := self._tree_of(name))}

    async def _throw_away(self) -> None:
        """Remove the layers that nothing shows any more."""
        from .. import trees

        if self._stale:
            live = {*self._below, *self._pending, self._top, *(name for names in self._parts for name in names)}
            for place in self._groups.take_stale(live):
                await self._ask_file(place, verb=control.FILE_UNSTAGE)
        while self._stale:
            name, inside = self._stale[0], Inside(self._ask_file)
            tree = self._tree_of(name)
            if tree is not None and tree not in self._trees:
                with contextlib.suppress(FileNotFoundError):
                    await self._ask_file(tree, verb=control.FILE_UNSTAGE)
                self._stale = tuple(name for name in self._stale if self._tree_of(name) != tree)
                continue
            base = await self._ask_file(".", FOLDER, verb=control.FILE_LAYER)
            try:
                for path in (name, _work_of(name)):
                    with contextlib.suppress(FileNotFoundError):
                        await trees.remove_folder(inside, f"/{path}", path, base)
            finally:
                os.close(base)
            self._stale = self._stale[1:]

    def _forget_history(self) -> None:
        """After a reset."""
        self._commands, self._parts, self._pending, self._stale = (), (), (), ()
        self._position, self._next_name, self._fresh, self._touched = 0, 1, True, False
        self._groups = Groups()


def _work_of(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/w{last[1:]}"


def merged(parts: list[list[Change]]) -> list[Change]:
    """Changes one after the other as one, the first first."""
    from .layers import Change

    found: dict[str, Change] = {}
    for changes in parts:
        for change in changes:
            before = found.pop(change.path, None)
            if change.kind == "deleted":
                for path in [path for path in found if path.startswith(change.path + "/")]:
                    del found[path]
                if before is None or before.kind != "added":
                    found[change.path] = change
            elif before is None or before.kind == "changed":
                found[change.path] = change
            else:
                kind: Any = "added" if before.kind == "added" else "changed"
                found[change.path] = Change(change.path, kind, change.type)
    return sorted(found.values(), key=lambda change: change.path.split("/"))
