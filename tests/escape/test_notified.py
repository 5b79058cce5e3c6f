"""F17: guests against user notification: the listener, the memory that was looked at, and whoever should have answered."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from creche import Container, Reason, SeccompRules, Security, Spec, Syscall
from creche.calls.listener import Listener
from needs import needs

pytestmark = needs("userns", "native")
X86 = os.uname().machine == "x86_64"
MKDIRAT = 258 if X86 else 34

TOOLS = f"""
import ctypes, errno, json, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def tried(body, *arguments):
    try:
        return body(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
def tell(what):
    print(json.dumps(what), flush=True)
SECCOMP, PIDFD_GETFD, MKDIRAT, OPENAT2 = {317 if X86 else 277}, 438, {MKDIRAT}, 437
class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))
ALLOW = bytes.fromhex("060000000000ff7f")
def listen():  # a filter of one's own that allows all, with a listener
    return call(SECCOMP, 1, 8, ctypes.byref(Program(1, ALLOW)))
"""


def allowing(*names: str) -> Security:
    """A profile that allows everything but what it hands over: so it is no refusal that stands in an attack's way."""
    rules = [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}] if names else []
    return Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})


def guest(code: str, security: Security | None = None, **fields: Any) -> Spec:
    return Spec(["python3", "-I", "-S", "-c", TOOLS + code], security=security or allowing("mkdirat"), **fields)


async def told(box: Container) -> Any:
    assert box.stdout is not None
    async for line in box.stdout.lines():
        return json.loads(line)
    assert box.stderr is not None
    raise AssertionError((await box.stderr.receive()).decode())


async def first(box: Container, **options: Any) -> Syscall:
    async for call in box.syscalls(**options):
        return call
    raise AssertionError("the container has ended")


# ---- a look and a change ----

#: Opens what a buffer names; another thread of it changes the name when it is told that the handler has looked.
CHANGES = """
for name, text in (("good", "harmless"), ("evil", "a secret")):
    with open(f"/tmp/{name}", "w") as file:
        file.write(text)
path = ctypes.create_string_buffer(b"/tmp/good")
how = (ctypes.c_ulonglong * 3)(0, 0, 0)
def change():
    sys.stdin.readline()
    path.value = b"/tmp/evil"
    tell("changed")
thread = threading.Thread(target=change)
thread.start()
fd = call(OPENAT2, -100, path, how, 24)
thread.join()
tell(os.read(fd, 100).decode())
"""


async def looked_at(box: Container, observe: bool) -> Syscall:
    """The call, when its path was looked at, found harmless, and then changed."""
    assert box.stdin is not None
    call = await first(box, observe=observe)
    assert await call.path() == "/tmp/good"
    await box.stdin.send(b"\n")
    assert await told(box) == "changed"
    return call


async def test_control_a_handler_that_looks_and_lets_proceed_is_fooled() -> None:
    async with Container(guest(CHANGES, allowing("openat2"))) as box:
        assert (await looked_at(box, True)).proceed()
        assert await told(box) == "a secret"


async def test_f17_what_was_done_for_the_caller_is_what_was_looked_at() -> None:
    async with Container(guest(CHANGES, allowing("openat2"))) as box:
        call = await looked_at(box, False)
        ours, theirs = os.pipe()
        os.write(theirs, b"what was looked at")
        os.close(theirs)
        assert await call.inject(ours)
        os.close(ours)
        assert await told(box) == "what was looked at"


# ---- the listener ----

SCAN = """
def listeners():
    found = []
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        names = tried(os.listdir, f"/proc/{pid}/fd")
        found += [pid for name in names if "seccomp" in str(tried(os.readlink, f"/proc/{pid}/fd/{name}"))] if isinstance(names, list) else []
    return found
def taken(pid):
    pidfd = os.pidfd_open(pid)
    found = []
    for fd in range(64):
        got = tried(call, PIDFD_GETFD, pidfd, fd, 0)
        if isinstance(got, int):
            found += [fd] if "seccomp" in os.readlink(f"/proc/self/fd/{got}") else []
            os.close(got)
    os.close(pidfd)
    return found
"""


async def test_control_a_listener_of_a_programs_own_is_found_and_taken() -> None:
    code = SCAN + """
ours, theirs = os.pipe()
child = os.fork()
if not child:
    os.write(theirs, b"%d" % listen())
    time.sleep(100)
os.read(ours, 10)
tell([listeners() == [str(child)], len(taken(child))])
"""
    async with Container(guest(code, allowing())) as box:
        assert await told(box) == [True, 1]


async def test_f17_the_listener_is_nowhere_to_be_had() -> None:
    async with Container(guest(SCAN + "tell([listeners(), taken(os.getpid()), taken(1)])")) as box:
        assert await told(box) == [[], [], []]


async def test_f17_a_newborn_gives_its_listener_to_nobody() -> None:
    """A guest looks at every process that appears, from its first moment on, while commands start."""
    code = SCAN + """
tell("ready")
seen, had = set(), []
while not os.path.exists("/tmp/end"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            seen.add(name)
            got = tried(taken, int(name))
            had += got if isinstance(got, list) else []
tell([len(seen), had])
"""
    async with Container(guest(code)) as box:
        assert await told(box) == "ready"
        for _ in range(40):
            assert (await box.run(["sleep", "0.02"])).ok
        await box.put("/tmp/end", b"")
        seen, had = await told(box)
        assert seen > 5 and had == []


async def test_f17_a_guest_has_no_listener_of_its_own_beside_ours() -> None:
    async with Container(guest("tell(tried(listen))")) as box:
        assert await told(box) == "EBUSY"
    async with Container(guest("tell(tried(listen) > 2)", allowing())) as box:  # the control
        assert await told(box) is True


async def test_f17_the_mark_of_the_message_that_hands_over_is_no_way_past_the_filter() -> None:
    """What the first filter passes the second refuses: by no arguments is a notified sendmsg made unseen."""
    mark = "0x63726368, 0x656C6973"
    code = f"SENDMSG = {46 if X86 else 211}; tell([tried(call, SENDMSG, 1, 0, 0, 0, {mark}), tried(call, SENDMSG, 1, 0, 0, 0, 0, 0)])"
    async with Container(guest(code, allowing("sendmsg"))) as box:
        assert (await first(box)).deny(errno.EXDEV)
        assert await told(box) == ["EPERM", "EXDEV"]


@needs("i386")
async def test_f5_other_entries_do_not_slip_past() -> None:
    """x32's number of a notified call is none at all, i386's ends the process; the call itself waits."""
    code = """
tell([tried(call, 0x40000000 + 110), tried(call, 110)])
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page[:8] = bytes([0xb8, 64, 0, 0, 0, 0xcd, 0x80, 0xc3])  # mov eax, 64 (getppid); int 0x80; ret
tell(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""
    async with Container(guest(code, Security(seccomp=SeccompRules(notify=["getppid"])))) as box:
        assert (await first(box)).deny(errno.EXDEV)
        assert await told(box) == ["ENOSYS", "EXDEV"]
        assert (await box).reason is Reason.SECCOMP
    async with Container(guest(code.partition("\n")[2].partition("\n")[2], Security(seccomp=None))) as box:  # the control
        assert await told(box) == 1  # the init: the call was made


# ---- nobody is there to answer any more ----


async def test_f17_the_inits_death_with_a_call_in_our_hands() -> None:
    async with Container(guest("call(MKDIRAT, -100, b'/tmp/x', 0o755)")) as box:
        call = await first(box)
        assert box.init_pid is not None
        os.kill(box.init_pid, signal.SIGKILL)
        assert [other async for other in box.syscalls()] == []
        assert box.exit is not None and box.exit.reason is Reason.LOST
        assert await call.inject(0) is False


async def test_a_command_that_is_killed_with_its_call_in_our_hands() -> None:
    async with Container(guest("call(MKDIRAT, -100, b'/tmp/x', 0o755)")) as box:
        call = await first(box)
        call.process.kill()
        await box
        assert call.complete() is False


SUPERVISOR = """
import anyio, os, sys
from creche import *
async def main():
    rules = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY"}]}
    spec = Spec(["python3", "-I", "-S", "-c", sys.argv[1]], mounts=[Bind(sys.argv[2], "/srv")], security=Security(seccomp=rules), **FIELDS)
    async with Container(spec) as box:
        async for call in box.syscalls(observe=True):
            print(box.pid, flush=True)
            if sys.argv[3] == "answer":
                call.proceed()
                break
            await anyio.sleep(100)
        await box
anyio.run(main)
"""


@pytest.mark.parametrize("supervisor", ["killed", "answer"])
def test_f17_a_supervisor_that_is_killed_with_a_call_in_its_hands(tmp_path: Path, supervisor: str) -> None:
    """The call is never made, and its caller is dead; one that is answered (the control) is made."""
    tmp_path.chmod(0o777)
    fields = "uid_map=[IdMap(0, 0, 1)], gid_map=[IdMap(0, 0, 1)]" if os.geteuid() == 0 else ""
    program = SUPERVISOR.replace("**FIELDS", fields)
    code = TOOLS + "call(MKDIRAT, -100, b'/srv/made', 0o755)"
    with subprocess.Popen([sys.executable, "-c", program, code, str(tmp_path), supervisor], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        try:
            if supervisor == "killed":
                process.kill()
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(20_000), "the guest outlives its supervisor"
        finally:
            os.close(pidfd)
    assert (tmp_path / "made").exists() is (supervisor == "answer")


# ---- the supervisor's own time and memory ----


async def test_i_a_memory_that_never_comes_holds_up_nobody_but_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest can make whoever reads its memory wait for as long as it likes (userfaultfd(2)); played here."""
    hangs, real = threading.Event(), Listener.path

    def path(self: Listener, call: Any) -> str | None:
        if call.args[2] == 0o700:
            hangs.wait(20)
        return real(self, call)

    monkeypatch.setattr(Listener, "path", path)
    code = """
threading.Thread(target=tried, args=(call, MKDIRAT, -100, b"/tmp/slow", 0o700)).start()
sys.stdin.readline()
tell(tried(call, MKDIRAT, -100, b"/tmp/quick", 0o755))
"""
    async with Container(guest(code)) as box, anyio.create_task_group() as tasks:
        assert box.stdin is not None
        slow = await first(box)
        tasks.start_soon(slow.path)
        await box.stdin.send(b"\n")
        quick = await first(box)
        assert await quick.path() == "/tmp/quick" and quick.deny(errno.EXDEV)
        assert await told(box) == "EXDEV"
        tasks.cancel_scope.cancel()
    hangs.set()
    assert slow.deny() is False


async def test_i_callers_that_die_by_the_thousand_leave_nothing() -> None:
    """A guest kills its own callers as fast as it makes them: what we hold of them is what is in our hands, and no more."""
    code = """
import signal
for n in range(400):
    child = os.fork()
    if not child:
        tried(call, MKDIRAT, -100, b"/tmp/x", 0o755)
        os._exit(0)
    if n % 2:
        time.sleep(0.001)
    if n % 50:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
tell("done")
"""
    async with Container(guest(code)) as box:
        fds = len(os.listdir("/proc/self/fd"))
        seen = 0
        async for call in box.syscalls():
            seen += 1
            call.deny()
        assert seen >= 8 and await told(box) == "done"
        assert len(os.listdir("/proc/self/fd")) <= fds

