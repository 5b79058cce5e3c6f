"""Family J: what the supervisor knows stays with it, and what two containers must not share they cannot."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from privileged.look import inside, python, run, sh

import creche
from creche import Container, HostView, Limits, Overlay, SpawnError, Spec, SpecError
from creche.plan.render import as_text
from creche.planning import plan_of
from needs import needs

pytestmark = needs("userns", "native")


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret in the supervisor's environment and memory."""
    value = "canary" + secrets.token_hex(16)
    monkeypatch.setenv("CRECHE_CANARY_TOKEN", value)
    return value


def test_j1_nothing_of_the_supervisors_environment_is_inside(canary: str) -> None:
    assert canary not in sh(["env"]) and "CANARY" not in sh(["env"])
    assert canary in sh(["env"], inherit_env=["CRECHE_CANARY_TOKEN"]), "the control"
    assert sh(["/usr/bin/cat", "/proc/self/environ"], env={}) == ""


#: Looks for a text in its own memory, whole, which it is given only in two halves.
SEARCH = """
    import os, sys
    wanted, found = (sys.argv[1].encode()[::2], sys.argv[1].encode()[1::2]), 0
    def matches(page):
        at = page.find(b"canary")
        while at >= 0:
            rest = page[at + 6 : at + 38]
            if rest[::2] == wanted[0] and rest[1::2] == wanted[1]:
                return True
            at = page.find(b"canary", at + 1)
        return False
    searched = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.split()[1][0] == "r" and "[v" not in line:
                memory.seek(start)
                part = memory.read(end - start)
                searched += len(part)
                found += matches(part)
    print(found, searched)
"""


def test_j3_nothing_of_the_supervisors_memory_is_inside(canary: str) -> None:
    """A child shares the supervisor's memory for a moment: after its exec there is nothing of that any more."""
    kept = [f"{canary}-{number}" for number in range(100)]
    found, searched = python(SEARCH, canary.removeprefix("canary")).split()
    assert found == "0" and int(searched) > 1 << 20
    control, _ = python(SEARCH, canary.removeprefix("canary"), env={"TOKEN": canary}).split()
    assert int(control) > 0 and kept


def host_sees(word: str) -> list[str]:
    """The command lines on the host in which it stands; all that ps(1) would show to everybody."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if word.encode() in line:
            found.append(name)
    return found


def test_j2_a_secret_of_the_spec_is_in_no_command_line() -> None:
    secret = secrets.token_hex(16)

    async def body(box: Container) -> None:
        assert not host_sees(secret)
        lines = (await box.run(["sh", "-c", "cat /proc/[0-9]*/cmdline"])).stdout
        assert lines and secret.encode() not in lines
        shown = f"{box!r} {box.exit!r}"
        assert secret not in shown
        with subprocess.Popen(["sh", "-c", "read line; :", secret], stdin=subprocess.PIPE):
            # Popen returns when the descriptors close at exec, which is a little before the new arguments are there.
            assert any(host_sees(secret) for _ in range(100)), "the control: an argument is seen by everybody"

    inside(body, Spec(["sleep", "1000"], env={"PATH": "/usr/bin:/bin", "TOKEN": secret}))


def test_j2_a_secret_of_the_spec_is_in_no_plan_and_no_error() -> None:
    secret = secrets.token_hex(16)
    spec = Spec(["sh", "-c", "exit 3"], env={"PATH": "/usr/bin:/bin", "TOKEN": secret})
    plan = plan_of(spec)
    assert secret not in as_text(plan) and "TOKEN" in as_text(plan)
    with pytest.raises(creche.ExitError) as ended:
        run(["sh", "-c", "exit 3"], env={"PATH": "/usr/bin:/bin", "TOKEN": secret}, check=True)
    with pytest.raises(SpawnError) as failed:
        run(["/no/such/program"], env={"TOKEN": secret})
    for error in (ended.value, failed.value):
        assert secret not in f"{error} {error!r}"
    assert sh("echo $TOKEN", env={"PATH": "/usr/bin:/bin", "TOKEN": secret}) == secret, "the control: it is there for the command"


@pytest.mark.parametrize("name", ["../x", "a/b", "a\nb", "", ".", "..", "a b", "x" * 300, "\x1b[31m", "a\0b", "é"])
def test_j9_a_hostile_name_is_refused(name: str) -> None:
    """It becomes a part of a cgroup's name and stands in logs."""
    with pytest.raises(SpecError, match="name"):
        Spec(["true"], name=name)


@needs("limits")
def test_j9_two_containers_of_one_name_do_not_meet() -> None:
    spec = Spec(["sleep", "1000"], name="same", limits=Limits(pids=20))

    async def body(first: Container) -> None:
        async with Container(spec) as second:
            assert first.id != second.id
            second.kill()
            assert (await second.wait()).reason is creche.Reason.KILLED
        assert first.exit is None and (await first.stats()) is not None

    inside(body, spec)


@needs("overlay")
@pytest.mark.parametrize("shared", ["upper", "work"])
def test_j9_two_containers_on_one_layer_are_refused(tmp_path: Path, shared: str) -> None:
    """overlayfs.rst: what comes of it is undefined, and the kernel only warns."""
    for name in ("lower", "upper", "work", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    tmp_path.chmod(0o755)

    def spec(number: str) -> Spec:
        upper = tmp_path / ("upper" if shared == "upper" else number)
        work = tmp_path / ("work" if shared == "work" else number)
        return Spec(rootfs=HostView(), mounts=[Overlay([tmp_path / "lower"], upper, work, target="/o")])

    async def body(_: Container) -> Any:
        with pytest.raises(SpawnError) as caught:
            async with Container(spec("two")):
                pass
        assert f"mounts[0].{shared}" in str(caught.value) and "another container" in str(caught.value)

    inside(body, spec("one"))

    async def after(_: Container) -> None: ...

    inside(after, spec("two"))  # the control: it was the other container, and nothing else
