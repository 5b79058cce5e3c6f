"""Supplementary groups: a container's init keeps none of the caller's, where setgroups(2) is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from privileged.look import ROOT, inside

import creche
from creche import Bind, FileError, IdMap, Spec
from creche.machine import probe
from needs import needs

pytestmark = needs("userns", "native")

TOLD = """
import anyio, creche, os, sys
from creche import IdMap
def groups(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(line for line in file if line.startswith("Groups:")).split()[1:]
async def main():
    async with creche.Container(creche.Spec(**eval(sys.argv[1]))) as box:
        inside = (await box.run(["grep", "^Groups:", "/proc/self/status"])).stdout.decode().split()[1:]
        print(",".join(groups("self")), ",".join(groups(box.init_pid)), ",".join(inside), sep=";")
anyio.run(main)
"""


def told(**fields: object) -> list[str]:
    """The groups of a supervisor that has some, of its container's init, and of a command there."""
    more = {"extra_groups": [0, 4, 27], "user": 0, "group": 0} if ROOT else {}
    done = subprocess.run([sys.executable, "-c", TOLD, repr(fields)], capture_output=True, text=True, check=True, **more)
    return done.stdout.strip().split(";")


@needs("root")
@pytest.mark.parametrize("fields", [{}, {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}])
def test_roots_init_has_none_of_its_groups(fields: dict[str, object]) -> None:
    supervisor, init, command = told(**fields)
    assert supervisor == "0,4,27", "the control: there are some to lose"
    assert (init, command) == ("", "")


@needs("user")
def test_a_users_groups_stay_where_one_id_is_mapped() -> None:
    """setgroups is denied there, so that nobody can drop a group that is refused something (user_namespaces(7))."""
    supervisor, init, command = told()
    assert init == supervisor and len(command.split(",")) == len(supervisor.split(","))


@needs("user", "subids", "newuidmap")
def test_a_user_with_sub_ids_has_an_init_without_groups() -> None:
    machine = probe()
    maps = [[IdMap(0, own, 1), IdMap(1, ranges[0][0], 99)] for own, ranges in ((os.geteuid(), machine.subuid), (os.getegid(), machine.subgid))]
    assert told(uid_map=maps[0], gid_map=maps[1])[1:] == ["", ""]


@needs("root")
@pytest.mark.parametrize("dropped", [True, False])
def test_files_of_roots_groups_are_not_fetched_by_a_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: bool) -> None:
    """C1: a guest's link leads `get` to a file that only a group of root's may read. Control: an init that kept its groups reads it."""
    if not dropped:
        monkeypatch.setattr("creche.plan.compile.may_set_groups", lambda machine, who: False)
    monkeypatch.setattr("creche.plan.compile._setups", {})
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "secret").chmod(0o640)

    async def body(box: creche.Container) -> bytes:
        await box.run(["ln", "-s", "/m/secret", "/tmp/result"])
        return await box.get("/tmp/result")

    before = os.getgroups()
    os.setgroups([0])
    try:
        if dropped:
            with pytest.raises(FileError) as caught:
                inside(body, Spec(mounts=[Bind(tmp_path, "/m", readonly=True)]))
            assert caught.value.errno == 13
        else:
            assert inside(body, Spec(mounts=[Bind(tmp_path, "/m", readonly=True)])) == b"s3cret"
    finally:
        os.setgroups(before)
