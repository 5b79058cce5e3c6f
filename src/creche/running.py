"""run(): one container, one command, one Result; and the same for a command in a container that lives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import attrs

from .communicate import Collector, feed
from .container import Container
from .errors import SpecError
from .intake import Intake
from .process import Process
from .results import Exit, Reason, Result
from .spawn import exhausted
from .spec.checks import changed
from .spec.rules import check_answered
from .spec.spec import Spec

__all__ = ["MAX_OUTPUT", "check_options", "run"]

MAX_OUTPUT = 16 << 20  # bytes of each stream


async def run(
    command: Any,
    *,
    input: bytes | None = None,
    timeout: float | None = None,
    max_output: int | None = MAX_OUTPUT,
    on_overflow: str = "kill",
    check: bool = False,
    **spec_fields: Any,
) -> Result:
    """Run a command in a container of its own: start, feed, read, wait, clean up.

    Args:
        command: an argv, or a Spec; `spec_fields` are a Spec's fields, or change the given one.
        input: bytes for its standard input (``b""`` is an empty input); None: it reads from /dev/null.
        timeout: seconds from this call, the start included; past them everything in it is killed (Reason.TIMEOUT).
        max_output: bytes of each stream that are kept, head and tail; None: no bound.
        on_overflow: "kill" (Reason.OUTPUT_LIMIT), or "discard" what lies between head and tail.
        check: raise ExitError, which carries the output, unless it ended well.

    Raises SpecError, UnsupportedError, SpawnError, CgroupError as a Container's start does.

    >>> result = await creche.run(["python3", "-c", "print(6*7)"], timeout=5)
    >>> result.stdout
    b'42\\n'
    """
    check_options(input, timeout, max_output, on_overflow)
    if isinstance(command, Spec):
        spec = attrs.evolve(command, **spec_fields) if spec_fields else command
    else:
        spec = Spec(command, **spec_fields)
    if spec.command is None:
        raise SpecError("command", None, "run() needs one; a place without a command is a Container")
    check_answered(spec)
    if input is not None:
        if spec.tty is None and spec.stdin != "pipe":
            raise _unread()
    elif spec.stdin == "pipe" and spec.tty is None:
        spec = changed(spec, {"stdin": "null"})
    box = Container(spec)
    box._input, box._brief = input, True
    deadline = math.inf if timeout is None else anyio.current_time() + timeout
    result: Result | None = None
    with _until(deadline) as starting:
        async with box:
            if starting is not None:
                starting.deadline = math.inf  # _attend keeps it from here on, so that nothing that was read is lost
            assert box._main is not None

            def kill(reason: Reason, limit: str, value: float | None) -> None:
                box._kill(reason, limit=limit, value=value)

            result = await _attend(box._main, box.wait, kill, input, deadline, timeout, max_output, on_overflow)
    if result is None:
        result = _too_slow(spec.command or (), timeout)
    return result.check() if check else result


async def run_in(
    box: Container, launch: Callable[..., Awaitable[Process]], command: Any, input: bytes | None, timeout: float | None, max_output: int | None,
    on_overflow: str, check: bool, fields: dict[str, Any], more: tuple[Collector, ...] = (),
) -> Result:  # fmt: skip
    """`Container.run`, of what `launch` starts in it, which is given the command, its fields and `input`; `more` is collected with what it writes."""
    check_options(input, timeout, max_output, on_overflow)
    if input is None and "stdin" not in fields and not fields.get("tty"):
        fields = {**fields, "stdin": "null"}
    elif input is not None and fields.get("stdin") not in (None, "pipe", -1) and not fields.get("tty"):
        raise _unread()
    deadline = math.inf if timeout is None else anyio.current_time() + timeout
    started: Process | None = None
    with _until(deadline):
        started = await launch(command, fields, input=input)
    if started is None:
        result = _too_slow((), timeout)
        return result.check() if check else result
    process = started

    def kill(reason: Reason, limit: str, value: float | None) -> None:
        process.limit, process.limit_value = limit, value
        process._kill(reason)

    async def wait() -> Exit:
        await process.wait()
        assert process._exit is not None
        return process._exit

    try:
        result = await _attend(process, wait, kill, input, deadline, timeout, max_output, on_overflow, more)
    finally:
        await process.aclose()
    return result.check() if check else result


def _unread() -> SpecError:
    return SpecError("input", "bytes", "stdin is not a pipe: leave stdin out")


def _until(deadline: float) -> contextlib.AbstractContextManager[anyio.CancelScope | None]:
    """A scope that is cancelled at `deadline`: none where there is no time limit, for a scope costs as much as all else that `run_in` does."""
    return contextlib.nullcontext() if deadline == math.inf else anyio.move_on_at(deadline)


def _too_slow(command: tuple[str, ...], timeout: float | None) -> Result:
    """The time was over before the command was executed."""
    return Result(Exit(None, 9, Reason.TIMEOUT, limit="timeout", detail={"limit_value": float(timeout or 0), "command": command}))


async def _attend(
    process: Process, wait: Callable[[], Awaitable[Exit]], kill: Callable[[Reason, str, float | None], None], input: bytes | None,
    deadline: float, timeout: float | None, max_output: int | None, on_overflow: str, more: tuple[Collector, ...] = (),
) -> Result:  # fmt: skip
    """Feed, drain and wait until the command is dead; what it wrote until then is in the Result, however it ended."""

    def overflow() -> None:
        if on_overflow == "kill":
            kill(Reason.OUTPUT_LIMIT, "max_output", None if max_output is None else float(max_output))

    out, err = Collector(process.stdout, max_output, overflow), Collector(process.stderr, max_output, overflow)
    collectors = (out, err, *more)
    if process._exit is not None:  # it was brief
        exit = await wait()
    else:
        process.intake = _intake(collectors)
        try:
            if not process._plumbing.tty and not process._plumbing.unsent:
                if process.stdin is not None:
                    process.stdin.close()
                exit = await _end(wait, kill, deadline, timeout)
            else:
                async with anyio.create_task_group() as tasks:
                    if process.stdin is not None and process._plumbing.tty:
                        tasks.start_soon(partial(feed, process.stdin, input or b"", terminal=True))
                    elif process.stdin is not None:
                        tasks.start_soon(feed, process.stdin, process._plumbing.unsent)
                    exit = await _end(wait, kill, deadline, timeout)
                    tasks.cancel_scope.cancel()
        finally:
            intake, process.intake = process.intake, None
            if intake is not None:
                intake.close()
    for collector in collectors:
        collector.take()
    return _result(exit, out, err)


def _intake(collectors: Sequence[Collector]) -> Intake | None:
    """Who waits for the command takes what comes meanwhile. Raises SpawnError where there is no descriptor left for that."""
    takers = [(one.stream.fileno(), one.receive) for one in collectors if one.stream is not None and one.stream.fileno() >= 0]
    try:
        return Intake(takers) if takers else None
    except OSError as error:
        raise exhausted(error.errno or 0) from None


async def _end(wait: Callable[[], Awaitable[Exit]], kill: Callable[[Reason, str, float | None], None], deadline: float, timeout: float | None) -> Exit:
    """The command's end. Past the deadline it is waited for still, shielded from that and from nothing else: what is killed dies at once."""
    with _until(deadline):
        return await wait()
    kill(Reason.TIMEOUT, "timeout", timeout)
    with anyio.CancelScope(shield=True):
        return await wait()


def _result(exit: Exit, out: Collector, err: Collector) -> Result:
    stderr = err.result()
    if stderr and not exit.ok:
        exit = attrs.evolve(exit, detail={**exit.detail, "stderr": stderr[-512:]})
    return Result(exit, out.result(), stderr, out.truncated, err.truncated)


def check_options(input: object, timeout: object, max_output: object, on_overflow: object = "kill") -> None:
    """Raises SpecError for what `run` can't take, naming the argument."""
    if input is not None and not isinstance(input, (bytes, bytearray, memoryview)):
        raise SpecError("input", input, "give bytes (encode text first), or None")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout < math.inf):
        raise SpecError("timeout", timeout, "give seconds, or None for no limit of time")
    if max_output is not None and (isinstance(max_output, bool) or not isinstance(max_output, int) or max_output < 0):
        raise SpecError("max_output", max_output, "give a number of bytes, or None for no bound")
    if on_overflow not in ("kill", "discard"):
        raise SpecError("on_overflow", on_overflow, 'give "kill" or "discard"')
