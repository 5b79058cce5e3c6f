"""The exception tree: every way in which creche says no, as values a program can act on.

    CrecheError                     caught once, catches everything below
    ├── SpecError                   a Spec (or an argument) makes no sense; also a ValueError
    ├── SpawnError                  the kernel refused a step while a container was made; also an OSError
    ├── UnsupportedError            this machine, kernel or user cannot do what was asked
    ├── CgroupError                 a control group could not be made, set or read
    ├── FileError                   a file could not be put into, or taken out of, a container; also an OSError
    ├── SyscallError                a notified call is gone, or what its arguments point to can't be read; also an OSError
    ├── WarmError                   the template of a warm pool did not come to life, or does not fork
    ├── CallError                   a function that `Pool.call` called raised, or gave nothing that can be taken
    └── ExitError                   a command did not end well, and ``check`` was asked for

Every class takes keywords with the names of its attributes, survives pickling with all of them, and prints
as one line for people in which control characters are escaped.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .results import Exit

__all__ = [
    "CallError",
    "CgroupError",
    "CrecheError",
    "ExitError",
    "FileError",
    "SpawnError",
    "SpecError",
    "SyscallError",
    "UnsupportedError",
    "WarmError",
]

_SHOWN = 120  # characters of a refused value that an error repeats


def _rebuild(cls: type[CrecheError], values: dict[str, Any]) -> CrecheError:
    return cls(**values)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _shown(value: object) -> str:
    """`value` on one line and not too long: what is wrong may be a megabyte, or have a repr that raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the repr is a stranger's, and may raise anything
        text = f"<{type(value).__name__}>"
    text = _printable(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _cause(errno: int | None) -> str:
    """What the kernel said: ``Operation not permitted (EPERM)``."""
    if not errno:
        return ""
    name = _errno.errorcode.get(errno, f"errno {errno}")
    return f"{os.strerror(errno)} ({name})"


def _sentence(*parts: str | None, hint: str | None = None) -> str:
    said = ": ".join(part for part in parts if part)
    return f"{said}; {hint}" if said and hint else said or hint or ""


class CrecheError(Exception):
    """The root of the tree; raised itself where a container is used out of turn (twice, too early, too late)."""

    _fields: tuple[str, ...] = ()  # the constructor's keywords, which are also the attributes

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._fields:
            return (type(self), self.args)
        return (_rebuild, (type(self), {name: getattr(self, name) for name in self._fields}))


class SpecError(CrecheError, ValueError):
    """A value that cannot be meant: raised when it is given, before anything was started.

    Attributes:
        field: the full path of the field, such as ``limits.memory`` or ``mounts[1].target``.
        value: what was given.
        wish: what would have been accepted.
    """

    _fields = ("field", "value", "wish")

    def __init__(self, field: str, value: object, wish: str) -> None:
        self.field = field
        self.value = value
        self.wish = wish
        super().__init__(field, value, wish)

    def __str__(self) -> str:
        return _printable(f"{self.field}: {_shown(self.value)} is refused: {self.wish}")

    def at(self, natural: str, actual: str) -> SpecError:
        """The same error told from further out: ``Bind.target`` becomes ``mounts[1].target``."""
        if self.field == natural:
            return SpecError(actual, self.value, self.wish)
        if natural and self.field.startswith((f"{natural}.", f"{natural}[")):
            return SpecError(actual + self.field[len(natural) :], self.value, self.wish)
        return self


class SpawnError(CrecheError, OSError):
    """The kernel refused one step of making a container; everything before it has been undone.

    Attributes:
        field: the field of the Spec that asked for the step, or None.
        step: the step's name, such as ``mount``, or None.
        errno: what the kernel answered, or None.
        hint: what to do about it, or None.
        message: the sentence in front, where there is a better one than can be made from the others.
    """

    _fields = ("message", "field", "step", "errno", "hint")

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        step: str | None = None,
        errno: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.field = field
        self.step = step
        self.hint = hint
        super().__init__(errno, message or _cause(errno) or "the container could not be started")

    def __str__(self) -> str:
        if self.message:
            return _sentence(self.message, hint=self.hint)
        failed = f"{self.step} failed" if self.step else "the container could not be started"
        return _sentence(self.field, failed, _cause(self.errno), hint=self.hint)


class UnsupportedError(CrecheError):
    """What was asked cannot be had on this machine, and creche does not do less in silence.

    Attributes:
        what: what is missing here.
        hint: how to get it, or None.
    """

    _fields = ("what", "hint")

    def __init__(self, what: str, hint: str | None = None) -> None:
        self.what = what
        self.hint = hint
        super().__init__(what, hint)

    def __str__(self) -> str:
        return _sentence(self.what, hint=self.hint)


class CgroupError(CrecheError):
    """A control group could not be made, set, read or removed.

    Attributes:
        message: what was tried.
        path: the file or directory below ``/sys/fs/cgroup``, or None.
        errno: what the kernel answered, or None.
        hint: what to do about it, or None.
    """

    _fields = ("message", "path", "errno", "hint")

    def __init__(
        self, message: str, path: str | None = None, errno: int | None = None, hint: str | None = None
    ) -> None:
        self.message = message
        self.path = path
        self.errno = errno
        self.hint = hint
        super().__init__(message, path, errno, hint)

    def __str__(self) -> str:
        where = _shown(self.path) if self.path is not None else None
        return _sentence(self.message, where, _cause(self.errno), hint=self.hint)


class FileError(CrecheError, OSError):
    """A file could not be put into, or got out of, a container.

    Attributes:
        path: the path inside the container.
        errno: what the kernel answered, or None.
        message: what was wrong, where no errno says it (``not a regular file``), or None.
    """

    _fields = ("path", "errno", "message")

    def __init__(self, path: str, errno: int | None = None, message: str | None = None) -> None:
        self.path = path
        self.message = message
        super().__init__(errno, message or _cause(errno) or "not possible", path)

    def __str__(self) -> str:
        return _sentence(_shown(self.path), self.message, _cause(self.errno)) or "not possible"


class SyscallError(CrecheError, OSError):
    """A call that `Container.syscalls` gave is gone, or what an argument of it points to can't be read.

    Attributes:
        call: the call's name.
        errno: ENOENT (its caller is gone), EFAULT (no memory of its lies there), ENAMETOOLONG (no NUL ends the string)
            or EACCES (its memory is not ours to read). All of them make a fitting answer: ``call.deny(error.errno)``.
    """

    _fields = ("call", "errno")
    _SAID: ClassVar = {
        _errno.ENOENT: "its caller is gone: killed, or interrupted by a signal",
        _errno.EFAULT: "an argument points to no memory of its caller's",
        _errno.ENAMETOOLONG: "an argument points to a string without an end",
        _errno.EACCES: "its caller's memory can't be read: Yama forbids it (kernel.yama.ptrace_scope=3), or a filter around the supervisor",
    }

    def __init__(self, call: str, errno: int) -> None:
        self.call = call
        super().__init__(errno, self._SAID.get(errno) or _cause(errno))

    def __str__(self) -> str:
        return _sentence(_printable(self.call), self._SAID.get(self.errno or 0) or _cause(self.errno))


class WarmError(CrecheError):
    """The template of a warm pool did not come to life, or does not fork any more.

    Attributes:
        message: what happened.
        hint: what to do about it, or None.
        traceback: where its imports failed, as Python tells it, or None.
    """

    _fields = ("message", "hint", "traceback")

    def __init__(self, message: str, hint: str | None = None, traceback: str | None = None) -> None:
        self.message = message
        self.hint = hint
        self.traceback = traceback
        super().__init__(message, hint, traceback)

    def __str__(self) -> str:
        return _printable(_sentence(self.message, hint=self.hint))


class CallError(CrecheError):
    """A function that `Pool.call` called raised an exception, or gave nothing that can be taken. All of it is the guest's word.

    Attributes:
        message: the exception's text, or what is wrong with the answer.
        type: the name of the exception's class, or None where there was none.
        traceback: as Python tells it, or None.
    """

    _fields = ("message", "type", "traceback")

    def __init__(self, message: str, type: str | None = None, traceback: str | None = None) -> None:
        self.message = message
        self.type = type
        self.traceback = traceback
        super().__init__(message, type, traceback)

    def __str__(self) -> str:
        return _printable(_sentence(self.type, self.message)) or "the call failed"


class ExitError(CrecheError):
    """A command did not end well; raised by `Exit.check` and by ``run(check=True)``.

    Attributes:
        exit: the Exit.
        stdout, stderr: what it wrote, as far as it was kept.
        returncode: the exit status, negative for a signal, as in `subprocess`.
    """

    _fields = ("exit", "stdout", "stderr")

    def __init__(self, exit: Exit, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.exit = exit
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(exit, stdout, stderr)

    @property
    def returncode(self) -> int:
        """The exit status, negative for a signal, as in `subprocess`."""
        return self.exit.returncode

    def __str__(self) -> str:
        return self.exit.explain()
