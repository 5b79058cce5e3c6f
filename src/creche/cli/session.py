"""One container held from a terminal or a pipe: bytes both ways, signals handed on, its end as an exit status."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from .terminal import Standard, Terminal

if TYPE_CHECKING:
    from creche import Container, Exit, Spec

    from .refused import Refused

__all__ = ["TIMED_OUT", "hold"]

TIMED_OUT = 124
_HANDED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_CHUNK = 65_536
#: After the command has ended, how long its last output may take to be written to a reader that is slow.
_DRAIN = 10.0


async def hold(
    spec: Spec, standard: Standard, timeout: float | None, refused: Refused | None = None
) -> Exit | None:
    """Run *spec* to its end; None where *timeout* (seconds, the start included) ended it.

    *refused* is told of the calls that its filter refuses, where it reports them.
    Signals are caught before the container starts: the command may be heard of, and be signalled, at any time after.
    """
    from creche import Container
    from creche.spec.rules import check_answered

    check_answered(spec)
    deadline = anyio.current_time() + timeout if timeout is not None else float("inf")
    # each costs asyncio a walk over all signals, at both ends; only a terminal has a size, and a mode to set again
    more = (signal.SIGWINCH, signal.SIGCONT) if standard.tty else ()
    with anyio.open_signal_receiver(*_HANDED_ON, signal.SIGTSTP, *more) as signals:
        with anyio.CancelScope(deadline=deadline) as whole:
            async with Container(spec) as box:
                gc.freeze()  # what was imported stays; from here on a session may last for days
                gc.enable()
                whole.deadline = float("inf")  # now the deadline ends the command, and its output still comes
                return await _held(box, signals, standard, deadline, refused)
    return None


async def _held(
    box: Container,
    signals: AsyncIterator[signal.Signals],
    standard: Standard,
    deadline: float,
    refused: Refused | None,
) -> Exit | None:
    exit: Exit | None = None
    terminal = Terminal()
    with terminal if standard.tty else contextlib.nullcontext():
        async with anyio.create_task_group() as inputs:
            inputs.start_soon(_hand_on_signals, box, signals, standard, terminal)
            if box.stdin is not None:
                inputs.start_soon(_feed, box, standard)
            async with anyio.create_task_group() as outputs:
                for stream, fd in ((box.stdout, 1), (box.stderr, 2)):
                    if stream is not None:
                        outputs.start_soon(_copy, stream, fd)
                if refused is not None:
                    outputs.start_soon(_hear, box, refused)
                with anyio.CancelScope(deadline=deadline) as scope:
                    exit = await box.wait()
                if scope.cancelled_caught:
                    box.kill()
                    await box.wait()
                outputs.cancel_scope.deadline = anyio.current_time() + _DRAIN
            inputs.cancel_scope.cancel()
    return exit


async def _hear(box: Container, refused: Refused) -> None:
    async for violation in box.violations():
        refused.add(violation)


async def _feed(box: Container, standard: Standard) -> None:
    """Our input to the container's, as it comes; its end closes a pipe, and is Ctrl-D's business on a terminal."""
    stdin = box.stdin
    assert stdin is not None
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        while data := await _read(0):
            await stdin.send(data)
    if standard.tty:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stdin.send(b"\x04")  # what a person types at the end; a pseudo-terminal has no half close
    else:
        await stdin.aclose()


async def _read(fd: int) -> bytes:
    """The next bytes of *fd*, which stays blocking; b"" at its end."""
    with contextlib.suppress(
        PermissionError
    ):  # a regular file can't be waited for (epoll_ctl(2)): it is ready
        await anyio.wait_readable(fd)
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # a terminal that was hung up, or that we read from in the background
            return b""
        raise


async def _copy(stream: anyio.abc.ByteReceiveStream, fd: int) -> None:
    """The container's output to ours. When nobody reads ours any more, the command gets the SIGPIPE."""
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
        while True:
            data = await stream.receive(_CHUNK)
            try:
                await anyio.to_thread.run_sync(_write, fd, data, abandon_on_cancel=True)
            except BrokenPipeError:
                await stream.aclose()
                return


def _write(fd: int, data: bytes) -> None:
    """All of it, in a thread: a terminal that was stopped by Ctrl-S must not stop the loop and its timeout."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def _hand_on_signals(
    box: Container, signals: AsyncIterator[signal.Signals], standard: Standard, terminal: Terminal
) -> None:
    """Signals that people and shells send us are meant for the command; stopping us stops everything in the box."""
    async for number in signals:
        if number == signal.SIGTSTP:
            async with _paused(box):
                terminal.stop_ourselves()
        elif number in _HANDED_ON:
            box.send_signal(number)
        elif standard.tty:  # SIGWINCH, or we were continued: perhaps by a shell that had another size or mode
            if number == signal.SIGCONT:
                terminal.raw()
            box.resize(*terminal.size())


@contextlib.asynccontextmanager
async def _paused(box: Container) -> AsyncIterator[None]:
    """Everything in the box stands still: frozen where it has a control group, else its main command stopped."""
    from creche import CrecheError

    try:
        await box.freeze()
    except CrecheError:
        box.send_signal(signal.SIGSTOP)
        yield
        box.send_signal(signal.SIGCONT)
    else:
        yield
        await box.thaw()
