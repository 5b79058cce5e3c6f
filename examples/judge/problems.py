"""The problems: what is asked, on what input, and what a solution may use; read from a folder of TOML files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creche.units import seconds, size

__all__ = ["Problem", "Test", "load", "same"]


@dataclass(frozen=True)
class Test:
    """One run: what the solution reads, and what it must print. The latter never enters a container."""

    input: bytes
    expected: bytes


@dataclass(frozen=True)
class Problem:
    """What is asked, and the bounds of each test."""

    title: str
    statement: str
    tests: tuple[Test, ...]
    seconds: float = 2.0  #: of processor; of the clock there are three times as many, and one more
    memory: int = 128 << 20  #: bytes
    output: int = 1 << 20  #: bytes


def load(folder: Path) -> dict[str, Problem]:
    """The problems of a folder by the names of their files. Raises ValueError, which says what is wrong in which."""
    found: dict[str, Problem] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            found[path.stem] = _problem(tomllib.loads(path.read_text()))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError(f"{folder}: there is no problem in it: give a folder with .toml files")
    return found


def _problem(given: dict[str, Any]) -> Problem:
    tests = tuple(Test(one["input"].encode(), one["expected"].encode()) for one in given.pop("tests"))
    if not tests:
        raise ValueError("a problem needs tests")
    for key, parse in (("seconds", seconds), ("memory", size), ("output", size)):
        if key in given:
            given[key] = parse(given[key], key)
    return Problem(tests=tests, **given)


def same(printed: bytes, expected: bytes) -> bool:
    """Whether it is the answer: white space at the ends of lines and at the end does not count."""
    return _lines(printed) == _lines(expected)


def _lines(text: bytes) -> list[bytes]:
    return [line.rstrip() for line in text.rstrip().split(b"\n")]
