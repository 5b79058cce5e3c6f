"""Reports of what a filter refused: the verdict is the same, the call has a name, nobody has to read, and nothing grows."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import Any

import anyio
import pytest
from privileged.look import run

import creche
from creche import Container, IdMap, Reason, SeccompRules, Security, Spec, SpecError, Violation
from creche.calls.violations import KEPT
from creche.machine import probe
from needs import needs

pytestmark = needs("userns", "native")
PYTHON = ["python3", "-I", "-S", "-c"]
MKDIRAT = 258 if os.uname().machine == "x86_64" else 34
RAW = f"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def mkdirat(path):
    return ctypes.get_errno() if libc.syscall(ctypes.c_long({MKDIRAT}), -100, path, 0o755) < 0 else 0
"""


def profile(action: str, *names: str, **fields: Any) -> Security:
    return Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action, **fields}]}, seccomp_report=True)


async def ended(spec: Spec) -> tuple[bytes, creche.Exit, list[Violation]]:
    """What it wrote, how it ended, and what was reported; all of it read when it is over."""
    async with Container(spec) as box:
        assert box.stdout is not None
        out = b"".join([part async for part in box.stdout])
        exit = await box
        found = [violation async for violation in box.violations()]
    return out, exit, found


async def test_a_violation_tells_the_call_its_path_and_where_it_was_made() -> None:
    code = RAW + "print(mkdirat(b'/tmp/x'))"
    spec = Spec([*PYTHON, code], security=profile("SCMP_ACT_ERRNO", "mkdirat", errnoRet=errno.EXDEV))
    out, exit, (found,) = await ended(spec)
    assert exit.ok and out == f"{errno.EXDEV}\n".encode()
    assert (found.name, found.answer, found.path, found.dropped) == ("mkdirat", "EXDEV", "/tmp/x", 0)
    assert found.number == MKDIRAT and found.args[2] == 0o755 and found.arch == os.uname().machine
    assert found.command == spec.command and found.pid > 0 and found.address > 0


@pytest.mark.parametrize("base", ["default", "strict"])
async def test_answers_are_those_of_the_filter_without_reports(base: str) -> None:
    """By programs that try calls with and without arguments that count; each answer is compared."""
    code = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def raw(number, *args):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1 else 0
X86 = os.uname().machine == "x86_64"
calls = [(41, 40, 1, 0), (41, 16, 3, 15), (46, 99, 0, 0), (250, 0, 1, 2), (425, 1, 0), (435, 0, 0), (135, 0x40000), (16, 0, 0x5412, 0), (600,), (1 << 30,), (39,)] if X86 else \\
    [(198, 40, 1, 0), (211, 99, 0, 0), (219, 0, 1, 2), (425, 1, 0), (435, 0, 0), (92, 0x40000), (29, 0, 0x5412, 0), (600,), (172,)]
print(json.dumps([raw(*call) for call in calls]))
"""
    quiet = await creche.run([*PYTHON, code], security=Security(seccomp=base))
    out, exit, found = await ended(Spec([*PYTHON, code], security=Security(seccomp=base, seccomp_report=True)))
    assert exit.ok and out == quiet.stdout and out.count(b"0") >= 1
    names = {violation.name for violation in found}
    assert {"socket", "keyctl", "io_uring_setup", "personality", "ioctl"} <= names and "clone3" not in names
    assert ("sendmsg" in names) is (base == "strict")


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL"])
async def test_a_kill_has_a_name(action: str) -> None:
    code = RAW + "signal.signal(signal.SIGSYS, lambda *_: print('caught'))\nmkdirat(b'/tmp/x')\nprint('on')"
    out, exit, found = await ended(Spec([*PYTHON, code], security=profile(action, "mkdirat")))
    assert out == b"" and (exit.reason, exit.signal) == (Reason.SECCOMP, signal.SIGKILL)
    assert exit.detail["syscall"] == "mkdirat" and "'mkdirat'" in exit.explain()
    assert [(violation.name, violation.answer, violation.path) for violation in found] == [("mkdirat", "killed", "/tmp/x")]


async def test_without_reports_a_kill_has_none_and_says_who_would_tell() -> None:
    security = Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]})
    result = await creche.run([*PYTHON, RAW + "mkdirat(b'/tmp/x')"], security=security)
    assert (result.exit.reason, result.exit.signal) == (Reason.SECCOMP, signal.SIGSYS)
    assert "syscall" not in result.exit.detail and "seccomp_report" in result.exit.explain()


async def test_a_thread_that_is_killed_for_takes_its_process_along_and_a_child_leaves_its_parent() -> None:
    code = RAW + """
import threading
child = os.fork()
if not child:
    threading.Thread(target=mkdirat, args=(b"/tmp/x",)).start()
    signal.pause()
print(os.waitpid(child, 0)[1])
"""
    out, exit, found = await ended(Spec([*PYTHON, code], security=profile("SCMP_ACT_KILL_PROCESS", "mkdirat")))
    assert exit.ok and out == b"9\n" and [violation.name for violation in found] == ["mkdirat"]


async def test_nobody_has_to_read_and_what_is_lost_is_counted() -> None:
    code = RAW + f"for n in range({KEPT} + 44): mkdirat(b'/tmp/%d' % n)"
    _, exit, found = await ended(Spec([*PYTHON, code], security=profile("SCMP_ACT_ERRNO", "mkdirat")))
    assert exit.ok and len(found) == KEPT
    assert [violation.dropped for violation in found] == [44] + [0] * (KEPT - 1)
    assert [violation.path for violation in found] == [f"/tmp/{n}" for n in range(44, KEPT + 44)]


async def test_they_come_while_the_container_lives() -> None:
    code = RAW + "for line in sys.stdin: mkdirat(line.strip().encode())"
    async with Container(Spec([*PYTHON, code], security=profile("SCMP_ACT_ERRNO", "mkdirat"))) as box:
        assert box.stdin is not None
        violations = box.violations()
        for n in range(20):
            await box.stdin.send(b"/tmp/%d\n" % n)
            with anyio.fail_after(20):
                assert (await anext(violations)).path == f"/tmp/{n}"
        with anyio.move_on_after(0.02) as over:
            await anext(violations)
        assert over.cancelled_caught
        box.stdin.close()
        assert [violation async for violation in violations] == []
        assert box.exit is not None and box.exit.ok


async def test_second_commands_report_too_and_tell_which_they_are() -> None:
    async with Container(Spec(security=profile("SCMP_ACT_ERRNO", "mkdirat"))) as box:
        for name in ("a", "b"):
            assert (await box.run([*PYTHON, RAW + "mkdirat(sys.argv[1].encode())", name])).ok
        found = box.violations()
        assert [(await anext(found)).command[-1] for _ in "ab"] == ["a", "b"]


async def test_no_path_is_told_where_there_is_none_to_be_read() -> None:
    code = f"{RAW}libc.syscall(ctypes.c_long({MKDIRAT}), -100, ctypes.c_long(1), 0)"
    _, exit, (found,) = await ended(Spec([*PYTHON, code], security=profile("SCMP_ACT_ERRNO", "mkdirat")))
    assert exit.ok and found.path is None


async def test_the_thread_is_there_for_reporting_containers_alone_and_ends_with_them() -> None:
    def count() -> int:
        return sum(thread.name == "creche-violations" for thread in threading.enumerate())

    before = count()
    async with Container(Spec(["sleep", "1000"])):
        assert count() == before
    async with Container(Spec(["sleep", "1000"], security=Security(seccomp_report=True))):
        assert count() == before + 1
    assert count() == before


async def test_a_fault_of_ours_refuses() -> None:
    """Whatever goes wrong in the thread: the listener goes, and the kernel then answers ENOSYS; nobody hangs, nothing is let through."""

    async with Container(Spec([*PYTHON, RAW + "input()\nprint(mkdirat(b'/tmp/x'), os.path.exists('/tmp/x'))"], security=profile("SCMP_ACT_ERRNO", "mkdirat"))) as box:
        assert box._reports is not None and box.stdin is not None and box.stdout is not None
        box._reports._judge = None  # type: ignore[assignment,method-assign]
        await box.stdin.send(b"\n")
        assert await box.stdout.receive() == f"{errno.ENOSYS} False\n".encode()


@needs("i386")
async def test_a_call_as_another_processor_is_told_by_number() -> None:
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=7)
page[:8] = bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3])  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    _, exit, found = await ended(Spec([*PYTHON, code], security=Security(seccomp_report=True)))
    assert exit.reason is Reason.SECCOMP and exit.detail["syscall"] == "i386:20"
    assert [(violation.name, violation.arch) for violation in found] == [("i386:20", "i386")]


def test_what_cannot_be_had_together() -> None:
    for fields in ({"seccomp": None}, {"seccomp": SeccompRules(notify=["openat"])}, {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}):
        with pytest.raises(SpecError, match="seccomp_report"):
            Security(seccomp_report=True, **fields)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="init"):
        Spec(["true"], init=False, security=Security(seccomp_report=True))
    for key in ("listenerPath", "listenerMetadata"):
        with pytest.raises(SpecError, match=f"{key}.*Container.syscalls"):
            Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", key: "/run/x.sock"})
    assert Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": ""}).seccomp == {"defaultAction": "SCMP_ACT_ALLOW"}


def test_an_execve_that_the_profile_refuses_stays_refused() -> None:
    for action, number in (("SCMP_ACT_ERRNO", errno.EPERM), ("SCMP_ACT_KILL_PROCESS", None)):
        security = profile(action, "execve")
        if number is None:
            assert run(["true"], security=security).exit.reason is Reason.SECCOMP
            continue
        with pytest.raises(creche.SpawnError) as caught:
            run(["true"], security=security)
        assert caught.value.errno == number


@(needs() if os.geteuid() == 0 else needs("subids", "newuidmap"))
async def test_another_users_call_is_told_with_its_path_and_its_process_is_killed() -> None:
    """The ids of the container are others than the supervisor's, whose power over its user namespace is what counts."""
    machine = probe()
    maps: dict[str, Any] = {}
    if os.geteuid() != 0:
        maps["uid_map"] = [IdMap(0, os.getuid(), 1), IdMap(1, machine.subuid[0][0], 2000)]
        maps["gid_map"] = [IdMap(0, os.getgid(), 1), IdMap(1, machine.subgid[0][0], 2000)]
    code = RAW + "print(os.getuid(), flush=True)\nmkdirat(b'/tmp/x')"
    out, exit, found = await ended(Spec([*PYTHON, code], user=1000, security=profile("SCMP_ACT_KILL_PROCESS", "mkdirat"), **maps))
    assert out == b"1000\n" and exit.reason is Reason.SECCOMP
    assert [violation.path for violation in found] == ["/tmp/x"]
