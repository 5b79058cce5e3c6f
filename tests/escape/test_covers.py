"""Family D, wherever they lie: what is covered in /proc and /sys is covered in each mount that shows it, at whatever target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, run, sh

from creche import Bind, Directory, IdMap, Namespaces, Proc, Security, Sysfs, Tmpfs
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
