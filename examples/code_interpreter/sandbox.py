"""Sandbox: a Python that keeps its variables from one call to the next, in a container of its own.

async with Sandbox() as s:
    await s.python("x = 6")
    print((await s.python("print('hello'); x * 7")).result)    # 42
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import anyio
from frames import BadFrame, Ended, Frames

from creche import Container, Exit, File, Limits, Process, Reason, Spec, Tmpfs

__all__ = ["LIMITS", "Cell", "Picture", "Sandbox"]

LIMITS = Limits(memory="256M", pids=64, cpus=1)
_FRAME = 4 << 20  # bytes
_GRACE = 2.0  # seconds from the interrupt to the kill
_KERNEL = (Path(__file__).parent / "kernel.py").read_bytes()
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}

Tell = Callable[..., Awaitable[None]]
"""Called with the name of an event and its fields; awaited, so a slow reader slows the cell down."""


@dataclass(frozen=True)
class Picture:
    """A picture that a cell wrote into its working directory."""

    name: str
    kind: str  #: image/png, image/jpeg or image/gif, by its first bytes
    data: bytes


@dataclass
class Cell:
    """What came of one call. All of it is the guest's word: escape what you show."""

    result: str | None = None  #: repr() of the value of the last line
    stdout: str = ""
    stderr: str = ""
    pictures: list[Picture] = field(default_factory=list)
    error: str | None = None  #: the name of an exception; or "Timeout", "OutputLimit", "Died", "Interrupted"
    traceback: str = ""
    variables_lost: bool = (
        False  #: the process had to be ended, or ended itself: the next call gets a new one
    )
    done: bool = field(default=False, repr=False)
    written: int = field(default=0, repr=False)
    framed: int = field(default=0, repr=False)

    @property
    def ok(self) -> bool:
        """It ran to its end without an error."""
        return self.error is None


async def _nobody(event: str, **fields: Any) -> None:
    """Nobody listens."""


class Sandbox:
    """A container with a directory of its own (/work) and a Python process that executes cells in it.

    `limits` hold for the container, `files` is the size of /work, `output` the bytes that a cell may print. Raises what a
    Container's start does, UnsupportedError where limits can't be had.
    """

    def __init__(self, *, limits: Limits = LIMITS, files: int | str = "64M", output: int = 1 << 20) -> None:
        self._output = output
        self.box = Container(
            Spec(
                cwd="/work",
                hostname="sandbox",
                env={"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", "MPLBACKEND": "agg"},
                mounts=[Tmpfs("/work", size=files, mode=0o777), File("/kernel/kernel.py", _KERNEL)],
                limits=limits,
                rlimits={"core": 0, "nofile": 256},
            )
        )
        self._lock = anyio.Lock()
        self._open = contextlib.AsyncExitStack()
        self._process: Process | None = None
        self._frames: Frames | None = None
        self._number = 0

    async def __aenter__(self) -> Self:
        await self.box.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        with anyio.CancelScope(shield=True):
            await self.restart()
            await self.box.__aexit__(*error)

    # ---- its process ----

    async def _start(self) -> tuple[Process, Frames]:
        if self._process is not None and self._frames is not None and self._process.exit is None:
            return self._process, self._frames
        await self.restart()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._frames = Frames(ours, _FRAME)
                command = ["python3", "-I", "-u", "/kernel/kernel.py", str(theirs.fileno())]
                opened = self.box.open(command, pass_fds=[theirs.fileno()], stdin="null")
                self._process = await self._open.enter_async_context(opened)
            except BaseException:
                ours.close()
                raise
        return self._process, self._frames

    async def restart(self) -> None:
        """End the process, and with it all variables; files stay. The next call starts another."""
        with anyio.CancelScope(shield=True):
            await self._open.aclose()
        self._open = contextlib.AsyncExitStack()
        if self._frames is not None:
            self._frames.close()
        self._process = self._frames = None

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs; nothing where none does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    # ---- cells ----

    async def python(self, code: str, *, timeout: float = 30.0, tell: Tell = _nobody) -> Cell:
        """Execute a cell. One at a time: who comes meanwhile waits. Raises CrecheError where the container has ended.

        After `timeout` seconds (or too much output) it is interrupted, and 2 seconds later its process is killed.
        `tell` hears of ``output``, ``result``, ``picture`` and ``error`` as they come. Cancelled, the process is killed.
        """
        async with self._lock:
            process, frames = await self._start()
            cell = Cell()
            self._number += 1
            try:
                why = "Timeout"
                with anyio.move_on_after(timeout):
                    await frames.send({"id": self._number, "code": code})
                    await self._converse(process, frames, cell, tell)
                    why = "OutputLimit"
                if not cell.done and process.exit is None:
                    self.interrupt()
                    with anyio.move_on_after(_GRACE):
                        await self._converse(process, frames, cell, _nobody, dropping=True)
                    cell.error, cell.traceback = why, cell.traceback or f"{why}: the cell was interrupted\n"
                    if not cell.done:
                        await self._lose(cell, why, "it did not end when it was interrupted")
                    await tell("error", name=cell.error, traceback=cell.traceback)
                elif not cell.done:
                    await self._lose(cell, "Died", _how(process.exit))
                    await tell("error", name=cell.error, traceback=cell.traceback)
            except BadFrame as error:
                exit = process.exit
                killed = exit is None or exit.reason is Reason.KILLED
                await self._lose(cell, "Died", str(error) if killed or exit is None else _how(exit))
                await tell("error", name=cell.error, traceback=cell.traceback)
            except BaseException:
                await self.restart()  # what runs on would write into the next cell
                raise
            return cell

    async def _lose(self, cell: Cell, name: str, why: str) -> None:
        cell.variables_lost = True
        cell.error, cell.traceback = (
            name,
            f"{name}: the process was ended, and its variables are gone: {why}\n",
        )
        await self.restart()

    async def _converse(
        self, process: Process, frames: Frames, cell: Cell, tell: Tell, dropping: bool = False
    ) -> None:
        """Take in what comes until the cell is done, its process dead, or (unless `dropping`) its output too much."""
        bad: BadFrame | None = None
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}

        async def take(name: str, data: bytes) -> bool:
            cell.written += len(data)
            if cell.written > self._output:
                return dropping
            text = decoders[name].decode(data)
            setattr(cell, name, getattr(cell, name) + text)
            if text:
                await tell("output", stream=name, text=text)
            return True

        async with anyio.create_task_group() as tasks:

            async def relay(name: str) -> None:
                stream = getattr(process, name)
                with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError):
                    while await take(name, await stream.receive()):
                        pass
                    tasks.cancel_scope.cancel()

            async def until_dead() -> None:
                await process.wait()
                tasks.cancel_scope.cancel()

            for job in (lambda: relay("stdout"), lambda: relay("stderr"), until_dead):
                tasks.start_soon(job)
            try:
                while not cell.done:
                    frame = await frames.receive()
                    cell.framed += len(str(frame))
                    if cell.framed > 8 * _FRAME:
                        raise BadFrame("more than any cell needs to say")
                    await self._told(frame, cell, tell)
            except BadFrame as error:  # told below: a group of tasks would wrap it
                bad = error
                if isinstance(error, Ended):  # its descriptors are closed a moment before it is dead
                    with anyio.move_on_after(0.5):
                        await process.wait()
                process.kill()
                await process.wait()
            tasks.cancel_scope.cancel()
        if bad is not None:
            raise bad
        for name in (
            "stdout",
            "stderr",
        ):  # its last words; a writer in the background may go on, and is not followed
            stream = getattr(process, name)
            for _ in range(16):
                data = stream.receive_nowait()
                if not data or not await take(name, data):
                    break

    async def _told(self, frame: dict[str, Any], cell: Cell, tell: Tell) -> None:
        match frame:
            case {"kind": "done", "id": self._number}:
                cell.done = True
            case {"kind": "result", "text": str(text)}:
                cell.result = text
                await tell("result", text=text)
            case {"kind": "error", "name": str(name), "traceback": str(lines)}:
                cell.error, cell.traceback = name, lines
                await tell("error", name=name, traceback=lines)
            case {"kind": "picture", "name": str(name), "data": str(text)}:
                picture = _picture(name, text)
                if picture is not None and len(cell.pictures) < 8:
                    cell.pictures.append(picture)
                    await tell("picture", name=name, kind=picture.kind, data=text)
            case _:
                raise BadFrame("a frame of no known kind")


def _how(exit: Exit | None) -> str:
    if exit is None:
        return "it is lost"
    return "it was out of memory" if exit.reason is Reason.OOM else exit.explain()


def _picture(name: str, text: str) -> Picture | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    kinds = [kind for start, kind in _SIGNATURES.items() if data.startswith(start)]
    return Picture(name, kinds[0], data) if kinds else None
