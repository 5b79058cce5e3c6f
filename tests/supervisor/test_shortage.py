"""Spawns that the kernel itself refuses, for want of processes or of memory: back-off, a typed event, and recovery."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import sys

import anyio
import machine_surroundings as around
import pytest

from creche import Bind, Container, Limits, Security, SpawnError, Spec
from creche.supervisor import Backoff, ChildEnded, ChildReady, ChildSpec, ChildWaiting, Supervisor
from needs import needs

pytestmark = needs("native", "userns")

SLEEPER = ["sleep", "1000"]
SOON = Backoff(first=0.02, factor=1.5, most=0.1, jitter=0)


@contextlib.contextmanager
def no_processes():
    """No fork of this process's works: RLIMIT_NPROC counts what its user has, and binds those who are not root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


@contextlib.contextmanager
def no_memory():
    """No process can be a copy of this one: it has an area larger than the machine, which the kernel won't promise twice.

    Two neighbouring areas that are just small enough become one that is not (heuristic overcommit, proc_sys_vm(5)).
    """
    size = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.6)
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, kind), mmap.mmap(-1, size, kind):
        yield


async def short_of(shortage, number, spec):
    """A worker is killed in a shortage, comes back by itself after it, and what happened meanwhile was told."""
    with anyio.fail_after(60):
        async with Supervisor([ChildSpec("w", spec, backoff=SOON)], intensity=None) as sup:
            await sup.wait_ready()
            with sup.events() as told, shortage():
                sup["w"].container.kill()
                ends, waits = [], []
                while len(waits) < 3:
                    match await told.__anext__():
                        case ChildEnded(record=record):
                            ends.append(record)
                        case ChildWaiting() as wait:
                            waits.append(wait)
                        case ChildReady():
                            raise AssertionError("it was to be refused")
            first, *refused = ends
            assert first.exit is not None and first.error is None
            assert len(refused) >= 3
            for record in refused:
                assert isinstance(record.error, SpawnError) and record.error.errno == number
                assert not record.clean and record.exit is None
            assert [round(wait.seconds, 3) for wait in waits] == [0.02, 0.03, 0.045]
            await sup.wait_ready()
            assert sup["w"].state == "ready" and sup["w"].life > 4


@needs("user")
async def test_processes_run_out_and_come_back(anyio_backend):
    await short_of(no_processes, errno.EAGAIN, Spec(SLEEPER))


@needs("overcommit")
async def test_memory_runs_out_and_comes_back(anyio_backend):
    """`init=False` makes a copy of this process; a spawn that shares its memory needs none, which is the control."""
    await short_of(no_memory, errno.ENOMEM, Spec(SLEEPER, init=False))
    with no_memory():
        async with Container(Spec(["true"])) as box:
            assert (await box).ok


INNER = """
import anyio
from creche import ChildSpec, Spec, Supervisor
from creche.supervisor import Backoff, ChildEnded, ChildReady, ChildWaiting
async def main():
    child = ChildSpec("w", Spec(["sleep", "1000"]), backoff=Backoff(first=0.05, factor=1))
    async with Supervisor([child], intensity=None) as sup:
        async for event in sup.events():
            match event:
                case ChildReady():
                    print("ready", sup["w"].life, flush=True)
                    sup["w"].container.kill() if sup["w"].life == 1 and input() == "kill" else None
                case ChildEnded(record=record) if record.error is not None:
                    print("refused", record.error.errno, flush=True)
                case ChildWaiting():
                    print("waiting", flush=True)
anyio.run(main)
"""


@needs("limits")
@pytest.mark.slow
async def test_the_pids_limit_of_the_service_is_reached_and_raised(anyio_backend):
    """As TasksMax= of a service: the supervisor is in a container whose limit falls, and rises again."""
    if os.geteuid() == 0 and not os.stat(around.SOURCE).st_mode & 0o005:
        pytest.skip("the sources can be read by their owner alone")
    spec = Spec(
        [sys.executable, "-c", INNER],
        user=1000,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": around.SOURCE},
        mounts=[Bind(path, path, readonly=True) for path in (sys.prefix, around.SOURCE)],
        limits=Limits(pids=100),
        security=Security(seccomp=None, masked_paths=[], readonly_paths=[]),
    )
    with anyio.fail_after(60):
        async with Container(spec) as box:
            lines = box.stdout.lines("utf-8")
            assert await anext(lines) == "ready 1"
            worker = 2  # its init and its command: what is free once it has died
            await box.update(Limits(pids=(await box.stats()).pids - worker))
            await box.stdin.send(b"kill\n")
            assert [await anext(lines) for _ in range(4)] == [f"refused {errno.EAGAIN}", "waiting"] * 2
            await box.update(Limits(pids=100))
            while (line := await anext(lines)) in (f"refused {errno.EAGAIN}", "waiting"):
                pass
            assert line.startswith("ready ") and int(line.split()[1]) > 3
