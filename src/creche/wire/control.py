"""Messages to and from the init, encoded and decoded; pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

from attrs import frozen

from ..values import Value

__all__ = ["REPLY_SIZE", "Failure", "Reply", "decode"]

SETUP, RUN, SIGNAL, OPEN_FILE, RESET = 2, 3, 4, 5, 7
(  # what OPEN_FILE asks for
    FILE_OPEN, FILE_MKDIR, FILE_UNLINK, FILE_RMDIR, FILE_SYMLINK, FILE_MODE, FILE_OWNER, FILE_LAYER, FILE_XATTR, FILE_TREE, FILE_STAGE, FILE_UNSTAGE,
) = range(12)  # fmt: skip
READY, FAILED, STARTED, START_FAILED, EXITED, OPENED = range(65, 71)
RUN_MAIN, RUN_PTY, RUN_LISTENER, RUN_BRIEF, RUN_FORKED = 1, 2, 16, 32, 64
FORK = 33  # to a template

_HEAD = struct.Struct("=2I2i9Q")
_FAILURE = struct.Struct("=5Ii2I224s")
REPLY_SIZE = _HEAD.size + _FAILURE.size


@frozen(eq=False, repr=False)
class Failure(Value):
    """What the interpreter recorded of a Step that failed: (phase, index, opcode, errno, text), and a detail."""

    phase: int
    index: int
    op: int
    detail: int
    errno: int
    text: bytes


class Reply(NamedTuple):
    """One message from the init."""

    type: int
    id: int
    status: int
    user: float  #: seconds
    system: float
    maxrss: int  #: bytes
    blocks_read: int
    blocks_written: int
    failure: Failure | None  #: of FAILED and START_FAILED


def failure_of(data: bytes) -> Failure:
    """A failure record as C laid it out."""
    phase, index, op, _blame, detail, errno, size, _, text = _FAILURE.unpack(data)
    return Failure(phase, index, op, detail, errno, text[: min(size, len(text))])


def decode(data: bytes) -> Reply | None:
    """A message, or None where it is none: of another size or an unknown type."""
    if len(data) != REPLY_SIZE:
        return None
    kind, ident, status, _, user, system, rss, _minor, _major, blocks_in, blocks_out, _vol, _inv = _HEAD.unpack_from(data)
    if not READY <= kind <= OPENED:
        return None
    return Reply(kind, ident, status, user / 1e6, system / 1e6, rss * 1024, blocks_in, blocks_out, failure_of(data[_HEAD.size :]) if kind in (FAILED, START_FAILED) else None)
