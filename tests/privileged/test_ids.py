"""Who a container is inside and outside: maps, private ranges, users and groups."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from privileged.look import ROOT, inside, run, sh

import creche
from creche import Bind, Directory, HostView, IdMap, Overlay, Security, SpawnError, Spec, SpecError
from creche.machine import probe
from needs import needs

pytestmark = needs("userns", "native")
many_ids = needs() if ROOT else needs("subids", "newuidmap")
WHO = "echo $(id -u):$(id -g):$(id -G | tr ' ' ,)"


def maps() -> tuple[list[list[int]], list[list[int]]]:
    text = sh("cat /proc/self/uid_map; echo; cat /proc/self/gid_map")
    uid, gid = ([[int(word) for word in line.split()] for line in part.splitlines()] for part in text.split("\n\n"))
    return uid, gid


def test_by_default_the_command_is_root_inside() -> None:
    assert sh(WHO).startswith("0:0:0")


@needs("user")
def test_an_ordinary_user_maps_itself_and_nobody_else() -> None:
    assert maps() == ([[0, os.geteuid(), 1]], [[0, os.getegid(), 1]])
    assert sh("cat /proc/self/setgroups") == "deny"


@needs("root")
def test_roots_container_lives_in_a_range_of_nobodys() -> None:
    uid, gid = maps()
    assert uid == gid and uid[0][0] == 0 and sum(line[2] for line in uid) == 65536
    assert uid[0][1] >= 100_000
    machine = probe()
    assert any(first <= uid[0][1] < first + count for first, count in machine.subuid)


@needs("root")
def test_two_live_containers_never_share_a_range() -> None:
    async def main() -> list[int]:
        bases = []
        async with creche.Container(Spec()) as one, creche.Container(Spec()) as two, creche.Container(Spec()) as three:
            for box in (one, two, three):
                bases.append(int((await box.run(["cat", "/proc/self/uid_map"])).stdout.split()[1]))
        return bases

    bases = anyio.run(main)
    assert len(set(bases)) == 3


HOLD = """
import anyio, creche, sys
async def main():
    async with creche.Container(creche.Spec()) as box:
        base = (await box.run(["cat", "/proc/self/uid_map"])).stdout.split()[1].decode()
        print(base, box.init_pid, flush=True)
        await anyio.sleep(600)
anyio.run(main)
"""


@needs("root")
def test_a_range_is_held_across_supervisors() -> None:
    """Another process's container has a range of its own, as long as that container lives."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        base = int(holder.stdout.readline().split()[0])
        mine = [int(sh("cat /proc/self/uid_map").split()[1]) for _ in range(8)]
        assert base not in mine
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@needs("root")
def test_the_lock_is_the_inits_not_the_supervisors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the supervisor dead by SIGKILL, an init that has not yet ended (it is stopped here) still holds its range."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    init = 0
    try:
        assert holder.stdout is not None
        base, init = (int(word) for word in holder.stdout.readline().split())
        lock = f"/proc/{init}/fd"
        assert any(os.readlink(f"{lock}/{fd}").rpartition(".")[0].endswith("/creche/ids") for fd in os.listdir(lock))
        os.kill(init, signal.SIGSTOP)
        holder.kill()
        holder.wait()
        monkeypatch.setattr("creche.ranges._next", 0)  # so that the first free range is taken
        assert int(sh("cat /proc/self/uid_map").split()[1]) != base
        pidfd = os.pidfd_open(init)
        os.kill(init, signal.SIGKILL)
        init = 0
        select.select([pidfd], [], [])
        os.close(pidfd)
        monkeypatch.setattr("creche.ranges._next", 0)
        assert int(sh("cat /proc/self/uid_map").split()[1]) <= base  # the control: now it is as free as any
    finally:
        if init:
            os.kill(init, signal.SIGKILL)
        holder.kill()
        holder.wait()
        holder.stdout.close()


# ---- explicit maps ----


@needs("root")
def test_root_may_be_mapped_to_root_when_asked() -> None:
    got = sh("cat /proc/self/uid_map", uid_map=[IdMap(0, 0, 1)], gid_map=[IdMap(0, 0, 1)])
    assert got.split() == ["0", "0", "1"]


def sub_ids(count: int) -> tuple[int, int]:
    """The first of `count` ids that are ours to give, of users and of groups."""
    machine = probe()
    uid, gid = next(first for first, size in machine.subuid if size >= count), next(first for first, size in machine.subgid if size >= count)
    return uid, gid


@many_ids
def test_a_map_of_many_ranges() -> None:
    uid, gid = sub_ids(100)
    own_uid, own_gid = (os.geteuid(), os.getegid()) if not ROOT else (uid + 90, gid + 90)
    uid_map = [IdMap(0, own_uid, 1), IdMap(1, uid, 10), IdMap(100, uid + 20, 5), IdMap(4_000_000_000, uid + 30, 2)]
    gid_map = [IdMap(0, own_gid, 1), IdMap(5, gid, 10), IdMap(100, gid + 20, 5), IdMap(7000, gid + 40, 3)]
    got = sh("cat /proc/self/uid_map; echo; cat /proc/self/gid_map; cat /proc/self/setgroups", uid_map=uid_map, gid_map=gid_map)
    numbers = [[int(word) for word in line.split()] for line in got.splitlines() if line and line != "allow"]
    assert numbers == [[m.inside, m.outside, m.count] for m in [*uid_map, *gid_map]]
    assert got.endswith("allow")


@many_ids
def test_a_map_of_as_many_lines_as_the_tools_take() -> None:
    uid, gid = sub_ids(400)
    many = 100
    uid_map = [IdMap(3 * n, uid + 2 * n, 1) for n in range(many)]
    gid_map = [IdMap(3 * n, gid + 2 * n, 1) for n in range(many)]
    assert sh("wc -l < /proc/self/uid_map", uid_map=uid_map, gid_map=gid_map) == str(many)


@needs("root")
def test_a_map_of_as_many_lines_as_the_kernel_takes() -> None:
    lines = [IdMap(n, 100_000 + 2 * n, 1) for n in range(310)]
    assert sh("wc -l < /proc/self/uid_map", uid_map=lines, gid_map=lines) == "310"


@many_ids
def test_a_map_of_more_bytes_than_the_kernel_takes_is_refused() -> None:
    uid, gid = sub_ids(1000)
    with pytest.raises(SpecError, match="4095 bytes"):
        run(["true"], uid_map=[IdMap(3 * n, uid + 2 * n, 1) for n in range(340)], gid_map=[IdMap(3 * n, gid + 2 * n, 1) for n in range(340)])


@needs("user", "subids")
def test_ids_that_are_not_ours_to_give_are_refused() -> None:
    with pytest.raises(SpecError, match=r"uid_map\[0\].*subuid") as caught:
        run(["true"], uid_map=[IdMap(0, 0, 1)], gid_map=[IdMap(0, os.getegid(), 1)])
    assert caught.value.field == "uid_map[0]"


@needs("user")
def test_a_number_alone_maps_the_caller_to_it() -> None:
    assert sh(WHO, user=1234).startswith("1234:1234")
    assert sh("cat /proc/self/uid_map", user=1234).split() == ["1234", str(os.geteuid()), "1"]


# ---- users and groups of the rootfs ----


@pytest.fixture
def accounts(image: Path) -> dict[str, object]:
    return {"rootfs": Directory(image)} if ROOT else {"rootfs": Overlay([image])}


@many_ids
@needs("busybox")
@pytest.mark.parametrize(
    ("user", "groups", "who"),
    [
        ("ann", None, "7:8:8,9,29"),
        ("ann:wheel", None, "7:9:9,29"),
        ("ann:50", None, "7:50:50,9,29"),
        ("7:8", None, "7:8:8"),
        ("7", None, "7:7:7"),
        (7, None, "7:7:7"),
        ("7:staff", None, "7:8:8"),
        (7, ["wheel", 50], "7:7:7,9,50"),
        ("ann", [], "7:8:8"),
        (None, ["audio"], "0:0:0,29"),
        ("root", None, "0:0:0"),
    ],
)
def test_users_and_groups_are_looked_up_inside(accounts: dict[str, object], user: object, groups: object, who: str) -> None:
    fields = dict(accounts)
    if not ROOT and (isinstance(user, int) or (isinstance(user, str) and user[0].isdigit())):
        uid, gid = sub_ids(100)
        fields |= {"uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, uid, 99)], "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, gid, 99)]}
    if user == "root" and not ROOT:
        who = "0:0:0"
    got = sh(WHO, user=user, groups=groups, **fields)
    uid_gid, listed = got.rsplit(":", 1)
    assert uid_gid == who.rsplit(":", 1)[0]
    assert sorted(set(listed.split(","))) == sorted(who.rsplit(":", 1)[1].split(",")) or (user == "root" and not ROOT)


@many_ids
@needs("busybox")
def test_a_name_brings_its_home(accounts: dict[str, object]) -> None:
    assert sh("echo $HOME", user="ann", **accounts) == "/home/ann"


@many_ids
@needs("busybox")
@pytest.mark.parametrize(("field", "value"), [("user", "nobody-here"), ("user", "ann:no-such"), ("groups", ["no-such"])])
def test_who_is_not_known_inside_is_an_error(accounts: dict[str, object], field: str, value: object) -> None:
    with pytest.raises(SpecError, match="container's /etc/") as caught:
        run(["true"], **{field: value}, **accounts)
    assert caught.value.field == field


@many_ids
@needs("busybox")
@pytest.mark.parametrize("what", ["a fifo", "larger than is read"])
@pytest.mark.parametrize(("file", "fields"), [("passwd", {"user": "ann"}), ("group", {"groups": ["staff"]})])
def test_a_file_of_names_that_can_not_be_read_is_said_to_be_so(image: Path, accounts: dict[str, object], what: str, file: str, fields: dict[str, object]) -> None:
    path = image / "etc" / file
    path.unlink()
    if what == "a fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x" * (2 << 20))
    with pytest.raises(SpecError, match=rf"container's /etc/{file} can't be read \((Invalid argument|File too large)\): give a .id"):
        run(["true"], **{**accounts, **fields})


@many_ids
@needs("busybox")
def test_the_hosts_accounts_do_not_count(accounts: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        run(["true"], user="daemon", **accounts)


@many_ids
@needs("busybox")
def test_the_command_owns_its_pipes(accounts: dict[str, object]) -> None:
    assert sh("echo > /dev/stdout; echo x > /dev/stderr; stat -L -c %u /dev/stdout", user="ann", **accounts) == "\n7"


@many_ids
@needs("busybox", "overlay")
def test_a_second_command_as_somebody_else(image: Path) -> None:
    async def body(box: creche.Container) -> list[bytes]:
        return [(await box.run(["sh", "-c", WHO], **fields)).stdout for fields in ({"user": "ann"}, {}, {"user": "root"})]

    got = inside(body, Spec(rootfs=Overlay([image]), user="ann"))
    assert got[0].startswith(b"7:8:") and got[1].startswith(b"7:8:") and got[2].startswith(b"0:0:")


# ---- files and owners ----


@needs("root", "idmapped")
def test_files_through_a_writable_bind_keep_their_owners(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for name, uid in (("roots", 0), ("seven", 7)):
        (tmp_path / name).write_text("x")
        os.chown(tmp_path / name, uid, uid)
    got = sh("stat -c %u /m/roots /m/seven; echo new > /m/new; stat -c %u /m/new", mounts=[Bind(tmp_path, "/m")])
    assert got == "0\n7\n0"
    assert (tmp_path / "new").stat().st_uid == 0


@needs("root")
def test_a_read_only_bind_is_not_idmapped(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "f").write_text("x")
    assert sh("stat -c %u /m/f", mounts=[Bind(tmp_path, "/m", readonly=True)]) == "65534"
    assert sh("stat -c %u /m/f", mounts=[Bind(tmp_path, "/m", readonly=True, idmap=True)]) == "0"


@needs("root")
def test_a_writable_bind_without_idmap_writes_as_the_range(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    sh("echo x > /m/new", mounts=[Bind(tmp_path, "/m", idmap=False)])
    assert (tmp_path / "new").stat().st_uid >= 100_000


@needs("root")
@pytest.mark.parametrize("source", ["/proc/bus", "/sys/kernel"])
def test_what_can_not_be_idmapped_is_an_error_with_the_remedy(source: str) -> None:
    with pytest.raises(SpawnError, match="idmap") as caught:
        run(["true"], mounts=[Bind(source, "/m")])
    assert caught.value.field == "mounts[0].source"
    assert "idmap=False" in str(caught.value) and source in str(caught.value)
    assert sh("ls -d /m", mounts=[Bind(source, "/m", idmap=False)]) == "/m"
    assert sh("ls -d /m", mounts=[Bind(source, "/m", readonly=True)]) == "/m"


OVERLAID = """
import ctypes, os, sys, anyio, creche
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1]
for name in "lower", "upper", "work", "merged":
    os.mkdir(f"{folder}/{name}")
options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work".encode()
assert libc.mount(b"overlay", f"{folder}/merged".encode(), b"overlay", 0, options) == 0, ctypes.get_errno()
try:
    anyio.run(lambda: creche.run(["true"], mounts=[creche.Bind(f"{folder}/merged", "/m")]))
except creche.SpawnError as error:
    print(error.field, error)
"""


@needs("root", "idmapped")
def test_an_overlay_can_not_be_idmapped_either(tmp_path: Path) -> None:
    unshare = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run([*unshare, sys.executable, "-c", OVERLAID, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mounts[0].source") and "/merged'" in done.stdout and "idmap=False" in done.stdout


@needs("user", "subids", "newuidmap")
def test_an_ordinary_user_can_not_idmap_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(creche.UnsupportedError, match="idmapped"):
        run(["true"], mounts=[Bind(tmp_path, "/m", idmap=True)])


@needs("user", "subids", "newuidmap", "busybox", "overlay")
def test_files_under_foreign_ids_are_removed_again_by_their_owner(tmp_path: Path, image: Path) -> None:
    """What a container's user 7 made is a stranger's outside: rm fails, remove_tree does not."""
    from creche.remove import remove_tree

    work = tmp_path / "left"
    work.mkdir()
    uid, gid = sub_ids(100)
    fields = {"uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, uid, 99)], "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, gid, 99)]}
    script = "mkdir /m/d && touch /m/d/f && chmod 700 /m/d && chown -R 7:8 /m/d"
    sh(script, mounts=[Bind(work, "/m")], security=Security(capabilities=["CAP_CHOWN"]), **fields)
    assert (work / "d").stat().st_uid == uid + 6
    assert subprocess.run(["rm", "-rf", work], capture_output=True, check=False).returncode != 0  # the control
    assert (work / "d").exists()
    anyio.run(remove_tree, work)
    assert not work.exists()


def test_remove_tree_leaves_what_links_lead_to_and_takes_what_nobody_may_enter(tmp_path: Path) -> None:
    from creche.remove import remove_tree

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").write_text("x")
    (tmp_path / "gone/closed/deep").mkdir(parents=True)
    (tmp_path / "gone/closed").chmod(0)
    (tmp_path / "gone/link").symlink_to(tmp_path / "kept")
    anyio.run(remove_tree, tmp_path / "gone")
    anyio.run(remove_tree, tmp_path / "was/never/there")
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept/f").exists()


@needs("user")
def test_remove_tree_says_what_it_could_not_remove() -> None:
    from creche.remove import remove_tree

    with pytest.raises(creche.FileError, match="could not be removed") as caught:
        anyio.run(remove_tree, "/etc/hostname")
    assert caught.value.path == "/etc/hostname"
    assert os.path.exists("/etc/hostname")


def test_the_view_is_not_the_callers_when_ids_are_explicit() -> None:
    assert isinstance(Spec(["true"]).rootfs, HostView)


@needs("user", "subids", "newuidmap")
def test_a_user_whose_own_id_is_not_mapped_still_has_pipes_and_binds(tmp_path: Path) -> None:
    uid, gid = sub_ids(100)
    tmp_path.chmod(0o777)
    fields = {"uid_map": [IdMap(0, uid, 100)], "gid_map": [IdMap(0, gid, 100)], "mounts": [Bind(tmp_path, "/m")]}
    assert sh("echo out > /dev/stdout; cat /dev/stdin; echo x > /m/f", input=b"in", **fields) == "out\nin"
    assert (tmp_path / "f").stat().st_uid == uid
