"""Starts under awkward conditions: filters that forbid the child to speak, ranges that are held, forks of the host program."""

from __future__ import annotations

import errno
import os
import resource
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import creche
from creche import Container, IdMap, Reason, Security, Spec
from creche._native import lib
from creche.machine import probe
from creche.plan.compile import Context, compile
from creche.plan.steps import MapTool
from creche.spawn import Job, reap
from needs import needs

pytestmark = needs("userns")


def forbidding(*names: str, action: str = "SCMP_ACT_ERRNO") -> Security:
    """A filter that allows everything but these calls."""
    return Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action}]})


def run(command: list[str], **fields: Any) -> creche.Result:
    return anyio.run(lambda: creche.run(command, **fields))


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
def test_a_failing_exec_is_told_by_a_child_that_may_not_write(init: bool, action: str) -> None:
    """What a command reports lies in memory that is shared: its own filter can't keep it from that."""
    with pytest.raises(creche.SpawnError) as caught:
        run(["/absent"], init=init, security=forbidding("write", "writev", "sendmsg", "sendto", action=action))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("init", [True, False])
def test_a_child_that_may_not_even_exit_ends(init: bool) -> None:
    with pytest.raises(creche.SpawnError) as caught:
        run(["/absent"], init=init, security=forbidding("write", "sendmsg", "exit", "exit_group"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("init", [True, False])
def test_what_is_killed_by_its_filter_in_the_exec_is_a_death_by_it(init: bool) -> None:
    result = run(["true"], init=init, security=forbidding("execve", action="SCMP_ACT_KILL_PROCESS"))
    assert result.exit.reason is Reason.SECCOMP


@needs("root")
@pytest.mark.parametrize("init", [True, False])
async def test_a_range_is_held_while_its_container_lives(init: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """J10, with an init or without: the search begins with the same range again, and must not be given it."""
    spec = Spec(["sleep", "60"], init=init)
    async with Container(spec) as one:
        monkeypatch.setattr("creche.ranges._next", 0)
        async with Container(spec) as two:
            monkeypatch.setattr("creche.ranges._next", 0)
            async with Container(spec) as three:
                maps = {Path(f"/proc/{box.pid}/uid_map").read_text() for box in (one, two, three)}
    assert len(maps) == 3, "two containers are the same ids outside"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_of_the_host_program_do_not_hold_up_starts() -> None:
    """They have copies of whatever is open; none of these may be an end of a socket that a start waits for."""
    waits, stops = os.pipe()
    children = []

    async def start(init: bool) -> None:
        async with Container(Spec(["sleep", "60"], init=init, stdin="null", stdout="null", stderr="null")) as box:
            box.kill()
            assert (await box).reason is Reason.KILLED

    async def main() -> None:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for index in range(12):
                    tasks.start_soon(start, bool(index % 2))
                for _ in range(30):
                    await anyio.lowlevel.checkpoint()
                    pid = os.fork()
                    if not pid:
                        os.close(stops)
                        os.read(waits, 1)
                        os._exit(0)
                    children.append(pid)

    try:
        anyio.run(main)
    finally:
        os.close(stops)
        os.close(waits)
        for pid in children:
            os.waitpid(pid, 0)


@pytest.mark.parametrize("ends", ["cancelled", "killed"])
def test_a_tool_that_hangs_goes_with_the_child_that_it_is_for(ends: str) -> None:
    """newuidmap asks the users' database, which may be a server that does not answer."""
    machine = probe()
    who = (IdMap(0, os.geteuid(), 1),) if os.geteuid() == 0 else None
    plan = compile(Spec(["true"], uid_map=who, gid_map=who), machine, Context())
    sleep = shutil.which("sleep") or ""
    job = Job(plan)
    try:
        job.go(attrs.evolve(plan, parent=(MapTool(text=sleep, text2=b"1000\0"),)), setup_fds=[], parent_fds=[], command_fds=[], tty=None)
        while not (pid := lib.creche_job_pid(job._job)) or not Path(f"/proc/{pid}/stat").exists():
            select.select([], [], [], 0.01)
        if ends == "cancelled":
            job.cancel()
        else:
            os.kill(pid, signal.SIGKILL)
        readable, _, _ = select.select([job.socket], [], [], 30)
        assert readable and job.socket.recv(1) == b"", "the start waits for its tool"
        pid, pidfd = job.take()
        if pidfd >= 0:
            select.select([pidfd], [], [], 30)
            assert reap(pidfd) is not None
            os.close(pidfd)
    finally:
        job.socket.close()
        job.free()


FLOOD = """
import os, resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pairs, sent = [], 0
try:
    while sent < 50_000:
        pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        fd = os.open("/dev/null", 0)
        for _ in range(5):
            socket.send_fds(pairs[-1][0], [b"x"], [fd] * 250)
            sent += 250
        os.close(fd)
except OSError as error:
    print(error.errno, sent, flush=True)
sys.stdin.read()
"""
SILENT = {"stdin": "null", "stdout": "null", "stderr": "null"}


@pytest.fixture
def limited() -> Iterator[int]:
    """A soft limit of our own that a flood is far beyond, below a hard one that it need not reach; the hard one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def flooded(flood: Container) -> int:
    """How many are on their way, when it can't send any more."""
    assert flood.stdout is not None
    error, sent = (await flood.stdout.receive()).split()
    assert int(error) == errno.ETOOMANYREFS
    return int(sent)


@needs("user")
def test_g13_a_flood_of_descriptors_on_their_way_keeps_nobody_from_starting(limited: int) -> None:
    """A guest has fewer than we may have, whatever it makes of its limits; our own soft limit is what it was."""

    async def main() -> None:
        async with Container(Spec(["sleep", "1000"], **SILENT)) as other, Container(Spec(["python3", "-c", FLOOD])) as flood:
            assert 256 < await flooded(flood) < limited
            for _ in range(20):
                assert (await other.run(["true"])).exit.ok
            assert (await creche.run(["echo", "x"], input=b"")).stdout == b"x\n"
            assert (await creche.run(["echo", "x"], tty=True)).stdout == b"x\r\n"
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (256, limited)
        assert other.exit is not None and flood.exit is not None

    anyio.run(main)


@needs("user")
def test_g13_control_a_guest_with_our_own_limit_blocks_us_and_ends_no_other_container(limited: int) -> None:
    """Whoever gives a guest as many descriptors as it has itself gets a typed error, and no death."""

    async def main() -> None:
        async with Container(Spec(["sleep", "1000"], **SILENT)) as other:
            async with Container(Spec(["python3", "-c", FLOOD], rlimits={"nofile": limited})) as flood:
                assert await flooded(flood) > limited
                for attempt in (lambda: other.run(["true"]), lambda: creche.run(["true"])):
                    with pytest.raises(creche.SpawnError, match="ETOOMANYREFS") as caught:
                        await attempt()
                    assert caught.value.hint and caught.value.field is None
            assert (await other.run(["true"])).exit.ok
            assert other.exit is None

    anyio.run(main)


@pytest.mark.parametrize("init", [True, False])
def test_a_guest_has_fewer_descriptors_than_we_may_have(init: bool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = anyio.run(lambda: creche.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"], init=init)).stdout.split()
    most = hard - min(4096, hard // 4)
    assert [int(word) for word in told] == [min(soft, most), most]
    given = anyio.run(lambda: creche.run(["sh", "-c", "ulimit -Sn; ulimit -Hn"], init=init, rlimits={"nofile": (100, hard)})).stdout.split()
    assert [int(word) for word in given] == [100, hard], "what a Spec says is what it gets"


def table_size(pid: int | None) -> int:
    """For how many descriptors a process has room: proc_pid_status(5)."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("FDSize:"))
    return int(line.split()[1])


async def test_what_a_child_takes_along_does_not_grow_with_what_we_have_open() -> None:
    """Else each of a thousand containers copies, closes and keeps room for the descriptors of all others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = [os.dup(0) for _ in range(1500)]
    try:
        async with Container(Spec()) as box:
            init = table_size(box.init_pid)
        gate = os.pipe()
        child = os.fork()  # the control: this one takes all along
        if not child:
            os.read(gate[0], 1)
            os._exit(0)
        copied = table_size(child)
        os.write(gate[1], b"x")
        os.waitpid(child, 0)
        many += gate
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert copied > 1500 > 256 >= init
