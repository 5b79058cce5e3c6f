"""Our own terminal: raw while a container or a screen of ours uses it, its size, and giving it back when we stop or end."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Self

__all__ = ["Standard", "Terminal", "choose_standard", "is_terminal", "kinds"]

Kind = Literal["terminal", "other", "closed"]


class Standard(NamedTuple):
    """What the container gets as 0, 1 and 2, and whether it has a terminal of its own."""

    tty: bool
    stdin: str
    stdout: str
    stderr: str


def is_terminal(fd: int) -> bool:
    return os.isatty(fd)


def kinds() -> tuple[Kind, Kind, Kind]:
    """What our own 0, 1 and 2 are."""
    return _kind(0), _kind(1), _kind(2)


def _kind(fd: int) -> Kind:
    try:
        os.fstat(fd)
    except OSError:
        return "closed"
    return "terminal" if os.isatty(fd) else "other"


def choose_standard(ours: tuple[Kind, Kind, Kind], *, tty: bool | None, interactive: bool) -> Standard:
    """How to join ours to the container's, for `--tty` (None: where all three are terminals) and `--interactive`.

    What is a file or a pipe is handed over as it is: every byte is exact, and a reader that goes away is the
    command's own SIGPIPE. A terminal of ours is never handed over (a command in it could push input into it,
    TIOCSTI): the container gets one of its own, or a pipe.
    """
    wanted = tty if tty is not None else interactive and ours == ("terminal", "terminal", "terminal")
    if wanted:
        return Standard(True, "pipe", "pipe", "pipe")
    stdin, stdout, stderr = (
        {"terminal": "pipe", "other": "inherit", "closed": "null"}[kind] for kind in ours
    )
    return Standard(False, stdin if interactive else "null", stdout, stderr)


class Terminal:
    """The terminal behind descriptor 0, put into raw mode while the container uses it."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None
        self._enter: Callable[[int, int], object] = tty.setraw

    def size(self) -> tuple[int, int]:
        """(rows, columns); a terminal that does not know its size is taken for 24 by 80."""
        for fd in (self._fd, 1, 2):
            with contextlib.suppress(OSError):
                columns, rows = os.get_terminal_size(fd)
                if rows and columns:
                    return rows, columns
        return 24, 80

    def foreground(self) -> bool:
        """Whether the shell has given the terminal to us: in the background we must not touch its mode (SIGTTOU)."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def raw(self) -> None:
        """Take every key as it comes, Ctrl-C and Ctrl-Z too (but see `typing`); nothing where we are in the background."""
        if is_terminal(self._fd) and self.foreground():
            if self._saved is None:
                self._saved = termios.tcgetattr(self._fd)
            self._enter(self._fd, termios.TCSADRAIN)

    def typing(self) -> Self:
        """The same terminal for a block that reads keys one by one, where Ctrl-C and Ctrl-Z are still signals."""
        self._enter = tty.setcbreak
        return self

    def restore(self) -> None:
        """Give the terminal back as it was."""
        if self._saved is not None:
            with _no_ttou(), contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def stop_ourselves(self) -> None:
        """Stop as Ctrl-Z stops other programs, with the terminal given back; returns when we are continued."""
        self.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._saved is not None:
            self.raw()

    def __enter__(self) -> Self:
        self.raw()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


@contextlib.contextmanager
def _no_ttou() -> Iterator[None]:
    """A background process that sets a terminal's mode is stopped by SIGTTOU, unless it ignores it (termios(3))."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, before)
