"""What there is to run: programs in folders, single programs, and lists of commands."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from creche import Bind

__all__ = ["NothingToRun", "Program", "find"]

_INTERPRETERS = {".py": ("python3", "-u"), ".sh": ("sh",)}  # -u: what it prints is seen as it is printed
_PLACE = "/work"


class NothingToRun(Exception):
    """What was given holds no program; the text says what would have been taken."""


@dataclass(frozen=True)
class Program:
    """One job: what it is called, its argv inside, and what of the host it sees there (read-only)."""

    name: str
    command: tuple[str, ...]
    bind: Bind


def find(paths: list[str]) -> list[Program]:
    """The programs of all `paths`, in order; names that occur twice are told apart by their folder."""
    found = [program for path in paths for program in _in(Path(path))]
    if not found:
        raise NothingToRun(
            f"no programs in {', '.join(paths)}: give .py files, .sh files or executables, or a list"
        )
    return found


def _in(path: Path) -> list[Program]:
    if path.is_dir():
        bind = Bind(path.resolve(), _PLACE, readonly=True)
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return [
            Program(file.name, command, bind) for file in files if (command := _command(file)) is not None
        ]
    if not path.exists():
        raise NothingToRun(f"{path}: there is no such file or folder")
    command = _command(path)
    if command is not None:
        return [Program(path.name, command, Bind(path.resolve(), f"{_PLACE}/{path.name}", readonly=True))]
    return _listed(path)


def _command(file: Path) -> tuple[str, ...] | None:
    inside = f"{_PLACE}/{file.name}"
    if file.suffix in _INTERPRETERS:
        return (*_INTERPRETERS[file.suffix], inside)
    return (inside,) if os.access(file, os.X_OK) else None


def _listed(path: Path) -> list[Program]:
    """A text file with one command in each line, as a shell would split it; # begins a comment."""
    bind = Bind(path.resolve().parent, _PLACE, readonly=True)
    programs = []
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise NothingToRun(f"{path}: neither a program (is it executable?) nor a list of commands") from None
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise NothingToRun(f"{path}:{number}: {error}") from None
        if words:
            programs.append(Program(f"{number}:{Path(words[0]).name}", tuple(words), bind))
    return programs
