"""A warm run is confined as any command, and finds nothing of its template's or of another run's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from creche import (
    Bind,
    Container,
    Directory,
    IdMap,
    Landlock,
    Limits,
    Namespaces,
    Overlay,
    Pool,
    PythonWarm,
    SeccompRules,
    Security,
    Spec,
    Sysfs,
    Tmpfs,
    UnsupportedError,
)
from creche.machine import probe
from creche.plan.nesting import check_forkable
from creche.warm.forked import Forked
from needs import needs

pytestmark = needs("userns")

#: What a process can tell of how it is confined, as JSON.
LOOK = r"""
import ctypes, json, os, re, resource
libc = ctypes.CDLL(None)
status = dict(re.findall(r"(\w+):[ \t]*(.*)", open("/proc/self/status").read()))
found = {name: status[name] for name in ("Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk")}
found["filters"] = int(status["Seccomp_filters"]) if "Seccomp_filters" in status else 0
found["namespaces"] = {name: os.readlink("/proc/self/ns/" + name) for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children")}
found["limits"] = open("/proc/self/limits").read()
found["secure bits"], found["dumpable"], found["death signal"] = libc.prctl(27), libc.prctl(3), 0
found["mounts"] = sorted(re.sub(r"^\d+ \d+ ", "", line) for line in open("/proc/self/mountinfo"))
found["root"] = (os.stat("/").st_dev, os.stat("/").st_ino, os.stat("/proc/1/..").st_ino, sorted(os.listdir("/")))
found["cwd"], found["leader"] = os.getcwd(), (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())
found["open"] = [fd for fd in range(1024) if not libc.fcntl(fd, 1) < 0]
found["parent"], found["nice"], found["adj"] = os.getppid(), os.nice(0), open("/proc/self/oom_score_adj").read()
found["environment"] = dict(os.environ)
def tried(what):
    try:
        return repr(what())
    except OSError as error:
        return error.strerror
found["write"] = [tried(lambda: open(path, "a").close()) for path in ("/tmp/own", "/usr/own", "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj", "/etc/own")]
print(json.dumps(found))
"""

SPECS = {
    "default": Spec(),
    "no filter": Spec(security=Security(seccomp=None)),
    "strict": Spec(security=Security(seccomp=SeccompRules(base="default", deny=["mkdir"]))),
    "a capability": Spec(security=Security(capabilities=["CAP_NET_BIND_SERVICE"])),
    "rlimits": Spec(rlimits={"nofile": 64, "fsize": 1 << 20, "core": 0}, umask=0o077, nice=3, cwd="/tmp"),
    "another user": Spec(user=1000),
    "the host's network": Spec(namespaces=Namespaces(network=False)),
    "a volume": Spec(mounts=[Tmpfs("/scratch"), Bind("/usr/share", "/srv/share", readonly=True)], env={"LANG": "C.UTF-8", "A": "b"}),
}  # fmt: skip


def cgroups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


async def look(box: Forked) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the fork tells, and what a command tells that was executed in the same container."""
    forked = await box.run_warm(["python3", "-c", LOOK], timeout=20)
    executed = await box.run(["python3", "-c", LOOK], timeout=20)
    assert forked.ok and executed.ok, (forked.stderr, executed.stderr)
    return json.loads(forked.stdout), json.loads(executed.stdout)


@pytest.mark.parametrize("name", SPECS)
async def test_a_fork_is_confined_as_a_command_that_is_executed(name: str) -> None:
    async with Pool(SPECS[name], size=1, warm=PythonWarm()) as pool:
        async with pool.acquire() as box:
            assert isinstance(box, Forked)
            forked, executed = await look(box)
    # the template's init has a guard, and the container's own one has it once more
    assert executed.pop("filters") == forked.pop("filters") + 1
    assert forked == executed
    async with Container(SPECS[name]) as plain:  # and as in a container that is not nested
        there = json.loads((await plain.run(["python3", "-c", LOOK], timeout=20)).stdout)
    for differs in ("filters", "namespaces", "mounts", "root"):
        there.pop(differs)
        forked.pop(differs, None)
    assert forked == there


@needs("landlock")
async def test_landlock_holds_in_a_fork() -> None:
    program = ["python3", "-c", "open('/tmp/may', 'w'); open('/dev/shm/may', 'w')"]
    async with Pool(Spec(), size=1, warm=PythonWarm()) as pool:
        assert (await pool.run(program)).ok
    rules = Landlock(read=["/"], write=["/tmp"], execute=["/usr"])
    async with Pool(Spec(security=Security(landlock=rules)), size=1, warm=PythonWarm()) as pool:
        assert b"PermissionError: [Errno 13] Permission denied: '/dev/shm/may'" in (await pool.run(program)).stderr


async def test_a_filter_kills_its_own_run_alone() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]}
    async with Pool(Spec(security=Security(seccomp=profile)), size=2, warm=PythonWarm()) as pool:
        async with pool.acquire() as other:
            killed = await pool.run(["python3", "-c", "import os; os.mkdir('/tmp/a')"])
            assert killed.exit.reason.value == "seccomp"
            assert isinstance(other, Forked) and (await other.run_warm(["python3", "-c", "print(1)"])).stdout == b"1\n"
        assert (await pool.run(["python3", "-c", "print(2)"])).stdout == b"2\n"


KEYS = r"""
import ctypes
libc = ctypes.CDLL(None)
if {plant}: libc.syscall(248, b"user", b"creche-secret", b"x", 1, -3)
print(libc.syscall(250, 10, -3, b"user", b"creche-secret", 0) > 0)
"""


@needs("x86_64")
async def test_no_run_finds_anothers_keys() -> None:
    async with Pool(Spec(security=Security(seccomp=None)), size=2, warm=PythonWarm()) as pool:
        planted = await pool.run(["python3", "-c", KEYS.format(plant=True)])
        if planted.stdout == b"False\n":
            pytest.skip("this kernel has no keys, or something around us forbids them")
        assert (await pool.run(["python3", "-c", KEYS.format(plant=False)])).stdout == b"False\n"
        async with pool.acquire() as box:
            assert (await box.run(["python3", "-c", KEYS.format(plant=False)])).stdout == b"False\n"


SECRETS = r"""
import os, sys
import colorsys, decimal
{plant}
print(getattr(colorsys, "secret", None), os.environ.get("SECRET"), decimal.getcontext().prec, os.path.exists("/tmp/secret"), os.path.exists("/dev/shm/secret"), sys.gettrace(), "planted" in sys.modules)
"""
PLANT = r"""
colorsys.secret = "mine"; os.environ["SECRET"] = "mine"; decimal.getcontext().prec = 99
open("/tmp/secret", "w"); open("/dev/shm/secret", "w"); sys.modules["planted"] = os
import atexit; atexit.register(lambda: open("/tmp/secret", "w"))
"""


async def test_no_run_finds_what_another_left() -> None:
    async with Pool(Spec(), size=2, warm=PythonWarm(imports=["colorsys", "decimal"])) as pool:
        planted = await pool.run(["python3", "-c", SECRETS.format(plant=PLANT)])
        assert planted.stdout == b"mine mine 99 True True None True\n", planted.stderr  # the control: it can be seen
        for _ in range(3):
            found = await pool.run(["python3", "-c", SECRETS.format(plant="")])
            assert found.stdout == b"None None 28 False False None False\n", found.stderr


async def test_random_numbers_are_each_runs_own() -> None:
    draw = "import os, random, ssl, uuid, tempfile; print(random.random(), ssl.RAND_bytes(16).hex(), uuid.uuid4(), tempfile.mktemp(), os.urandom(8).hex())"
    async with Pool(Spec(), size=2, warm=PythonWarm(imports=["random", "ssl", "uuid", "tempfile"])) as pool:
        drawn = [(await pool.run(["python3", "-c", draw])).stdout.split() for _ in range(6)]
        hashes = {(await pool.run(["python3", "-c", "print(hash('creche'))"])).stdout for _ in range(3)}
        assert pool._template is not None
        pids = {(await pool.run(["python3", "-c", "import os; print(os.getpid())"])).stdout for _ in range(3)}
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(drawn), column
    assert len(hashes) == 1  # the control, and what docs/pools.md says of it: this is the template's
    assert pids == {b"3\n"}  # never the template's own, which is 2: so OpenSSL tells that it was forked


REACH = r"""
import json, os, signal
seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
def tried(what):
    try:
        return repr(what())
    except OSError as error:
        return error.strerror
def words(pid):
    return open("/proc/%d/cmdline" % pid).read().replace("\0", " ")[:60]
print(json.dumps({"seen": {str(pid): words(pid) for pid in seen if pid != os.getpid()}, "kill": tried(lambda: os.kill(2 if os.getpid() != 2 else 3, 0)),
    "mem": tried(lambda: open("/proc/%d/mem" % (seen[1] if seen[1] != os.getpid() else 99), "rb").read(0)), "sockets": [os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists("/proc/self/fd/" + fd)]}))
"""


async def test_the_template_is_out_of_a_runs_reach() -> None:
    async with Pool(Spec(), size=2, warm=PythonWarm()) as pool:
        async with pool.acquire() as other:  # another run beside it
            assert isinstance(other, Forked)
            async with other.open_warm(("python3", "-c", "import time; time.sleep(1000)")):
                found = json.loads((await pool.run(["python3", "-c", REACH])).stdout)
        assert found["seen"] == {"1": " "} and found["kill"] == "No such process"
        assert not [name for name in found["sockets"] if "socket" in name or "memfd" in name or "pidfd" in name]
        assert pool._template is not None and pool._template._box is not None
        # the control: whoever is where the template is sees it, and may signal it
        near = json.loads((await pool._template._box.run(["python3", "-c", REACH], user=None)).stdout)
        assert near["seen"]["2"].startswith("python3 -c") and near["kill"] == "None"


@pytest.mark.parametrize(
    "fields",
    [
        {"rootfs": Directory("/")}, {"rootfs": Overlay(["/srv"], upper="/a", work="/b")}, {"rootfs": Overlay(["/srv"], history=True)}, {"rootfs": None},
        {"mounts": [Overlay(["/usr"], upper="/a", work="/b", target="/srv")]}, {"mounts": [Overlay(["/usr"], target="/srv"), Tmpfs("/dev")]}, {"mounts": [Sysfs("/sys")]},
        {"mounts": [Tmpfs("/srv", copy_up=True)]}, {"namespaces": Namespaces(ipc=False)}, {"namespaces": Namespaces(time=True)},
        {"namespaces": Namespaces(network="/proc/self/ns/net")}, {"security": Security(capabilities=["CAP_SYS_ADMIN"])},
        {"security": Security(no_new_privs=False, seccomp=None)}, {"security": Security(apparmor="x")}, {"security": Security(seccomp_report=True)},
        {"security": Security(seccomp=SeccompRules(notify=["mkdir"]))}, {"min_strength": "landlock"},
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_template_cant_fork_is_refused_with_a_remedy(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError) as refused:
        check_forkable(evolve(Spec(), **fields), probe())
    assert refused.value.hint


@needs("root")
async def test_the_hosts_root_is_refused() -> None:
    one = (IdMap(0, 0, 1),)
    with pytest.raises(ExceptionGroup) as group:
        async with Pool(Spec(uid_map=one, gid_map=one), size=1, warm=PythonWarm()) as pool:
            await pool.run(["python3", "-c", ""])
    assert group.group_contains(UnsupportedError, match="the host's root")


@needs("limits")
async def test_the_template_is_in_no_limited_cgroup_and_its_runs_are() -> None:
    async with Pool(Spec(limits=Limits(pids=16)), size=1, warm=PythonWarm()) as pool:
        async with pool.acquire() as box:
            assert isinstance(box, Forked) and pool._template is not None
            async with box.open_warm(("python3", "-c", "import time; print(1, flush=True); time.sleep(1000)")) as process:
                assert process.stdout is not None
                await process.stdout.receive()
                templates, ours = cgroups_of(pool._template.pid), cgroups_of(os.getpid())
                assert cgroups_of(process.pid) != templates == ours == cgroups_of(box.pid)
