"""What people write ("256M", "1.5", "200ms") to the numbers a kernel takes, and back."""

from __future__ import annotations

import math
import re

from .errors import SpecError

__all__ = ["escaped", "format_seconds", "format_size", "number", "seconds", "size"]

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?: ?(?:([KMGTP])(?:i?B)?|B))?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_SECONDS = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(?: ?(us|µs|ms|s|m|min|h|d))?", re.ASCII)
_LENGTHS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 40  # characters of a number: a hostile file must not make int() or the expressions work


def size(value: object, field: str) -> int:
    """Bytes from an int or from text: K, M, G, T, P are powers of 1024, with or without "B" or "iB".

    Raises SpecError for anything else: floats, negative numbers, parts of a byte, 2**63 and more.
    """
    result = value
    if isinstance(value, str) and len(value) <= _LONGEST and (match := _SIZE.fullmatch(value)):
        digits, unit = match[1], (match[2] or "").upper()
        whole, _, part = digits.partition(".")
        result, rest = divmod(int(whole + part) << _POWERS[unit], 10 ** len(part))
        if rest:
            raise SpecError(field, value, "it is no whole number of bytes")
    if not isinstance(result, int) or isinstance(result, bool) or result < 0:
        raise SpecError(field, value, 'give bytes as an int, or text such as "64M" or "1.5G"')
    if result >= 1 << 63:
        raise SpecError(field, value, "it is more than the kernel can count (2**63 - 1 bytes)")
    return int(result)


def seconds(value: object, field: str, *, negative: bool = False) -> float:
    """Seconds from a number or from text with us, ms, s, m, h or d ("200ms", "1.5", "2m").

    Raises SpecError for what is not finite, and for what is below zero unless `negative`.
    """
    wish = 'give seconds as a number, or text such as "200ms", "1.5" or "2m"'
    if isinstance(value, str) and len(value) <= _LONGEST and (match := _SECONDS.fullmatch(value)):
        return seconds(float(match[1]) * _LENGTHS[match[2] or "s"], field, negative=negative)
    result = _finite(value)
    if result is None or (result < 0 and not negative):
        raise SpecError(field, value, wish)
    return result


def number(value: object, field: str) -> float:
    """A finite number of at least zero, also from text ("1.5"). Raises SpecError for anything else."""
    if (
        isinstance(value, str)
        and len(value) <= _LONGEST
        and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value, re.ASCII)
    ):
        return float(value)
    result = _finite(value)
    if result is None or result < 0:
        raise SpecError(field, value, 'give a number, or text such as "1.5"')
    return result


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def format_size(count: int) -> str:
    """Bytes as people write them, in a form that `size` reads: 64M, 1.5G, 1000 (never rounded but by itself)."""
    for unit in "PTGMK":
        scaled, rest = divmod(count, 1 << _POWERS[unit])
        if scaled and not rest:
            return f"{scaled}{unit}"
    for unit in "PTGMK":
        if count >= 1 << _POWERS[unit]:
            return f"{count / (1 << _POWERS[unit]):.1f}{unit}"
    return str(count)


def format_seconds(length: float) -> str:
    """A length of time for people: 350 µs, 12 ms, 1.5 s, 2 min 5 s, 3 h 0 min."""
    if length >= 3600:
        return f"{length // 3600:.0f} h {length % 3600 // 60:.0f} min"
    if length >= 60:
        return f"{length // 60:.0f} min {length % 60:.0f} s"
    if length >= 1 or length <= 0:
        return f"{length:.3g} s"
    return f"{length * 1e3:.3g} ms" if length >= 1e-3 else f"{length * 1e6:.3g} µs"


def escaped(text: str | bytes, longest: int = 200) -> str:
    """`text` of a stranger, fit for a terminal or a log: quoted, on one line, no control characters.

    What is longer than `longest` characters keeps its end, where programs say what went wrong.
    """
    if isinstance(text, bytes):
        text = text[-4 * longest :].decode("utf-8", "backslashreplace")
    cut = "…" if len(text) > longest else ""
    # repr escapes what is not printable: controls, marks of direction, lone surrogates
    quoted = repr(text[-longest:])
    return f"{quoted[0]}{cut}{quoted[1:]}"
