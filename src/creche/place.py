"""A container as a place: more commands in it, and files in and out, by way of its init."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import anyio
import attrs

from . import commands, files, trees
from .errors import CrecheError, SpecError
from .files import Inside
from .lifecycle import CLOSING, State
from .plan.command import filter_of
from .plan.compile import steps_of_command
from .plumbing import Plumbing
from .process import Process, signal_number
from .results import Reason, Result
from .shielded import finish
from .spawn import exhausted
from .spec.spec import words_of
from .wire import control
from .wire.encode import encode_command
from .wire.failure import error_of

if TYPE_CHECKING:
    from .audit.attempts import Attempt
    from .audit.auditing import Finding
    from .channel import Channel
    from .container import Container
    from .machine import Machine
    from .plan.compile import Context, Plan
    from .spec.limits import Limits
    from .spec.spec import Spec
    from .streams import ReceiveStream

__all__ = ["Place"]

PROGRAM = 3  # the number of a program that is executed by its descriptor
LONGEST_PATH = 4096  # bytes, PATH_MAX: limits.h


class Place:
    """The half of Container that its users talk to once it runs; it needs an init of ours (`Spec.has_init`)."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _channel: Channel | None
        _main: Process | None
        _plan: Plan | None
        _machine: Machine | None
        _context: Context
        _processes: dict[int, Process]
        _answers: dict[int, tuple[int, list[int]]]
        _asked: set[int]
        _next: int
        _resetting: bool
        _sending: int
        _uids: set[int]

        async def _begin_layer(self, command: tuple[str, ...]) -> None: ...
        @contextlib.contextmanager
        def _writes(self) -> Iterator[None]:
            yield

        def _enter(self, ident: int, limits: Limits | None) -> list[int]: ...
        def _entered(self, ident: int) -> None: ...
        def _leave(self, ident: int) -> None: ...
        def _give(self, plumbing: Plumbing, plan: Plan, uid: int, gid: int) -> None: ...
        async def _gone(self) -> None: ...
        def _later(self, order: Callable[[], None]) -> bool: ...
        @property
        def stdout(self) -> ReceiveStream | None: ...

    def open(self, command: Any, **fields: Any) -> contextlib.AbstractAsyncContextManager[Process]:
        """Start another command in it: an async context manager that gives a Process, killed when the block is left.

        `fields` are the Spec's of a command: env (added to the Spec's), inherit_env, cwd, user, groups, stdin, stdout, stderr, tty,
        pass_fds, rlimits, umask, nice, oom_score_adj, limits. Raises as the start of a container does.
        """
        return self._opened(command, fields)

    @contextlib.asynccontextmanager
    async def _opened(self, command: Any, fields: dict[str, Any]) -> AsyncIterator[Process]:
        process = await self._launch(command, fields)
        try:
            yield process
        finally:
            await process.aclose()

    async def run(
        self, command: Any, *, input: bytes | None = None, timeout: float | None = None, max_output: int | None = 16 << 20,
        on_overflow: str = "kill", check: bool = False, **fields: Any,
    ) -> Result:  # fmt: skip
        """Run another command in it to its end: a Result, as of `creche.run`."""
        from .running import run_in

        return await run_in(cast("Container", self), partial(self._launch, brief=True), command, input, timeout, max_output, on_overflow, check, fields)

    async def _launch(
        self, command: Any, fields: dict[str, Any], *, program: int = -1, input: bytes | None = None, brief: bool = False,
        sources: Mapping[int, int] | None = None,
    ) -> Process:  # fmt: skip
        """Start a command; with `program` what is executed is that descriptor, whatever the container's files are.

        `input` is what it finds in its stdin, as far as that goes in. A `brief` one may have ended when this returns, and if so has no pid.
        `sources`: which descriptor of ours a number of its `pass_fds` stands for.
        """
        if self._state is not State.RUNNING or self._channel is None or not self.spec.has_init or self._resetting:
            why = "it is being reset" if self._resetting else self._state.value if self.spec.has_init else "it has no init of ours to start commands"
            raise CrecheError(f"the container can't run a command: {why}")
        words = words_of(command)
        spec, added = commands.derive(self.spec, {**fields, "pass_fds": (PROGRAM,)} if program >= 0 else fields)
        await self._begin_layer(words)
        plumbing = Plumbing(spec, {PROGRAM: program} if program >= 0 else sources)
        ident, self._next = self._next, self._next + 1
        process = self._processes[ident] = Process(cast("Container", self), ident, words, plumbing)
        process.brief = brief
        try:
            if input is not None and plumbing.stdin is not None:
                plumbing.feed(input)
            cgroup_fds = self._enter(ident, spec.limits if fields.get("limits") else None)
            context = self._context
            if added or len(cgroup_fds) != context.command_cgroups:
                context = attrs.evolve(context, command_cgroups=len(cgroup_fds), caller={**context.caller, **added})
            await self._execute(process, spec, plumbing, cgroup_fds, context, main=False, program=program >= 0)
            self._entered(ident)
        except BaseException:
            await finish(partial(self._abandon, process))
            raise
        return process

    async def _abandon(self, process: Process) -> None:
        """A command whose start failed or was cancelled: it may be on its way still, and must not outlive this."""
        assert self._channel is not None
        if process.sent and process.failure is None:
            process._kill(Reason.KILLED, "a cancellation")
            with contextlib.suppress(OSError), anyio.move_on_after(CLOSING):
                if process._pidfd < 0:  # it may stand still before its exec, in a frozen container for one
                    await self._channel.send(control.SIGNAL, process._ident, number=int(signal.SIGKILL))
                await self._channel.until(lambda: process.started or process.failure is not None)
                if process.started:
                    process._kill(Reason.KILLED, "a cancellation")
                    await self._channel.until(lambda: process._exit is not None)
        self._leave(process._ident)
        self._processes.pop(process._ident, None)
        process._close()

    async def _execute(self, process: Process, spec: Spec, plumbing: Plumbing, cgroup_fds: list[int], context: Context, *, main: bool, program: bool = False) -> None:
        """Look the user up inside, compile the command and have the init start it."""
        assert self._plan is not None and self._machine is not None and self._channel is not None
        account = commands.account(spec, self._machine, self._plan) or await commands.look_up(spec, self._plan, self._read)
        if self._plan.who.private:
            self._give(plumbing, self._plan, account.uid, account.gid)
        self._uids.add(account.uid)
        steps = steps_of_command(spec, process._command, self._machine, self._plan.who, account, context)
        compiled = filter_of(spec, self._machine)
        process.listens = compiled is not None and compiled.needs_listener
        if program:
            steps = (*steps[:-1], attrs.evolve(steps[-1], slot=PROGRAM))
        process.brief = process.brief and spec.tty is None and not process.listens and not plumbing.unsent
        flags = (control.RUN_MAIN if main else 0) | (control.RUN_PTY if spec.tty else 0) | (control.RUN_LISTENER if process.listens else 0)
        flags |= control.RUN_BRIEF if process.brief else 0
        rows, columns = spec.tty or (0, 0)
        if self._resetting:
            raise CrecheError("the container can't run a command: it is being reset")
        process.sent = True
        self._sending += 1
        try:
            await self._send(control.RUN, process._ident, flags=flags, a=rows, b=columns, blob=encode_command(steps), fds=[*plumbing.child, *cgroup_fds])
        except BaseException:
            process.sent = False
            raise
        finally:
            self._sending -= 1
            if self._resetting:
                self._channel.wake()
        plumbing.sent()
        await self._channel.until(lambda: process.started or process.failure is not None)
        if process.failure is not None:
            raise error_of(process.failure, attrs.evolve(spec, command=process._command), self._plan, steps, commands.why)
        if process.trouble is not None:
            raise process.trouble
        if not process.started:
            await self._gone()
        if not process.started:
            raise CrecheError("the container ended before the command could start")

    async def _send(self, kind: int, ident: int, **fields: Any) -> None:
        assert self._channel is not None
        try:
            await self._channel.send(kind, ident, **fields)
        except (BrokenPipeError, ConnectionResetError):
            raise CrecheError("the container has ended: nothing more can be run in it") from None
        except OSError as error:  # no descriptor for a large Plan, or too many on their way: unix(7)
            raise exhausted(error.errno or 0) from None

    async def _ask_file(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = control.FILE_OPEN, base: int = -1, more: str | None = None, to: int = -1) -> int:
        """Have the init open (or make, remove, …) a file, resolved inside the container's root, or one name in the directory `base`.

        OSError where that can't be; else the descriptor, or 0 where there is none to give.
        """
        if self._state not in (State.RUNNING, State.STARTING) or self._channel is None or not self.spec.has_init:
            raise CrecheError(f"the container's files can't be reached: {self._state.value if self.spec.has_init else 'it has no init of ours'}")
        blob = os.fsencode(path)
        if len(blob) >= LONGEST_PATH or b"\0" in blob:
            raise OSError(*((errno.EINVAL, "a NUL in a path") if b"\0" in blob else (errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))))
        if more is not None:
            blob += b"\0" + os.fsencode(more)
        ident, self._next = self._next, self._next + 1
        self._asked.add(ident)
        try:
            await self._send(control.OPEN_FILE, ident, number=flags, a=mode, b=verb, blob=blob, fds=[fd for fd in (base, to) if fd >= 0])
            await self._channel.until(lambda: ident in self._answers)
        except BaseException:
            self._asked.discard(ident)  # what is answered later is closed
            for fd in self._answers.pop(ident, (0, []))[1]:
                os.close(fd)
            raise
        if ident not in self._answers:
            raise CrecheError("the container ended before its file could be reached")
        status, fds = self._answers.pop(ident)
        if status < 0 or (verb in (control.FILE_OPEN, control.FILE_LAYER, control.FILE_TREE) and not fds):
            number = -status or errno.EMFILE  # opened, and we had no number left for it
            raise OSError(number, os.strerror(number), path)
        return fds[0] if fds else 0

    async def _read(self, path: str, limit: int) -> bytes:
        fd = await self._ask_file(path, os.O_RDONLY)
        try:
            return commands.read_regular(fd, path, limit)
        finally:
            os.close(fd)

    async def _inside(self) -> Inside:
        """Its files; what is made there belongs to the user of its Spec, where that is not the init's own."""
        if self.spec.user is None or self._plan is None or self._machine is None:
            return Inside(self._ask_file)
        account = commands.account(self.spec, self._machine, self._plan) or await commands.look_up(self.spec, self._plan, self._read)
        owner = account.uid, account.gid
        return Inside(self._ask_file, None if owner == (self._plan.who.uid, self._plan.who.gid) else owner)

    async def put(
        self, path: str | os.PathLike[str], content: bytes | str | os.PathLike[str], *, mode: int | None = None, parents: bool = False,
    ) -> None:  # fmt: skip
        """Write a file inside: `content` is bytes, or the path of a file or a directory of the host. Raises FileError.

        `mode` is the file's, 0o644 unless given; what is below a directory keeps its own, without setuid bits, and its links are
        copied, never followed. Directories that `path` lacks are made with `parents`. Files that are there are overwritten.
        What is made belongs to the user of the Spec.
        """
        with self._writes():
            inside, where = await self._inside(), os.fspath(path)
            if not isinstance(content, (bytes, bytearray, memoryview)) and os.path.isdir(content):
                if mode is not None:
                    raise SpecError("mode", mode, "the files of a directory keep theirs")
                await trees.put_tree(inside, where, os.fsdecode(content), parents)
            else:
                await files.put(inside, where, content, 0o644 if mode is None else mode, parents)

    @overload
    async def get(self, path: str | os.PathLike[str], *, max_bytes: int = ...) -> bytes: ...
    @overload
    async def get(self, path: str | os.PathLike[str], *, to: str | os.PathLike[str], max_bytes: int = ..., max_files: int = ...) -> list[str]: ...
    async def get(
        self, path: str | os.PathLike[str], *, to: str | os.PathLike[str] | None = None, max_bytes: int = 64 << 20, max_files: int = 10_000,
    ) -> bytes | list[str]:  # fmt: skip
        """The bytes of a regular file inside, `max_bytes` at most; or copy it, or a whole directory, to `to` on the host.

        `to` may be a directory that exists, but nothing there is overwritten. The copies are the caller's, and nobody else's to
        write. Returns what was left out, being neither file nor directory: links, FIFOs, sockets and devices, as paths below `path`.

        Raises FileError; with EFBIG beyond `max_bytes` in all, or `max_files` (names of any kind). What was copied until then stays.
        """
        if to is None:
            return await files.get(Inside(self._ask_file), os.fspath(path), max_bytes)
        return await trees.get_tree(Inside(self._ask_file), os.fspath(path), os.fsdecode(to), max_bytes, max_files)

    @overload
    def open_file(self, path: str | os.PathLike[str], mode: Literal["rb"] = ..., *, max_bytes: int | None = ...) -> contextlib.AbstractAsyncContextManager[files.FileReader]: ...
    @overload
    def open_file(self, path: str | os.PathLike[str], mode: Literal["wb", "ab", "xb"], *, perm: int = ...) -> contextlib.AbstractAsyncContextManager[files.FileWriter]: ...
    @contextlib.asynccontextmanager
    async def open_file(self, path: str | os.PathLike[str], mode: str = "rb", *, perm: int = 0o644, max_bytes: int | None = None) -> AsyncIterator[Any]:
        """A regular file inside as a stream: an async context manager.

        "rb" gives an `anyio.abc.ByteReceiveStream`, which raises FileError with EFBIG beyond `max_bytes`; "wb" (made or emptied),
        "ab" (made or added to) and "xb" (made, or FileExistsError's errno) an `anyio.abc.ByteSendStream`; `perm` is a new file's mode.

        >>> async with box.open_file("/tmp/log") as file:
        ...     async for part in file: ...
        """
        with contextlib.nullcontext() if mode == "rb" else self._writes():
            async with files.opened(await self._inside(), os.fspath(path), mode, perm, max_bytes) as file:
                yield file

    async def listdir(self, path: str | os.PathLike[str], *, max_files: int = 100_000) -> list[str]:
        """The names in a directory inside, in no order. Raises FileError; with EFBIG where there are more than `max_files`."""
        return await trees.listdir(Inside(self._ask_file), os.fspath(path), max_files)

    async def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """Remove a file or a link inside; with `recursive` a directory too, and all below it. Raises FileError."""
        with self._writes():
            await trees.remove(Inside(self._ask_file), os.fspath(path), recursive)

    async def audit(self, process: Process | None = None) -> tuple[Finding, ...]:
        """What it promises beside what the kernel says: of a command in it (`process`, or the main one), and to a probe inside.

        The first is read from the host's /proc. The second is a program of ours, executed from memory under the very Steps that a
        command of the Spec has: it tries what the Spec forbids and tells the kernel's answers; what it tries changes nothing even
        where it succeeds. No program of the container has a say in either. Without an init of ours there is no probe.

        Raises CrecheError where nothing runs to be looked at, or the probe was ended; SpawnError as `run` does.
        """
        from .audit.auditing import audit, facts_of

        looked_at = process or self._processes.get(1)
        pid = looked_at.pid if looked_at is not None and looked_at.exit is None else 0
        if not pid:
            raise CrecheError("nothing runs that could be audited: give a main command, or a process that `open` gave")
        found = audit(self.spec, facts_of(pid))
        if looked_at is None or looked_at.exit is not None:
            raise CrecheError("the command ended while it was audited")  # its number may be another's by now
        if not self.spec.has_init:
            return found
        from .audit.attempts import attempts

        assert self._machine is not None
        return *found, *await self._attempted(attempts(self.spec, filter_of(self.spec, self._machine)))

    async def _attempted(self, table: Sequence[Attempt]) -> tuple[Finding, ...]:
        """What came of these attempts, made by the probe as a command of the Spec."""
        from .audit.attempts import encoded
        from .audit.auditing import program, tried

        assert self._machine is not None
        probe = program()
        try:
            process = await self._launch(["creche-probe"], {"stderr": "null"}, program=probe)
        finally:
            os.close(probe)
        told = b""
        try:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(anyio.BrokenResourceError):  # killed: what it told until then says so
                await process.stdin.send(encoded(table, self._machine.arch))
            async for part in process.stdout:
                told += part
        finally:
            await process.aclose()
        return tuple(tried(table, told))

    def resize(self, rows: int, columns: int) -> None:
        """Give the main command's terminal another size; it gets SIGWINCH."""
        if self.spec.tty is None or self.stdout is None:
            raise CrecheError("the container has no terminal: give Spec(tty=True)")
        if self.stdout.fileno() < 0:
            raise CrecheError("the container's terminal is closed")
        commands.resize(self.stdout.fileno(), rows, columns)

    def send_signal(self, signal: int, *, all: bool = False) -> None:
        """Send the main command a signal; with `all` every process in it but its init, those that commands left behind, too.

        Nothing where it has ended. Raises ValueError for no signal, CrecheError where there is no main command, or (`all`) no init
        of ours to do it, or one that has not yet read what it was told before.

        >>> box.send_signal(signal.SIGTERM, all=True)
        """
        number = signal_number(signal)
        if all and not self.spec.has_init:
            raise CrecheError("the container has no init of ours, which alone knows all processes: leave init and namespaces.pid True")
        if not all and self.spec.command is None and self._state in (State.STARTING, State.RUNNING):
            raise CrecheError("the container has no main command: give all=True, or signal a process that open() gave")
        if self._later(partial(self.send_signal, signal, all=all)):
            return
        if all:
            self._signal_all(number)
        elif self._main is not None:
            self._main.send_signal(number)

    def _signal_all(self, number: int) -> None:
        if self._state is not State.RUNNING or self._channel is None or self._channel.ended:
            return
        try:
            sent = self._channel.post(control.SIGNAL, 0, number=number)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has just ended
        if not sent:
            raise CrecheError("the container's init is busy with what it was told before: try again")
