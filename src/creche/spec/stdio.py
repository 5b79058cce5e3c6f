"""Where a command's descriptors come from: its three standard ones, those passed through, and its terminal."""

from __future__ import annotations

from typing import Any

from .checks import Check, Each, Schema, Whole, nearest

__all__ = ["PASS_FDS", "STDERR", "STDIN", "STDOUT", "TTY"]

_FD = Whole(0, 2**31 - 1, "a descriptor")
_CONSTANTS = {-1: "pipe", -2: "stdout", -3: "null"}  # subprocess.PIPE, STDOUT, DEVNULL


class _Stdio(Check):
    """A word, a descriptor, an object with fileno(), or one of subprocess's constants; None is a pipe."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.wish = f"give {', '.join(map(repr, words))}, a descriptor, or an object with fileno()"

    def __call__(self, value: Any, path: str) -> Any:
        if value is None:
            return "pipe"
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            value = _CONSTANTS.get(value, value)
        if isinstance(value, str):
            if value not in self.words:
                raise self.refuse(value, path, self.wish + nearest(value, self.words))
            return str(value)
        if callable(getattr(value, "fileno", None)):
            return value  # kept whole: with only its number, it could be closed by the garbage collector
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _FD.most:
            raise self.refuse(value, path)
        return int(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": [*self.words, None]}, _FD.schema()]}


STDIN = STDOUT = _Stdio("pipe", "null", "inherit")
STDERR = _Stdio("pipe", "null", "inherit", "stdout")

PASS_FDS = Each(
    Whole(3, 2**31 - 1, "a descriptor (0, 1 and 2 are stdin, stdout and stderr)"),
    "descriptors from 3 up",
    most=200,  # one message carries 253 (unix(7)), some of which are ours
    unique=True,
)


class _Tty(Check):
    """False or None: no terminal. True: one of 24 rows and 80 columns. A pair: its rows and columns."""

    wish = "give True, False, or (rows, columns), each from 1 to 65535"
    _SIDE = Whole(1, 65535)

    def __call__(self, value: Any, path: str) -> tuple[int, int] | None:
        if value is None or value is False:
            return None
        if value is True:
            return (24, 80)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise self.refuse(value, path)
        return (self._SIDE(value[0], f"{path}[0]"), self._SIDE(value[1], f"{path}[1]"))

    def schema(self) -> Schema:
        pair = {"type": "array", "items": self._SIDE.schema(), "minItems": 2, "maxItems": 2}
        return {"anyOf": [{"type": "boolean"}, pair, {"type": "null"}]}


TTY = _Tty()
