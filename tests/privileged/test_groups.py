"""Supplementary groups: a container's init keeps none of the caller's, where setgroups(2) is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from privileged.look import ROOT, busybox_root, inside, sh

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
    monkeypatch.setattr("creche.plan.compile._kinds", ())
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


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder which everybody can get to, as is none of pytest's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="creche-groups-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


#: Prints what a file holds that its group may not read: as it is, and by a program with the setgid bit of another group.
REFUSED = "cat /srv/refused 2>/dev/null; /srv/as-another /srv/refused 2>/dev/null; echo end"


@needs("root", "busybox", "cc")
@pytest.mark.parametrize("nnp", [True, False], ids=["no new privileges", "new privileges"])
def test_d10_a_refusal_of_the_first_group_is_not_passed_by_a_setgid_program(reachable: Path, nnp: bool) -> None:
    """CVE-2022-2989 and its like: without new privileges the bit is none; with them the group is among the supplementary ones."""
    image = busybox_root(reachable / "image")
    (image / "srv/refused").write_text("secret")
    os.chown(image / "srv/refused", 0, 8)
    (image / "srv/refused").chmod(0o604)
    (reachable / "cat.c").write_text("int main(int n, char **v) { char b[64]; int f = __builtin_strlen(v[1]) ? open(v[1], 0) : 0, r = read(f, b, 64); return r < 0 || write(1, b, r) < 0; }")
    subprocess.run(["cc", "-w", "-static", "-o", image / "srv/as-another", reachable / "cat.c"], check=True)
    os.chown(image / "srv/as-another", 0, 9)
    (image / "srv/as-another").chmod(0o2755)
    # nosuid of the root would hold it as well
    fields = {"rootfs": creche.Directory(image), "security": creche.Security(no_new_privs=nnp, seccomp="default" if nnp else None)}
    assert sh(REFUSED, user="7:8", **fields) == "end"
    outside = subprocess.run(["sh", "-c", REFUSED.replace("/srv", str(image / "srv"))], user=7, group=8, extra_groups=[], capture_output=True, text=True, check=True)
    assert outside.stdout == "secretend\n"  # the control: the group is the first, and no other
