"""A reset is whole, or the container has ended; what it can't undo it refuses before anything is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from plan.examples import HOST

import creche
from creche import (
    Bind,
    Container,
    CrecheError,
    Directory,
    Limits,
    Namespaces,
    Overlay,
    Reason,
    SeccompRules,
    Security,
    SpawnError,
    Spec,
    UnsupportedError,
)
from creche.calls.violations import Reports
from creche.machine import Machine
from creche.plan.renewal import (
    check_renewable,
    covers_trees,
    keeps_mounts,
    keeps_sources,
    keyring_steps,
    renewable,
)
from needs import needs

pytestmark = needs("userns")
HARD = ["python3", "-c", "import resource as r; r.prlimit(1, r.RLIMIT_STACK, (4 << 20, 4 << 20))"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec(["true"], init=False), "without an init"),
        (Spec(namespaces=Namespaces(ipc=False)), "namespaces.ipc"),
        (Spec(namespaces=Namespaces(network="/proc/7/ns/net")), "namespaces.network"),
        (Spec(security=Security(privileged=True)), "privileged"),
        (Spec(security=Security(capabilities=["CAP_SYS_ADMIN"])), "CAP_SYS_ADMIN"),
        (Spec(rootfs=None), "own file system"),
        (Spec(rootfs=Directory("/srv")), "Directory"),
        (Spec(rootfs=Overlay(["/srv"], "/upper", "/work")), "upper layer of yours (rootfs)"),
        (Spec(mounts=[Bind("/srv", "/srv", readonly=True), Bind("/srv", "/data")]), "mounts[1]"),
        (Spec(mounts=[Overlay(["/srv"], "/upper", "/work", target="/x")]), "mounts[0]"),
    ],
)  # fmt: skip
def test_what_would_stay_is_refused_and_the_sentence_says_what_to_give_instead(spec: Spec, said: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check_renewable(spec)
    assert said in str(caught.value)
    assert caught.value.hint
    assert not renewable(spec)
    assert not keeps_sources(spec, HOST)


def test_a_guest_that_may_be_any_user_and_use_keys_is_refused() -> None:
    free = Security(seccomp=None, capabilities=["CAP_SETUID"])
    with pytest.raises(UnsupportedError, match="CAP_SETUID"):
        keyring_steps(Spec(security=free), Machine.example(), {0})
    assert keyring_steps(Spec(security=Security(capabilities=["CAP_SETUID"])), Machine.example(), {0}) == []
    assert len(keyring_steps(Spec(security=Security(seccomp=None)), Machine.example(), {0, 7})) == 1


def test_what_may_lie_on_a_tree_of_the_hosts_is_seen() -> None:
    def covered(*mounts: creche.Tmpfs | creche.Symlink, **security: object) -> bool:
        return covers_trees(Spec(mounts=mounts, security=Security(**security)), HOST)

    assert not covered()
    assert not covered(creche.Tmpfs("/data"), creche.Tmpfs("/usrlocal"), creche.Tmpfs("/tmp/usr"))
    assert covered(creche.Tmpfs("/usr/share"))
    assert covered(creche.Tmpfs("/bin/x"))  # a link there
    assert covered(creche.Tmpfs("/etc/alternatives"))
    assert covered(creche.Tmpfs("/dev/null"))
    assert covered(creche.Symlink("/usr", "/data"))
    assert covered(masked_paths=["/proc/keys", "/usr/src"])
    assert not covered(masked_paths=["/proc/keys", "/sys/firmware"])


def test_mounts_stay_where_each_lies_by_itself_in_a_root_that_nobody_writes_to() -> None:
    def stay(*mounts: object, **fields: object) -> bool:
        return keeps_mounts(Spec(mounts=mounts, **fields), HOST)  # type: ignore[arg-type]

    read = Bind("/srv", "/data", readonly=True)
    assert stay()
    assert stay(creche.Tmpfs("/tmp"), creche.Tmpfs("/work"), read, creche.File("/app/main.py", b"1"), creche.Tmpfs("/app/cache"))
    assert stay(creche.Tmpfs("/database"), read)  # below nothing: a name that begins alike
    assert not stay(creche.Tmpfs("/work"), Bind("/srv", "/work/data", readonly=True))
    assert not stay(Bind("/srv", "/tmp/data", readonly=True))  # the HostView's own
    assert not stay(creche.Tmpfs("/work"), creche.Tmpfs("/work"))
    assert not stay(creche.Tmpfs("/data/x"), read)  # which may have a link there
    assert not stay(creche.Tmpfs("/usr/share"))
    assert not stay(creche.Symlink("/tmp", "/elsewhere"))
    assert not stay(creche.File("/app/main.py", b"1", readonly=False))
    assert not stay(creche.Tmpfs("/work", copy_up=True))
    assert not stay(Bind("/srv", "/data"))
    assert not stay(creche.Sysfs("/sys"))  # it shows the devices of a network namespace that goes
    assert not stay(rootfs=Overlay(["/srv"]))
    assert not stay(security=Security(masked_paths=["/tmp/x"]))
    assert not stay(security=Security(capabilities=["CAP_SYS_ADMIN"]))


async def mounts_of(box: Container) -> list[tuple[str, int]]:
    """Where each of its mounts lies, and its number."""
    lines = (await box.run(["cat", "/proc/self/mountinfo"])).stdout.decode().splitlines()
    return [(line.split()[4], int(line.split()[0])) for line in lines]


@pytest.mark.parametrize(
    ("spec", "stay"),
    [
        (Spec(mounts=[creche.Tmpfs("/work", size=1 << 20), Bind("/usr", "/data", readonly=True)]), True),
        (Spec(mounts=[creche.Tmpfs("/work"), Bind("/usr", "/work/data", readonly=True)]), False),  # the control
    ],
)
async def test_only_what_guests_write_to_is_mounted_anew(spec: Spec, stay: bool) -> None:
    async with Container(spec) as box:
        first = await mounts_of(box)
        await box.reset()
        before = await mounts_of(box)
        await box.run(["sh", "-c", "echo x | tee /tmp/x /work/x /dev/shm/x"])
        await box.reset()
        after = await mounts_of(box)  # the numbers of mounts are used again, but none of one that is there
        assert sorted(path for path, _ in first) == sorted(path for path, _ in before)
        assert sorted(path for path, _ in after) == sorted(path for path, _ in before)  # none more, none less
        assert ("/work/data" in dict(after)) is not stay
        if stay:
            assert dict(after)["/"] == dict(before)["/"]
            assert {path for path, _ in set(after) - set(before)} == {"/tmp", "/dev/pts", "/dev/shm", "/dev/mqueue", "/work"}
        else:
            assert dict(after)["/"] != dict(before)["/"]
        found = await box.run(["sh", "-c", "ls /tmp /dev/shm; ls -A /work; df -k /work | tail -1; cat /proc/sys/kernel/hostname"])
        assert (b" 1024 " in found.stdout) is stay
        assert b"x\n" not in found.stdout


@pytest.mark.parametrize("nested", [False, True])
async def test_values_of_the_kernels_are_as_the_spec_has_them_again(nested: bool) -> None:
    below = [creche.Tmpfs("/work"), creche.Tmpfs("/work/more")] if nested else []
    async with Container(Spec(mounts=below, sysctl={"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "4096"})) as box:
        for _ in range(3):
            said = await box.run(["sh", "-c", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; echo 1 > /proc/sys/kernel/msgmax"])
            assert said.stdout == b"80\n4096\n"
            assert b"Read-only" in said.stderr
            await box.reset()


async def test_every_command_is_killed_and_says_so_and_new_ones_run() -> None:
    async with Container(Spec()) as box, box.open(["sleep", "1000"]) as one, box.open(["sh", "-c", "exit 3"]) as other:
        await other.wait()
        init = box.init_pid
        await box.reset()
        assert one.exit is not None and other.exit is not None
        assert (one.exit.reason, one.exit.detail.get("killed_by")) == (Reason.KILLED, "reset()")
        assert (other.exit.reason, other.exit.code) == (Reason.EXITED, 3)
        assert box.init_pid == init
        assert (await box.run(["echo", "again"])).stdout == b"again\n"
        await box.put("/tmp/file", b"x")
        async with box.open(["tty"], tty=True) as third:
            assert third.stdout is not None
            assert await third.stdout.receive() == b"/dev/pts/0\r\n"


async def test_hundreds_of_processes_that_fork_without_end_are_gone() -> None:
    """J5; what can't be undone, and what does not die, ends the container, below."""
    forks = "import os\nfor _ in range(8): os.fork()\nprint(end='made\\n', flush=True)\nwhile True: os.fork() or os._exit(0)"
    async with Container(Spec()) as box, box.open(["python3", "-S", "-c", forks]) as process:
        assert process.stdout is not None
        await process.stdout.receive()
        await box.reset()
        assert (await box.run(["sh", "-c", "ls /proc | grep -c '^[0-9]'"])).stdout in (b"3\n", b"4\n")


async def test_one_with_a_main_command_or_that_does_not_run_is_refused() -> None:
    async with Container(Spec(["sleep", "1000"])) as box:
        with pytest.raises(CrecheError, match="main command"):
            await box.reset()
        assert box.exit is None
    with pytest.raises(CrecheError, match="closed"):
        await box.reset()
    with pytest.raises(CrecheError, match="not been started"):
        await Container(Spec()).reset()


async def test_what_is_refused_goes_on(tmp_path: Path) -> None:
    async with Container(Spec(mounts=[Bind(tmp_path, "/data")])) as box, box.open(["cat"]) as process:
        with pytest.raises(UnsupportedError, match="Bind"):
            await box.reset()
        assert process.exit is None
        assert (await box.run(["true"])).exit.ok


async def test_nothing_starts_while_it_is_reset_and_there_is_one_reset_at_a_time() -> None:
    async with Container(Spec()) as box:
        said: list[str] = []

        async def meanwhile(work: object) -> None:
            try:
                await work  # type: ignore[misc]
            except CrecheError as error:
                said.append(str(error))

        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)  # or it might be over before we look
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meanwhile, box.reset())
            while not box._resetting:
                await anyio.lowlevel.checkpoint()
            await meanwhile(box.run(["true"]))
            await meanwhile(box.reset())
            os.kill(box.init_pid, signal.SIGCONT)
        assert said == ["the container can't run a command: it is being reset", "the container can't be reset: it is being reset already"]
        assert (await box.run(["true"])).exit.ok


async def test_a_reset_that_is_cancelled_is_finished_first() -> None:
    async with Container(Spec()) as box:
        await box.run(["touch", "/tmp/mine"])
        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(box.reset)
                while not box._resetting:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
                os.kill(box.init_pid, signal.SIGCONT)
        assert not box._resetting
        assert await box.listdir("/tmp") == []
        with anyio.CancelScope() as scope:
            scope.cancel()
            await box.reset()  # before it began: nothing is done
        assert (await box.run(["true"])).exit.ok


async def test_a_guest_that_bound_process_1_for_ever_ends_the_container_not_the_next_guest() -> None:
    async with Container(Spec()) as box:
        assert (await box.run(["sh", "-c", "ulimit -Hs"])).stdout != b"4096\n"
        assert (await box.run(HARD)).exit.ok
        assert (await box.run(["sh", "-c", "ulimit -Hs"])).stdout == b"4096\n"  # the control: commands inherit it
        with pytest.raises(SpawnError, match="rlimits of its process 1"):
            await box.reset()
        assert (await box).reason is Reason.KILLED
        with pytest.raises(CrecheError, match="ended"):
            await box.run(["true"])


async def test_an_init_that_dies_meanwhile_is_an_error_and_the_container_has_ended() -> None:
    async with Container(Spec()) as box, anyio.create_task_group() as tasks:
        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)

        async def kill() -> None:
            while not box._resetting:
                await anyio.lowlevel.checkpoint()
            assert box.init_pid
            os.kill(box.init_pid, signal.SIGKILL)

        tasks.start_soon(kill)
        with pytest.raises(CrecheError, match="ended while it was reset"):
            await box.reset()
        assert (await box).reason in (Reason.KILLED, Reason.LOST)


async def test_what_does_not_die_ends_the_container_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.state.renewing.RESETTING", 0.2)
    async with Container(Spec()) as box:
        assert box.init_pid
        os.kill(box.init_pid, signal.SIGSTOP)  # so it looks to us
        with pytest.raises(CrecheError, match="was not dead after"):
            await box.reset()
        assert (await box).reason is Reason.KILLED


@needs("limits")
async def test_the_cgroup_is_a_new_one_with_the_limits_of_the_spec() -> None:
    spec = Spec(limits=Limits(memory="64M", pids=50, cpu_time=20))
    async with Container(spec) as box:
        await box.run(["python3", "-c", "x = bytearray(40 << 20)"])
        await box.update(Limits(pids=3))
        assert (await box.stats()).memory.peak > 32 << 20
        async with box.open(["sleep", "1000"]):
            await box.freeze()
            await box.reset()
        stats = await box.stats()
        assert stats.memory.peak < 32 << 20
        assert box._group is not None and box._group.limits.pids == 50
        assert (await box.run(["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.01 & done; wait"], limits=Limits(pids=20))).exit.ok


KILLED = """
import anyio, sys
from creche import Container, Spec
async def main():
    async with Container(Spec()) as box, box.open(["sleep", "1000"]):
        print(box.init_pid, flush=True)
        sys.stdin.readline()
        while True:
            await box.reset()
anyio.run(main)
"""


def test_a_supervisor_that_is_killed_meanwhile_takes_the_container_with_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    with process:
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdin.close()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        from creche.process import is_dead

        assert is_dead(pidfd, 10)
        os.close(pidfd)


REFUSED = SeccompRules(deny=["mkdir", "mkdirat"])


async def test_a_reset_forgets_the_violations_of_the_former_guest() -> None:
    async with Container(Spec(security=Security(seccomp=REFUSED, seccomp_report=True))) as box:
        told = box.violations()
        await box.run(["mkdir", "/tmp/first"])
        await box.run(["mkdir", "/tmp/second"])
        assert (await anext(told)).path == "/tmp/first"  # the control: what was not read is kept, until the reset
        await box.reset()
        await box.run(["mkdir", "/tmp/third"])
        assert [(found.path, found.dropped) for found in [await anext(told)]] == [("/tmp/third", 0)]
        with anyio.move_on_after(0.05):
            raise AssertionError(await anext(told))


async def test_what_is_judged_while_it_is_reset_is_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has heard the call of the former guest, and tells of it when the reset is done."""
    heard, go = threading.Event(), threading.Event()
    judge = Reports._judge

    def late(self: Reports, *call: Any) -> None:
        if not go.is_set():
            heard.set()
            go.wait(10)
        judge(self, *call)

    monkeypatch.setattr(Reports, "_judge", late)
    async with Container(Spec(security=Security(seccomp=REFUSED, seccomp_report=True))) as box:
        async with box.open(["mkdir", "/tmp/first"]):
            await anyio.to_thread.run_sync(heard.wait)
            await box.reset()
        go.set()
        await box.run(["mkdir", "/tmp/second"])
        assert (await anext(box.violations())).path == "/tmp/second"
