"""The places that cgroups can be made in, each test run in every one that this machine has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from creche.cgroups import Group, Place, Sub, find_place
from creche.spec import Limits
from needs import disk_folder, needs

KINDS = ("v2", "systemd", "delegated", "container", "hybrid", "v1")


def kinds(*names: str) -> list[object]:
    """Parameters for `place`: these kinds, each where it is to be had."""
    return [pytest.param(kind, marks=needs(f"place-{kind}")) for kind in names]


@pytest.fixture(params=kinds(*KINDS))
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of place in turn; those that are not here are told at the end of the run."""
    return find_place({**os.environ, "CRECHE_CGROUP": request.param})


@pytest.fixture
def group(place: Place) -> Iterator[Callable[..., Group]]:
    """Make a group with limits given as keywords; all of them are killed and removed afterwards."""
    made: list[Group] = []

    def make(**limits: object) -> Group:
        made.append(place.create(f"t{len(made)}", Limits(**limits)))
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(FileNotFoundError):
            one.kill()
        one.remove(5)


class Running(subprocess.Popen[bytes]):
    """A process that is in its cgroup before its program begins."""

    def __init__(self, sub: Sub, argv: list[str], **more: object) -> None:
        fds = list(sub.fds)
        super().__init__(
            argv,
            preexec_fn=lambda: [os.write(fd, b"0") for fd in fds],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            **more,  # type: ignore[call-overload]
        )
        sub.close()

    def told(self) -> str:
        """One line of its output."""
        assert self.stdout is not None
        return self.stdout.readline().decode().strip()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """start(sub, code_or_argv): a process in the cgroup, ended and reaped after the test."""
    running: list[Running] = []

    def begin(sub: Sub, program: str | list[str], **more: object) -> Running:
        argv = [sys.executable, "-S", "-E", "-c", program] if isinstance(program, str) else program
        running.append(Running(sub, argv, **more))
        return running[-1]

    yield begin
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def disk_file() -> Iterator[str]:
    """A file of 1 MiB on a disk, written out."""
    with tempfile.NamedTemporaryFile(dir=disk_folder(), prefix="creche-") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        yield file.name
