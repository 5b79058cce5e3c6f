"""How a run ended, as the exit status of `creche run`: the numbers of docker run, timeout(1) and the shells; pure."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from creche import CrecheError, Exit

__all__ = ["OUR_FAILURE", "TIMED_OUT", "error_status", "exit_status", "worth_telling"]

TIMED_OUT = 124
OUR_FAILURE = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_BASE = 128


def exit_status(exit: Exit) -> int:
    """124 where time was up, 128 + N for signal N, 125 where the container was lost, else the command's own."""
    from creche import Reason

    if exit.reason is Reason.TIMEOUT:
        return TIMED_OUT
    if exit.reason is Reason.LOST:
        return OUR_FAILURE
    if exit.code is not None:
        return exit.code
    return SIGNAL_BASE + (exit.signal or 0)


def error_status(error: CrecheError) -> int:
    """127 where the command does not exist, 126 where it may not be executed, 125 for everything else of ours."""
    from creche import SpawnError

    if isinstance(error, SpawnError) and error.field == "command":
        if error.errno == errno.ENOENT:
            return NOT_FOUND
        if error.errno in (
            errno.EACCES,
            errno.ENOEXEC,
            errno.EISDIR,
            errno.EPERM,
            errno.ELOOP,
            errno.ENOTDIR,
        ):
            return NOT_EXECUTABLE
    return OUR_FAILURE


def worth_telling(exit: Exit) -> bool:
    """Whether a person needs a sentence: it ended for a reason that its status alone does not tell."""
    from creche import Reason

    return exit.reason not in (Reason.EXITED, Reason.SIGNALED)
