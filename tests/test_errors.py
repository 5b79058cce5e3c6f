"""The exception tree: what a program finds on an error, and what people read."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from creche.errors import (
    CgroupError,
    CrecheError,
    ExitError,
    FileError,
    SpawnError,
    SpecError,
    UnsupportedError,
)
from creche.results import Exit

EVERY = [
    SpecError("limits.memory", 0, 'give at least "1M"'),
    SpawnError(field="hostname", step="sethostname", errno=errno.EPERM, hint="give namespaces.uts=True"),
    SpawnError("it did not work"),
    UnsupportedError("this kernel has no clone3", "5.14 or later is needed"),
    CgroupError("memory.max could not be written", "/sys/fs/cgroup/x", errno.EACCES, "delegate it"),
    FileError("/etc/passwd", errno.ENOENT),
    FileError("/dev/null", message="not a regular file"),
    ExitError(Exit(3), b"out", b"err"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"]
)
def test_an_error_keeps_all_it_carries(error: CrecheError, again: object) -> None:
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is type(error) and str(twin) == str(error)
    for name in error._fields:
        assert getattr(twin, name) == getattr(error, name)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EVERY[0], 'limits.memory: 0 is refused: give at least "1M"'),
        (EVERY[1], "hostname: sethostname failed: Operation not permitted (EPERM); give namespaces.uts=True"),
        (EVERY[2], "it did not work"),
        (SpawnError(), "the container could not be started"),
        (EVERY[3], "this kernel has no clone3; 5.14 or later is needed"),
        (
            EVERY[4],
            "memory.max could not be written: '/sys/fs/cgroup/x': Permission denied (EACCES); delegate it",
        ),
        (EVERY[5], "'/etc/passwd': No such file or directory (ENOENT)"),
        (EVERY[6], "'/dev/null': not a regular file"),
        (EVERY[7], "the command ended with status 3"),
    ],
)
def test_an_error_is_one_sentence(error: CrecheError, text: str) -> None:
    assert str(error) == text


def test_errors_are_caught_by_their_ordinary_names() -> None:
    assert issubclass(SpecError, ValueError)
    assert issubclass(SpawnError, OSError) and issubclass(FileError, OSError)
    assert EVERY[1].errno == errno.EPERM  # type: ignore[attr-defined]
    assert all(isinstance(error, CrecheError) for error in EVERY)
    assert EVERY[7].returncode == 3  # type: ignore[attr-defined]


def test_a_spec_error_can_be_told_from_further_out() -> None:
    assert SpecError("Bind.target", 1, "w").at("Bind", "mounts[1]").field == "mounts[1].target"
    assert SpecError("Binder.target", 1, "w").at("Bind", "mounts[1]").field == "Binder.target"


def test_what_is_refused_is_shown_short_and_on_one_line() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert str(SpecError("f", Rude(), "w")) == "f: <Rude> is refused: w"
    assert len(str(SpecError("f", "x" * 10_000, "w"))) < 200

    class Loud:
        def __repr__(self) -> str:
            return "\x1b[2J\n"

    assert str(SpecError("f\n", Loud(), "w")).isprintable()
    assert str(FileError("/tmp/\x1b[2J", errno.ENOENT)).isprintable()
