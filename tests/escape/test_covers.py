"""Family D, wherever they lie: what is covered in /proc and /sys is covered in each mount that shows it, at whatever target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, run, sh

import creche
from creche import Bind, Directory, IdMap, Namespaces, Proc, Security, Sysfs, Tmpfs
from creche._surroundings import parse_mounts
from creche.kernelfs import Shown, trees_of
from needs import needs

pytestmark = needs("userns", "native")
BARE = Security(masked_paths=(), readonly_paths=())

#: D5: Specs that show them at other places, and where.
SHOWN: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "a sysfs elsewhere": ({"mounts": [Sysfs("/kernel/sys")]}, ("/kernel/sys",), ()),
    "two of them": ({"mounts": [Sysfs("/a"), Sysfs("/sys"), Sysfs("/b")]}, ("/a", "/sys", "/b"), ()),
    "in a tmpfs": ({"mounts": [Tmpfs("/t"), Sysfs("/t/sys")]}, ("/t/sys",), ()),
    "a bind of /sys": ({"mounts": [Bind("/sys", "/s", readonly=True)]}, ("/s",), ()),
    "a bind of /sys spelt otherwise": ({"mounts": [Bind("/sys/../sys/", "/s", readonly=True)]}, ("/s",), ()),
    "a proc elsewhere": ({"mounts": [Proc("/p")]}, (), ("/proc", "/p")),
    "three of them": ({"mounts": [Proc("/p"), Tmpfs("/t"), Proc("/t/p")]}, (), ("/proc", "/p", "/t/p")),
    "not at /proc": ({"mounts": [Tmpfs("/proc"), Proc("/p")]}, (), ("/p",)),
    "a bind of /proc": ({"mounts": [Bind("/proc", "/p", readonly=True)]}, (), ("/proc", "/p")),
    "the host's, as it has no PID namespace": ({"namespaces": Namespaces(pid=False), "mounts": [Proc("/p")]}, (), ("/proc", "/p")),
    "the host's whole root": ({"mounts": [Bind("/", "/host", readonly=True)]}, ("/host/sys",), ("/proc", "/host/proc")),
    "as the root": ({"rootfs": Directory("/", readonly=True), "mounts": [Bind("/", "/mnt", readonly=True)]}, ("/sys", "/mnt/sys"), ("/proc", "/mnt/proc")),
    "the caller's own root": ({"rootfs": None}, ("/sys",), ("/proc",)),
}  # fmt: skip
if ROOT:
    HOST = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    SHOWN["as the root"] = SHOWN["as the root"][0] | HOST | {"mounts": [Bind("/", "/mnt")]}, *SHOWN["as the root"][1:]  # "/" as a whole can't be idmapped
    SHOWN["a proc elsewhere, as the host's root"] = HOST | {"mounts": [Proc("/p")]}, (), ("/proc", "/p")
    SHOWN["a bind of /proc, as the host's root"] = HOST | {"mounts": [Bind("/proc", "/p")]}, (), ("/proc", "/p")
    SHOWN["the host's whole root, as the host's root"] = HOST | {"mounts": [Bind("/", "/host")]}, ("/host/sys",), ("/proc", "/host/proc")


def seen(shown: str, **fields: Any) -> list[str]:
    """What a guest gets to see, or to write to, at each of the places."""
    more, sys, proc = SHOWN[shown]
    script = "".join(f"ls {place}/firmware/* >/dev/null 2>&1 && echo {place}\n" for place in sys)
    script += "".join(f"grep -q . {place}/interrupts 2>/dev/null && echo {place}\n" for place in proc)
    if "uid_map" in more:
        script += "".join(f"(: >{place}/sys/kernel/core_pattern) 2>/dev/null && echo {place}/sys\n" for place in proc)
    return sh(script + "true", **{**more, **fields}).split()


@pytest.mark.parametrize("shown", SHOWN)
def test_d5_it_is_covered_at_each_place(shown: str) -> None:
    assert seen(shown) == []


@pytest.mark.parametrize("shown", SHOWN)
def test_d5_control_it_is_there_to_be_seen(shown: str) -> None:
    more, sys, proc = SHOWN[shown]
    expected = [*(sys if os.listdir("/sys/firmware") else ()), *proc, *((f"{place}/sys" for place in proc) if "uid_map" in more else ())]
    assert seen(shown, security=BARE) == expected


@pytest.mark.parametrize("paths", [("/proc",), ("/proc/interrupts",), ("/sys",), ("/sys/firmware", "/srv/x"), ("/p/interrupts",)])
def test_paths_of_the_specs_own_are_those_inside(paths: tuple[str, ...]) -> None:
    mounts = [Sysfs(), Proc("/p"), Tmpfs("/srv"), Tmpfs("/srv/x", mode=0o755)]
    security = Security(masked_paths=paths)
    for path in paths:
        assert sh(f"ls -A {path} 2>/dev/null | grep -v {path} || cat {path} 2>/dev/null || true", mounts=mounts, security=security) == ""
    shown = {"/proc/interrupts", "/p/interrupts", "/sys/firmware/*"} - {path if "interr" in path else path + "/*" for path in paths}
    if not {"/proc", "/sys"} & set(paths):
        assert all(run(f"ls {path}", mounts=mounts, security=security).exit.ok for path in shown)


@needs("busybox")
def test_d5_a_link_of_the_image_leads_no_cover_away(image: Path) -> None:
    """The parent of a target is a link in the image: what is covered is the mount itself, wherever it came to lie."""
    (image / "srv/real").mkdir()
    (image / "srv/link").symlink_to("real")
    fields: dict[str, Any] = {"rootfs": Directory(image, readonly=False), "mounts": [Sysfs("/srv/link/sys")]}
    assert sh("ls -A /srv/real/sys/firmware", **fields) == ""
    assert sh("ls -A /srv/real/sys/firmware", security=BARE, **fields).split() == sorted(os.listdir("/sys/firmware"))


#: D5: a folder that the host's user made: links to /proc and /sys, a link to a part, a link to a link, one with "..".
LINKS = {
    "to-proc": "/proc",
    "to-sys": "/sys",
    "again": "to-proc",
    "round": "/usr/../proc",
    "part": "/sys/firmware/..",
}


@pytest.fixture
def links(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    for name, target in LINKS.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


def by_link(links: Path, **fields: Any) -> list[str]:
    mounts = [Bind(links / name, f"/l/{name}", readonly=True) for name in LINKS]
    script = "for l in /l/*; do (ls $l/firmware/* || grep -q . $l/interrupts) >/dev/null 2>&1 && echo ${l#/l/}; done; true"
    return sh(script, mounts=[Tmpfs("/l"), *mounts], **fields).split()


def test_d5_a_link_on_the_host_is_what_it_leads_to(links: Path) -> None:
    assert by_link(links) == []


def test_d5_control_by_such_a_link_they_are_shown(links: Path) -> None:
    shown = by_link(links, security=BARE)
    assert shown == sorted(
        name for name in LINKS if "proc" in str(os.path.realpath(links / name)) or os.listdir("/sys/firmware")
    )


#: In a mount namespace of the test's own: a chroot with a proc and a sysfs, and a part of one, as the host's root makes them.
CHROOT = """
import sys; sys.path[:0] = {path!r}
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def mount(*arguments):
    if libc.mount(*[a.encode() if isinstance(a, str) else a for a in arguments]) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
mount("none", {folder!r}, "tmpfs", 0, None)
for name in ("deep/proc", "deep/sys", "part"):
    os.makedirs({folder!r} + "/" + name)
mount("/proc", {folder!r} + "/deep/proc", None, 0x1000 | 0x4000, None)
mount("/sys", {folder!r} + "/deep/sys", None, 0x1000 | 0x4000, None)
mount("/sys/kernel/..", {folder!r} + "/part", None, 0x1000 | 0x4000, None)
import anyio, creche
from creche import Bind, Directory, Security
script = "for l in " + " ".join(json.loads(sys.argv[1])) + "; do (ls $l/firmware/* || grep -q . $l/interrupts) >/dev/null 2>&1 && echo $l; done; true"
async def main():
    for security in (Security(), Security(masked_paths=(), readonly_paths=())):
        result = await creche.run(["/bin/sh", "-c", script], security=security, **eval(sys.argv[2]))
        print(json.dumps(result.stdout.decode().split() if result.exit.ok else result.stderr.decode()))
anyio.run(main)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder which everybody can get to, as is none of pytest's, and a link to it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="creche-covers-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "host").mkdir()
        (Path(folder) / "host-link").symlink_to("host")
        yield Path(folder) / "host"


def beside_a_chroot(folder: Path, fields: str, places: list[str]) -> subprocess.CompletedProcess[str]:
    program = CHROOT.format(path=[str(Path(creche.__file__).parents[1])], folder=str(folder))
    command = [
        "unshare",
        "--mount",
        *([] if ROOT else ["--user", "--map-root-user"]),
        sys.executable,
        "-c",
        program,
    ]
    return subprocess.run(
        [*command, json.dumps(places), fields.format(folder=str(folder))],
        capture_output=True,
        text=True,
        check=False,
    )


@needs("root")
def test_d5_where_the_container_s_root_can_t_get_to_cover_it_is_refused(reachable: Path) -> None:
    """A guest of another id might get there (by an access control list): so it is no case for passing over."""
    reachable.parent.chmod(0o700)
    done = beside_a_chroot(reachable, NESTED["the whole root"][0], ["/b"])
    assert (
        done.returncode
        and "SpawnError: security.masked_paths: '" in done.stderr
        and "can't get" in done.stderr
    )


NESTED: dict[str, tuple[str, list[str]]] = {
    "a Bind": ("dict(mounts=[Bind({folder!r}, '/b', readonly=True)])", ["/b/deep/proc", "/b/deep/sys", "/b/part"]),
    "the folder below": ("dict(mounts=[Bind({folder!r} + '/deep', '/b', readonly=True)])", ["/b/proc", "/b/sys"]),
    "by a link": ("dict(mounts=[Bind({folder!r} + '-link/deep', '/b', readonly=True)])", ["/b/proc", "/b/sys"]),
    "the whole root": ("dict(mounts=[Bind('/', '/b', readonly=True)])", ["/b{folder}/deep/proc", "/b{folder}/part", "/b/proc"]),
    "the caller's own root": ("dict(rootfs=None)", ["{folder}/deep/proc", "{folder}/deep/sys", "/proc"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_d5_what_is_mounted_below_a_folder_is_covered_and_without_covers_seen(
    name: str, reachable: Path
) -> None:
    """Both in one: with the covers nothing, and the control without them everything."""
    fields, places = NESTED[name]
    places = [place.format(folder=reachable) for place in places]
    done = beside_a_chroot(reachable, fields, places)
    assert done.returncode == 0, done.stderr
    covered, seen = map(json.loads, done.stdout.splitlines())
    assert covered == []
    assert seen == [place for place in places if "proc" in place or os.listdir("/sys/firmware")]


MOUNTS = """
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /sys rw - sysfs sys rw
4 3 0:4 / /sys/fs/cgroup rw - cgroup2 c rw
5 1 8:2 / /srv rw - ext4 /dev/sdb rw
6 5 0:2 / /srv/box/proc rw - proc proc rw
7 5 0:3 /kernel /srv/box/sys rw - sysfs sys rw
8 5 0:2 /sys/net /srv/a\\040b rw - proc proc rw
9 2 0:9 / /proc/fs/over rw - tmpfs t rw
10 5 0:2 / /srv/gone rw - proc proc rw
11 10 0:9 / /srv/gone rw - tmpfs t rw
"""
TREES: dict[str, Shown] = {
    "/usr": (), "/srv/x": (), "/proc": (("/proc", ""),), "/proc/sys": (("/proc/sys", ""),), "/sys/fs": (("/sys/fs", ""),), "/sys/fs/cgroup": (),
    "/processes": (), "/proc/fs/over/x": (), "/srv/box": (("/proc", "proc"), ("/sys/kernel", "sys")), "/srv/box/sys/debug": (("/sys/kernel/debug", ""),),
    "/srv/a b": (("/proc/sys/net", ""),), "/srv/gone/x": (),
    "/": (("/proc", "proc"), ("/sys", "sys"), ("/proc", "srv/box/proc"), ("/sys/kernel", "srv/box/sys"), ("/proc/sys/net", "srv/a b"), ("/proc", "srv/gone")),
}  # fmt: skip


@pytest.mark.parametrize("source", TREES)
def test_which_files_of_the_kernel_a_folder_shows(source: str) -> None:
    assert (
        trees_of({source: source}, parse_mounts(MOUNTS.replace("\\\\", "\\"))).get(source, ())
        == TREES[source]
    )
