"""`box.audit()`: what the kernel says of a command, held against what its Spec promises; a box that is weaker is told so."""

from __future__ import annotations

import attrs
import pytest
from privileged.look import ROOT, inside

from creche import Container, CrecheError, HostView, Limits, Namespaces, Security, Spec, Tmpfs
from creche.auditing import Finding, audit, facts_of
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


def test_the_audit_of_an_ordinary_process_finds_nothing_kept() -> None:
    """The test's own process: no promise of a container's holds in it, but for those that are true of any user's."""
    import os

    found = audit(Spec(SLEEP), facts_of(os.getpid()))
    kept = {item.field for item in found if item.holds}
    assert kept <= {"rlimits.core", "uid_map", *(() if ROOT else ("security.capabilities",)), "security.masked_paths", "devices", "rootfs"}
    assert not [item for item in found if item.field.startswith("namespaces") and item.holds]
    assert attrs.asdict(found[0])
