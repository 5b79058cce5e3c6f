"""Family E: guests against the init, and against commands that are being born. No filter, so that it is the armour that holds."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from typing import Any

import anyio
import pytest
from privileged.look import inside, python, run, sh

import creche
from creche import Namespaces, Security, Spec
from creche.machine import CAPABILITIES
from needs import needs

pytestmark = [needs("userns", "native"), pytest.mark.guest]
NO_FILTER = Security(seccomp=None)

#: Attacks on a process by its number: each gives what it achieved, or the errno.
TOOLS = """
import ctypes, errno, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
X86 = os.uname().machine == "x86_64"
def attach(pid):
    call(101 if X86 else 117, 16, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    call(101 if X86 else 117, 17, pid, 0, 0)
    return "attached"
def seize(pid):
    call(101 if X86 else 117, 0x4206, pid, 0, 0)
    return "seized"
def memory(pid):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as file:
        return "opened"
def getfd(pid):
    pidfd = os.pidfd_open(pid)
    try:
        got = call(438, pidfd, 0, 0)
    finally:
        os.close(pidfd)
    os.close(got)
    return f"descriptor {got}"
def readv(pid):
    class IoVec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    maps = open(f"/proc/{pid}/maps").readline() or "400000-"
    local, remote = IoVec(ctypes.addressof(buffer), 8), IoVec(int(maps.split("-")[0], 16), 8)
    return f"{call(310 if X86 else 270, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)} bytes"
def environ(pid):
    return "environment: " + open(f"/proc/{pid}/environ").read()[:20].replace("\\0", " ")
def fds(pid):
    return "descriptors: " + " ".join(os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd"))
def maps(pid):
    return "maps: " + (open(f"/proc/{pid}/maps").read(40) or 1 / 0)
def exe(pid):
    return "the program: " + os.readlink(f"/proc/{pid}/exe")
def root(pid):
    return "root: " + " ".join(os.listdir(f"/proc/{pid}/root"))[:20]
def overwrite(pid):
    os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY)); return "opened for writing"
def tried(name, pid):
    try:
        return [True, globals()[name](pid)]
    except OSError as error:
        return [False, errno.errorcode[error.errno]]
"""
ATTACKS = ["attach", "seize", "memory", "getfd", "readv", "environ", "fds", "maps", "exe", "root", "overwrite"]
ON_THE_INIT = TOOLS + f"print(json.dumps({{name: tried(name, 1) for name in {ATTACKS}}}))"
ON_A_SIBLING = TOOLS + f"""
def on(descriptor, number):
    return (os.POSIX_SPAWN_DUP2, descriptor, number)
(asked, ask), (told, tell) = os.pipe(), os.pipe()
child = os.posix_spawn("/bin/sh", ["sh", "-c", "echo up; read word"], os.environ, file_actions=[on(asked, 0), on(tell, 1)])
assert os.read(told, 3) == b"up\\n"  # no longer at work on libraries, whose descriptors come and go
print(json.dumps({{name: tried(name, child) for name in {[name for name in ATTACKS if name not in ('seize', 'overwrite')]}}}))
os.kill(child, 9)
"""


_told: list[tuple[str, Security, dict[str, tuple[bool, str]]]] = []


def answers(program: str, security: Security = NO_FILTER) -> dict[str, tuple[bool, str]]:
    """What a program of many attacks came to: it is run once, whoever asks."""
    for known, under, told in _told:
        if known == program and under == security:
            return told
    told = json.loads(sh(["python3", "-I", "-c", program], security=security))
    _told.append((program, security, told))
    return told


@pytest.mark.parametrize("name", ATTACKS)
def test_e1_e2_e5_the_init_gives_nothing_away(name: str) -> None:
    achieved, what = answers(ON_THE_INIT)[name]
    assert not achieved and what in ("EPERM", "EACCES"), what


@pytest.mark.parametrize("name", ["attach", "memory", "getfd", "readv", "environ", "fds", "maps", "exe", "root"])
def test_control_a_program_like_others_gives_it(name: str) -> None:
    assert answers(ON_A_SIBLING)[name][0], answers(ON_A_SIBLING)[name]


EVERY = tuple(name for name in CAPABILITIES if name != "CAP_SYS_PTRACE")
TRACING = Security(seccomp=None, capabilities=["CAP_SYS_PTRACE"], privileged=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_e1_e2_nor_to_a_guest_with_every_capability_that_a_spec_gives(name: str) -> None:
    achieved, what = answers(ON_THE_INIT, Security(seccomp=None, capabilities=EVERY))[name]
    assert not achieved and what in ("EPERM", "EACCES"), what


@pytest.mark.parametrize("name", ["attach", "seize", "memory", "getfd", "readv", "fds", "maps", "exe", "root"])
def test_control_the_one_that_a_spec_is_refused_for_opens_it(name: str) -> None:
    """Also to root's guests: the init is in their user namespace, whoever made that. `test_spec.py` has the refusal."""
    assert answers(ON_THE_INIT, TRACING)[name][0], answers(ON_THE_INIT, TRACING)[name]


#: Lays a link over /proc/self, by which all that is told to it goes to files of the guest's: mount(2) does not do that, move_mount(2) does.
OVERLAID = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
os.mkdir("/tmp/fake")
os.symlink("/tmp/fake", "/tmp/link")
tree = libc.syscall(428, -100, b"/tmp/link", 0x80101)  # open_tree(OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, AT_SYMLINK_NOFOLLOW)
if tree < 0 or libc.syscall(429, tree, b"", -100, b"/proc/self", 4) < 0:  # MOVE_MOUNT_F_EMPTY_PATH
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
open("/tmp/fake/oom_score_adj", "w").close()
if os.fork() == 0:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("7")
    os._exit(0)
os.wait()
print(open("/tmp/fake/oom_score_adj").read())
"""


def test_b9_what_a_later_command_tells_of_itself_is_told_to_the_kernel() -> None:
    """CVE-2019-16884: a label of AppArmor's or SELinux's is written as this number is, and one that goes astray is no label. Who may mount is
    told of, not obeyed. Control: the guest's own program writes to the same name, and to the guest's file."""

    async def body(box: creche.Container) -> None:
        assert (await box.run(["sh", "-c", "cat /proc/$$/oom_score_adj"], check=True)).stdout == b"700\n"
        covered = await box.run(["python3", "-I", "-c", OVERLAID])
        assert covered.stdout == b"7\n", covered.stderr
        with pytest.raises(creche.SpawnError, match="laid a mount over it") as refused:
            await box.run(["true"])
        assert refused.value.field == "oom_score_adj" and refused.value.errno == errno.EXDEV

    inside(body, Spec(security=Security(capabilities=["CAP_SYS_ADMIN"]), oom_score_adj=700))


def test_e5_the_inits_arguments_and_environment_are_empty() -> None:
    """Also to those who may read them: nothing of the supervisor's comes by way of it."""

    async def body(box: creche.Container) -> tuple[bytes, bytes]:
        with open(f"/proc/{box.init_pid}/cmdline", "rb") as cmdline, open(f"/proc/{box.init_pid}/environ", "rb") as environ:
            return cmdline.read(), environ.read()

    os.environ["CRECHE_TEST_SECRET"] = "s3cret"
    try:
        cmdline, environ = inside(body, Spec())
        assert cmdline.strip(b"\0") == b"" and environ == b""
        assert b"s3cret" not in run("cat /proc/[0-9]*/environ; env").stdout
        assert b"s3cret" in run("cat /proc/self/environ", inherit_env=["CRECHE_TEST_SECRET"]).stdout  # the control
    finally:
        del os.environ["CRECHE_TEST_SECRET"]


def test_e6_the_inits_program_is_sealed() -> None:
    """Nothing there is a file of the host: a write is refused by the seals for whoever gets so far."""

    async def body(box: creche.Container) -> str:
        return os.readlink(f"/proc/{box.init_pid}/exe")

    assert inside(body, Spec()) == "/memfd:creche-init (deleted)"
    import creche._native  # noqa: F401

    for number in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{number}"
        if os.path.islink(path) and os.readlink(path).startswith("/memfd:creche-init"):
            with pytest.raises(PermissionError):
                os.truncate(path, 0)
            break
    else:
        raise AssertionError("the init's memfd is not among our descriptors")


def test_e6_a_command_that_is_proc_self_exe() -> None:
    """It names the newborn's own program, which is the init's memfd: no file of the host is executed, and nothing hangs."""
    try:
        result = run(["/proc/self/exe"], timeout=5)
        assert not result.exit.ok and result.stdout == b""
    except creche.SpawnError as error:
        assert error.field == "command"


def test_e7_signals_to_process_1_do_nothing() -> None:
    code = """
        import os, signal
        os.setsid() if os.getpid() != os.getsid(0) else None
        for number in range(1, 65):
            try: os.kill(1, number)
            except OSError as error: print(number, error)
        print("alive")
    """
    assert python(code, security=NO_FILTER) == "alive"

    async def body(box: creche.Container) -> list[Any]:
        first = await box.run(["sh", "-c", "kill -9 1; kill -TERM 1; kill -STOP 1; echo still"])
        second = await box.run(["sh", "-c", "trap '' TERM; kill -TERM -1; echo alone"])
        third = await box.run(["echo", "here"])
        return [first.stdout, second.stdout, third.stdout]

    assert inside(body, Spec(security=NO_FILTER)) == [b"still\n", b"alone\n", b"here\n"]


@pytest.mark.parametrize(("limit", "reason"), [(0, "LOST"), (2, "LOST"), (64, None)], ids=["none", "two", "control: enough"])
def test_e17_an_init_whose_descriptors_a_guest_takes_away_ends_and_is_not_deaf(limit: int, reason: str | None) -> None:
    """prlimit(2) asks for the ids alone, which are the init's own; and poll(2) looks at no more descriptors than the limit. An init that went on
    would hear no supervisor, nor of its death."""

    async def body(box: creche.Container) -> str | None:
        lower = "import resource as r, sys; r.prlimit(1, r.RLIMIT_NOFILE, (int(sys.argv[1]), r.prlimit(1, r.RLIMIT_NOFILE)[1]))"
        with anyio.fail_after(30), contextlib.suppress(creche.CrecheError):
            assert (await box.run(["python3", "-I", "-c", lower, str(limit)])).exit.ok
            assert (await box.run(["true"])).exit.ok
            return None
        with anyio.fail_after(30):
            return (await box.wait()).reason.name

    assert inside(body, Spec()) == reason


def test_e8_nobody_outside_can_be_signalled() -> None:
    with subprocess.Popen(["sleep", "100"]) as canary:
        code = """
            import errno, os, signal, sys
            for pid in map(int, sys.argv[1:]):
                for target in (pid, -pid):
                    try: os.kill(target, 0)
                    except OSError as error: print(errno.errorcode[error.errno])
                    else: print("reached")
        """
        try:
            answers = python(code, str(canary.pid), str(os.getpid()), security=NO_FILTER).split()
            assert set(answers) == {"ESRCH"}
            shared = python(code, str(canary.pid), namespaces=Namespaces(pid=False), security=NO_FILTER).split()
            assert "ESRCH" not in shared[:1]  # the control: in the same PID namespace there is somebody
        finally:
            canary.kill()


#: In a session of its own: what its share of the processors is when a guest has tried to set it.
SESSION = """
import anyio, creche, sys
guest = "until echo 7 >/proc/1/autogroup || ! test -s /proc/1/autogroup; do sleep 0.05; done 2>/dev/null; echo tried"
security = creche.Security(**({"masked_paths": ()} if sys.argv[1:] else {}))
print(anyio.run(lambda: creche.run(["sh", "-c", guest], security=security, timeout=30)).stdout, open("/proc/self/autogroup").read())
"""


@needs("autogroup")
@pytest.mark.parametrize(("arguments", "nice"), [((), "nice 0"), (("uncovered",), "nice 7")], ids=["by default", "control: files of the kernel uncovered"])
def test_d9_the_share_of_the_supervisors_session_is_not_a_guests_to_set(arguments: tuple[str, ...], nice: str) -> None:
    """The init is in that session, and its files belong to the container's root (sched(7), proc_pid(5))."""
    done = subprocess.run([sys.executable, "-c", SESSION, *arguments], capture_output=True, text=True, check=True, start_new_session=True)
    assert "tried" in done.stdout and nice in done.stdout, done.stderr


DAEMON = """
import ctypes, os, signal, sys
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.write(int(sys.argv[1]), b"here %d" % os.getpid())
while True:
    signal.pause()
"""


@pytest.mark.parametrize("init", [True, False])
def test_e9_a_deaf_daemon_ends_with_the_container(init: bool) -> None:
    """Its end is seen by the pipe that it alone holds."""
    ours, theirs = os.pipe()
    try:
        main = "import os, subprocess, sys; subprocess.run([sys.executable, '-I', '-c', sys.argv[1], sys.argv[3]], close_fds=False); print(os.read(int(sys.argv[2]), 20).decode())"
        result = run(["python3", "-I", "-c", main, DAEMON, str(ours), str(theirs)], pass_fds=[ours, theirs], init=init)
        assert result.stdout.startswith(b"here "), result.stderr
        os.close(theirs)
        theirs = -1
        assert os.read(ours, 1) == b""  # end of file: nobody has the other end any more
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def test_control_without_a_pid_namespace_the_daemon_lives_on() -> None:
    ours, theirs = os.pipe()
    try:
        main = "import os, subprocess, sys; subprocess.run([sys.executable, '-I', '-c', sys.argv[1], sys.argv[3]], close_fds=False); print(os.read(int(sys.argv[2]), 20).decode())"
        result = run(["python3", "-I", "-c", main, DAEMON, str(ours), str(theirs)], pass_fds=[ours, theirs], namespaces=Namespaces(pid=False))
        os.close(theirs)
        theirs = -1
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)  # no end of file: it holds the other end still
        os.kill(int(result.stdout.split()[1]), signal.SIGKILL)
        os.set_blocking(ours, True)
        assert os.read(ours, 1) == b""
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def test_e16_a_daemon_that_keeps_stdout_open_keeps_nobody_waiting() -> None:
    result = run("sleep 1000 & echo started", timeout=20)
    assert result.exit.ok and result.stdout == b"started\n"


def test_e10_a_container_that_stops_itself_is_killed() -> None:
    async def main() -> creche.Exit:
        async with creche.Container(Spec(["sh", "-c", "trap '' TERM INT HUP; kill -STOP -1; kill -STOP $$; sleep 100"])) as box:
            await anyio.sleep(0.1)
            box.kill()
            return await box

    exit = anyio.run(main)
    assert exit.reason is creche.Reason.KILLED and exit.signal == signal.SIGKILL


def test_the_tools_see_what_they_look_for() -> None:
    """The attacks themselves, outside: on a child that is like others each comes to something."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        program = TOOLS + f"print(json.dumps({{name: tried(name, {child.pid}) for name in ['environ', 'fds', 'maps', 'exe', 'root']}}))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        assert all(achieved for achieved, _ in json.loads(done.stdout).values())
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()
