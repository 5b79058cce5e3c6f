"""A command's descriptors: which the child gets, which we keep, all checked before any is opened."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping

from .errors import SpawnError, SpecError
from .plan.command import Descriptor
from .spec.spec import Spec
from .streams import ReceiveStream, SendStream

__all__ = ["Plumbing"]


def _number(value: object, field: str) -> int:
    """The descriptor that a field names; it must be open now, before one of ours can take its number."""
    try:
        fd = value if isinstance(value, int) else value.fileno()  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:  # closed, or a file in memory only
        raise SpecError(field, value, f"it has no descriptor ({error}): give a file that is open") from None
    if type(fd) is not int or fd < 0:  # a socket that was closed gives -1
        raise SpecError(field, value, f"it has no descriptor (its fileno() gives {fd!r}): give a file that is open")
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError as error:
        raise SpawnError(
            f"{field}: descriptor {fd} is not open: {error.strerror} ({errno.errorcode.get(error.errno or 0, '?')})", field=field, step="open",
            errno=error.errno, hint="keep it open until the container has started",
        ) from None  # fmt: skip
    return int(fd)


class Plumbing:
    """The ends of a command's pipes; the child's are closed once they have been sent."""

    def __init__(self, spec: Spec | None, sources: Mapping[int, int] | None = None, *, idle: bool = False) -> None:
        """None: of what has none yet. `idle`: there is no command to have them; what was given must be open all the same."""
        self.child: list[int] = []  # in the order of plan.compile.descriptors_of
        self._ours: list[int] = []  # opened here for the child
        self.stdin: SendStream | None = None
        self.stdout: ReceiveStream | None = None
        self.stderr: ReceiveStream | None = None
        self.pipes: list[int] = []
        self.unsent: memoryview = memoryview(b"")
        self.tty = spec is not None and spec.tty is not None
        if spec is None:
            return
        from_here = sources or {}
        passed = [_number(from_here.get(fd, fd), f"pass_fds[{index}]") for index, fd in enumerate(spec.pass_fds)]
        given: dict[str, int] = {}
        if spec.tty is None:
            for name, own in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
                value = getattr(spec, name)
                if value == "inherit":
                    given[name] = _number(own, name)
                elif not isinstance(value, str):
                    given[name] = _number(value, name)
        if idle:
            return
        name = "stdin"
        try:
            if spec.tty is None:
                for name in ("stdin", "stdout", "stderr"):
                    self._standard(name, getattr(spec, name), given)
            self.child += passed
        except OSError as error:
            self.close()
            raise SpawnError(
                f"{name}: descriptors exhausted: {error.strerror} ({errno.errorcode.get(error.errno or 0, '?')})", field=name, step="pipe", errno=error.errno, hint="raise RLIMIT_NOFILE (ulimit -n)"
            ) from None

    def _standard(self, name: str, value: object, given: dict[str, int]) -> None:
        if name in given:
            self.child.append(given[name])
        elif value == "null":
            self._ours.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            self.child.append(self._ours[-1])
        elif value == "stdout":
            self.child.append(self.child[1])
        else:
            read, write = os.pipe2(os.O_CLOEXEC)
            child = read if name == "stdin" else write
            self._ours.append(child)
            self.child.append(child)
            self.pipes.append(child)
            setattr(self, name, SendStream(write) if name == "stdin" else ReceiveStream(read))

    def terminal(self, master: int) -> None:
        """The terminal that the init opened is both streams from here on."""
        self.stdout = ReceiveStream(master)
        self.stdin = SendStream(os.dup(master))

    def feed(self, data: bytes) -> None:
        """Put into stdin what goes in at once, most often all of it, and then its end; the rest is `unsent`."""
        assert self.stdin is not None
        self.unsent = self.stdin.fill(data)
        if not self.unsent:
            self.stdin.close()

    def give(self, uid: int, gid: int) -> None:
        """Make the pipes the container's user's, so that it may open /dev/stdout again."""
        for fd in self.pipes:
            try:
                os.fchown(fd, uid, gid)
            except PermissionError:  # an ordinary user whose own id is not mapped: then by its mode, for only who has it can reach it
                os.fchmod(fd, 0o666)  # nosec B103

    def sent(self) -> None:
        """The child has its ends; ours of them go, or nobody would ever see an end of file."""
        for fd in self._ours:
            os.close(fd)
        self._ours.clear()

    def close(self) -> None:
        """Close everything that is ours."""
        self.sent()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def same(plan: tuple[Descriptor, ...], plumbing: Plumbing) -> bool:
    """Whether the plan's descriptors are as many as those to send; a mistake of ours if not."""
    return len(plan) == len(plumbing.child)
