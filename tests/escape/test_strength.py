"""The ladder of strengths in surroundings that forbid namespaces: Landlock and the filter alone hold what they promise.

Each attack has its control: the same program there, unconfined, achieves it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine_surroundings as around
import pytest

from needs import needs

pytestmark = needs("userns", "native", "landlock")

#: In a user namespace of the test's own, where these sysctls are its own as well.
ALONE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
NO_USER = (*ALONE, 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh")
NO_NETWORK = (*ALONE, 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"', "sh")

ATTACKS = '''
import ctypes, errno, json, os, resource, signal, socket, sys
secret, supervisor, segment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
def abstract():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(b"\\0" + secret.encode())
def internet():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
def datagram(address, kind):
    """By a socket that socket(2) was not asked for: one of a pair."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.sendto(b"of the guest", address)
def attach():
    libc.shmat.restype = ctypes.c_void_p
    if libc.shmat(segment, None, 0o10000) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmat")
def sibling():
    child = call("syscall", 56 if os.uname().machine == "x86_64" else 220, 0x8000 | 17, 0, 0, 0, 0)  # CLONE_PARENT
    if not child:
        os._exit(0)
attacks = {
    "datagram": lambda: datagram(secret + ".sock", socket.SOCK_DGRAM),
    "datagram by its other name": lambda: datagram(secret + ".sock", socket.SOCK_RAW),
    "abstract datagram": lambda: datagram(b"\\0" + secret.encode() + b".sock", socket.SOCK_DGRAM),
    "shared memory by its number": attach,
    "message queue": lambda: call("mq_unlink", b"/creche-%d" % supervisor),
    "a child of the supervisor's": sibling,
    "read": lambda: open(secret).read(),
    "write": lambda: open(secret, "a").close(),
    "make": lambda: open(secret + ".new", "w").close(),
    "rename": lambda: os.rename(secret + ".moved", secret + ".stolen"),
    "link": lambda: os.link(secret, secret + ".link"),
    "remove": lambda: os.unlink(secret + ".gone"),
    "list": lambda: os.listdir(os.path.dirname(secret)),
    "truncate": lambda: os.truncate(secret, 0),
    "chmod": lambda: os.chmod(secret, 0o666),
    "utime": lambda: os.utime(secret, (0, 0)),
    "xattr": lambda: os.setxattr(secret, "user.x", b"x"),
    "environ": lambda: open(f"/proc/{supervisor}/environ").read(1),
    "signal": lambda: os.kill(supervisor, signal.SIGCONT),
    "signal by pidfd": lambda: signal.pidfd_send_signal(os.pidfd_open(supervisor), signal.SIGCONT),
    "trace": lambda: (call("ptrace", 0x4206, supervisor, 0, 0), call("ptrace", 17, supervisor, 0, 0)),
    "limit": lambda: resource.prlimit(supervisor, resource.RLIMIT_NPROC, resource.getrlimit(resource.RLIMIT_NPROC)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, supervisor, 1),
    "affinity": lambda: os.sched_setaffinity(supervisor, os.sched_getaffinity(0)),
    "shared memory": lambda: call("shmctl", call("shmget", 0, 4096, 0o1600), 0, None),
    "abstract socket": abstract,
    "internet": internet,
    "hostname": lambda: open("/proc/sys/kernel/hostname").read(),
    "run": lambda: os.spawnv(os.P_WAIT, secret + ".sh", ["x"]) and 1 / 0,
}
answers = {}
for name, attack in attacks.items():
    try:
        attack()
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
    except ZeroDivisionError:
        answers[name] = "EACCES"
    else:
        answers[name] = "achieved"
print(json.dumps(answers))
'''

SUPERVISE = """
import anyio, creche, ctypes, json, os, socket, sys
attacks, secret, fields = sys.argv[1], sys.argv[2], eval(sys.argv[3], {"Bind": creche.Bind})
for name in (secret, secret + ".moved", secret + ".sh", secret + ".gone"):
    with open(name, "w") as file:
        file.write("#!/bin/true")
os.chmod(secret + ".sh", 0o755)
listener = socket.socket(socket.AF_UNIX)
listener.bind(b"\\0" + secret.encode())
listener.listen()
post, abstract = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
if os.path.exists(secret + ".sock"):
    os.unlink(secret + ".sock")
post.bind(secret + ".sock")
abstract.bind(b"\\0" + secret.encode() + b".sock")
libc, queue = ctypes.CDLL(None, use_errno=True), b"/creche-%d" % os.getpid()
segment = libc.shmget(0, 4096, 0o1600)
assert segment >= 0 and libc.mq_open(queue, 0o102, 0o600, None) >= 0
async def main():
    argv = ["/usr/bin/python3", "-I", "-S", "-c", attacks, secret, str(os.getpid()), str(segment)]
    if fields is None:
        done = await anyio.run_process(argv)
        print("none", done.stdout.decode(), sep="\\n")
        return
    async with creche.Container(creche.Spec(argv, **fields)) as box:
        told = b"".join([part async for part in box.stdout])
        errors = b"".join([part async for part in box.stderr])
        await box.wait()
        print(box.strength.value, told.decode() or errors.decode(), sep="\\n")
try:
    anyio.run(main)
except creche.CrecheError as error:
    print(type(error).__name__, error, sep="\\n")
finally:
    libc.shmctl(segment, 0, None)
    libc.mq_unlink(queue)
"""


def told(folder: Path, fields: str, *before: str, answers: dict[str, int] | None = None) -> tuple[str, Any]:
    """The rung and what each attack came to, or the error's class and text."""
    apply: Callable[[], None] | None = (lambda: around.install(around.filter_for(answers))) if answers else None
    command = [*before, sys.executable, "-c", SUPERVISE, ATTACKS, str(folder / "secret"), fields]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": around.SOURCE}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=apply, check=False)
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.strip().partition("\n")
    return first, json.loads(rest) if rest.startswith("{") else rest


FILTERED = {"clone3": errno.ENOSYS, "unshare": errno.EPERM, "clone": errno.EPERM}
NO_MOUNTS = dict.fromkeys(("mount", "open_tree", "move_mount", "fsopen", "mount_setattr"), errno.EPERM)
SURROUNDINGS = {"no user namespaces": (NO_USER, None), "a filter over clone3": ((), FILTERED), "a filter over mounts": ((), NO_MOUNTS)}
LEAST = "{'min_strength': 'landlock'}"


@pytest.fixture(params=SURROUNDINGS)
def forbidden(request: pytest.FixtureRequest) -> tuple[tuple[str, ...], dict[str, int] | None]:
    if request.param.startswith("a filter") and os.geteuid() == 0:
        pytest.skip("the host's root is refused a container without a user namespace, see below")
    return SURROUNDINGS[request.param]


def test_landlock_and_the_filter_hold_what_they_promise(tmp_path: Path, forbidden: tuple[tuple[str, ...], dict[str, int] | None]) -> None:
    rung, answers = told(tmp_path, LEAST, *forbidden[0], answers=forbidden[1])
    assert rung == "landlock", answers
    assert {name: answer for name, answer in answers.items() if answer == "achieved"} == {}
    assert set(answers.values()) <= {"EACCES", "EPERM"}, answers
    assert (tmp_path / "secret").read_text() == "#!/bin/true" and sorted(path.name for path in tmp_path.iterdir()) == ["secret", "secret.gone", "secret.moved", "secret.sh", "secret.sock"]


def test_control_unconfined_all_of_it_is_achieved(tmp_path: Path, forbidden: tuple[tuple[str, ...], dict[str, int] | None]) -> None:
    rung, answers = told(tmp_path, "None", *forbidden[0], answers=forbidden[1])
    assert rung == "none"
    # tracing and another's niceness may be kept from ordinary users by the machine itself
    assert {name for name, answer in answers.items() if answer != "achieved"} <= {"trace", "xattr"}, answers


def test_binds_are_what_it_may_write_to(tmp_path: Path) -> None:
    fields = f"{{'min_strength': 'landlock', 'mounts': [Bind({str(tmp_path)!r}, {str(tmp_path)!r})]}}"
    rung, answers = told(tmp_path, fields, *NO_USER)
    assert rung == "landlock"
    allowed = {name for name, answer in answers.items() if answer == "achieved"}
    assert allowed == {"read", "write", "make", "rename", "link", "remove", "list", "truncate", "run"}, answers


@pytest.mark.parametrize("least", ["full", "no-network-namespace"])
def test_by_default_and_above_that_rung_it_is_refused(tmp_path: Path, least: str) -> None:
    kind, text = told(tmp_path, f"{{'min_strength': {least!r}}}", *NO_USER)
    assert kind == ("SpawnError" if least == "full" else "UnsupportedError")
    assert "max_user_namespaces" in text


def test_without_a_network_namespace_all_else_holds(tmp_path: Path) -> None:
    rung, answers = told(tmp_path, "{'min_strength': 'no-network-namespace'}", *NO_NETWORK)
    assert rung == "no-network-namespace", answers
    assert {answers[name] for name in ("internet", "abstract socket", "abstract datagram", "datagram", "a child of the supervisor's")} <= {"EPERM", "EACCES"}, answers
    # what it changes there is its own: the secret is not there, the process is another, the shared memory of its IPC namespace
    assert {name for name, answer in answers.items() if answer == "achieved"} <= {"shared memory", "hostname"} | set(), answers
    kind, text = told(tmp_path, "{}", *NO_NETWORK)
    assert kind == "SpawnError" and "max_net_namespaces" in text


def test_where_nothing_is_in_the_way_nothing_is_weaker(tmp_path: Path) -> None:
    assert told(tmp_path, LEAST)[0] == "full"


@pytest.mark.parametrize("least", ["full", "no-network-namespace"])
def test_mounts_that_are_refused_are_an_error_above_that_rung(tmp_path: Path, least: str) -> None:
    kind, text = told(tmp_path, f"{{'min_strength': {least!r}}}", answers=NO_MOUNTS)
    assert kind == "SpawnError" and "mount" in text


@needs("root")
@pytest.mark.parametrize("answers", [FILTERED, NO_MOUNTS], ids=["clone3", "mounts"])
def test_the_hosts_root_is_refused_all_the_same(tmp_path: Path, answers: dict[str, int]) -> None:
    kind, text = told(tmp_path, LEAST, answers=answers)
    assert kind == "SpecError" and "privileged=True" in text
