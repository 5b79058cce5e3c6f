"""`box.audit()`: what the kernel says of a command, held against what its Spec promises; a box that is weaker is told so."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import anyio
import attrs
import pytest
from hypothesis import given
from privileged.look import ROOT, inside
from spec.strategies import specs

from creche import (
    Bind,
    Container,
    CrecheError,
    Directory,
    HostView,
    IdMap,
    Limits,
    Namespaces,
    Security,
    Spec,
    Tmpfs,
)
from creche.audit.attempts import answers, attempts, encoded
from creche.audit.auditing import Finding, audit, facts_of, tried
from creche.machine import Machine
from creche.plan.command import filter_of
from creche.plan.seccomp import compile_filter
from needs import needs

pytestmark = needs("userns", "native")
SLEEP = ["sleep", "1000"]


async def _audit(box: Container) -> tuple[Finding, ...]:
    return await box.audit()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"security": Security(seccomp="strict")},
        {"security": Security(capabilities=["CAP_CHOWN"])},
        {"namespaces": Namespaces(network=False)},
        {"mounts": [Tmpfs("/w", nosuid=False, nodev=False)]},
        {"security": Security(privileged=True, seccomp=None, no_new_privs=False)},
    ],
    ids=["default", "strict", "a capability", "the host's network", "a mount of its own", "privileged"],
)
def test_every_promise_of_an_ordinary_box_holds(fields: dict[str, object]) -> None:
    found = inside(_audit, Spec(SLEEP, **fields))
    assert found and not [item for item in found if not item.holds]
    promised = {item.field for item in found}
    assert "namespaces.pid" in promised and "uid_map" in promised
    assert ("namespaces.network" in promised) is ("namespaces" not in fields)


@needs("limits")
def test_a_limit_is_a_promise_too() -> None:
    found = inside(_audit, Spec(SLEEP, limits=Limits(pids=20)))
    assert [item.holds for item in found if item.field == "limits"] == [True]


def test_another_command_is_audited_like_the_first() -> None:
    async def body(box: Container) -> None:
        with pytest.raises(CrecheError, match="nothing runs"):
            await box.audit()
        async with box.open(SLEEP) as process:
            found = await box.audit(process)
            assert found and all(item.holds for item in found)
            process.kill()
            await process.wait()
            with pytest.raises(CrecheError, match="nothing runs"):
                await box.audit(process)

    inside(body, Spec(rootfs=HostView()))


#: Of each promise a box that does not keep it: a container made by one Spec is held against another's promises.
BROKEN = {
    "security.capabilities": {"security": Security(capabilities=["CAP_CHOWN"])},
    "security.no_new_privs": {"security": Security(no_new_privs=False, seccomp=None)},
    "security.seccomp": {"security": Security(seccomp=None)},
    "rlimits.core": {"rlimits": {"core": (4096, 4096)}},
    "namespaces.pid": {"namespaces": Namespaces(pid=False)},
    "namespaces.network": {"namespaces": Namespaces(network=False)},
    "namespaces.ipc": {"namespaces": Namespaces(ipc=False)},
    "namespaces.uts": {"namespaces": Namespaces(uts=False)},
    "namespaces.cgroup": {"namespaces": Namespaces(cgroup=False)},
    "security.readonly_paths": {"security": Security(readonly_paths=())},
    "security.masked_paths": {"security": Security(masked_paths=())},
    "rootfs": {"rootfs": None},
    "devices": {"mounts": [Tmpfs("/w", nodev=False)]},
}


@pytest.mark.parametrize("field", [field for field in BROKEN if field != "rlimits.core" or ROOT])
def test_a_promise_that_does_not_hold_is_told(field: str) -> None:
    weaker = Spec(SLEEP, **BROKEN[field])

    async def body(box: Container) -> None:
        found = audit(Spec(SLEEP), facts_of(box.pid))
        broken = {item.field for item in found if not item.holds}
        assert field in broken, found
        own = await box.audit()
        assert all(item.holds for item in own), own

    inside(body, weaker)


# ---- tried from inside ----

#: What a box that is weaker lets the probe achieve, of the promises of an ordinary one.
ACHIEVED = {
    "no call made past the filter (io_uring_setup)": {"security": Security(seccomp=None)},
    "no user namespace of its own, and every capability in it (unshare)": {"security": Security(seccomp=None)},
    "no socket of the family AF_PACKET": {"security": Security(seccomp=None)},
    "no program gains anything by being setuid": {"security": Security(no_new_privs=False, seccomp=None)},
    "no group can be dropped": {"security": Security(capabilities=["CAP_SETGID"])},
    "no capability for the next program": {"security": Security(capabilities=["CAP_NET_RAW"])},
    "no way to a network (connect to 192.0.2.1)": {"namespaces": Namespaces(network=False)},
    "/proc/interrupts tells nothing": {"security": Security(masked_paths=())},
    "/proc/sys/kernel/core_pattern can't be written to": {"security": Security(readonly_paths=()), "uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]},
    "nothing can be made in /etc": {"mounts": [Tmpfs("/etc")]},
    "the host's /home is not there": {"mounts": [Bind("/home", "/home", readonly=True)]},
}
NEEDS_ROOT = ("no group can be dropped", "/proc/sys/kernel/core_pattern can't be written to")


@pytest.mark.parametrize("promise", [pytest.param(p, marks=[needs("root")] if p in NEEDS_ROOT else []) for p in ACHIEVED])
def test_the_probe_tells_what_it_achieves(promise: str) -> None:
    """A weaker box against an ordinary one's promises; in a box of its own kind the same attempts are no promise, or hold."""
    if promise.startswith("no way to a network") and not _routed():
        pytest.skip("this machine has no way to a network itself")

    async def body(box: Container) -> None:
        assert box._machine is not None
        strong = Spec(SLEEP)
        found = await box._attempted(attempts(strong, filter_of(strong, box._machine)))
        assert promise in {item.promise for item in found if not item.holds}, found
        assert all(item.holds for item in await box.audit())

    inside(body, Spec(SLEEP, **ACHIEVED[promise]))


def _routed() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(("192.0.2.1", 9)) == 0


@needs("busybox")
def test_the_probe_is_no_program_of_the_image(image: Path) -> None:
    """In a root whose programs lie, and whose /proc is a folder with lies in it."""
    for name in ("creche-probe", "sh", "true"):
        (image / "bin" / name).unlink(missing_ok=True)
        (image / "bin" / name).write_text("#!/bin/busybox echo\nall is well")
        (image / "bin" / name).chmod(0o755)
    spec = Spec(["/bin/sleep", "1000"], rootfs=Directory(image, readonly=False))
    found = inside(_audit, spec)
    assert all(item.holds for item in found)
    assert {"init", "security.seccomp", "namespaces.network"} <= {item.field for item in found}


#: A guest that takes hold of whatever else runs in its container, without a filter to stop it.
GRASPS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print("begun", flush=True)
while True:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        if libc.ptrace(0x4206, int(name), 0, 0) == 0:
            print("traced", flush=True)
            sys.exit()
"""


@pytest.mark.parametrize("probed", [True, False])
def test_e3_a_guest_takes_no_hold_of_the_probe(probed: bool) -> None:
    """It is undumpable from its exec on, as a file that nobody may read. Control: an ordinary command is traced at once."""

    async def body(box: Container) -> bytes:
        assert box.stdout is not None
        assert await box.stdout.receive() == b"begun\n"
        if probed:
            for _ in range(40):
                assert all(item.holds for item in await box.audit())
            with anyio.move_on_after(0.1):
                return await box.stdout.receive()
            return b""
        async with box.open(SLEEP):
            return await box.stdout.receive()

    told = inside(body, Spec(["python3", "-c", GRASPS], security=Security(seccomp=None)))
    assert told == (b"" if probed else b"traced\n")


def test_what_is_not_answered_is_never_held() -> None:
    strong = Spec(SLEEP)
    table = attempts(strong, filter_of(strong, Machine.example()))
    told = struct.pack("=q", -1) * 3
    with pytest.raises(CrecheError, match="ended from outside"):
        list(tried(table, told))
    assert answers(table, told)[:4] == [-1, -1, -1, None]


@given(specs())
def test_every_spec_has_a_table_that_fits(spec: Spec) -> None:
    for arch in ("x86_64", "aarch64"):
        table = attempts(spec, compile_filter("default", arch=arch))
        assert len(encoded(table, arch)) <= 65_536


def test_the_audit_of_an_ordinary_process_finds_nothing_kept() -> None:
    """The test's own process: no promise of a container's holds in it, but for those that are true of any user's."""
    import os

    found = audit(Spec(SLEEP), facts_of(os.getpid()))
    kept = {item.field for item in found if item.holds}
    assert kept <= {"rlimits.core", "uid_map", *(() if ROOT else ("security.capabilities",)), "security.masked_paths", "devices", "rootfs"}
    assert not [item for item in found if item.field.startswith("namespaces") and item.holds]
    assert attrs.asdict(found[0])
