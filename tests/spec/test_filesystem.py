"""What is seen: roots, mounts, and the paths they name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from spec.refusals import refused

from creche.spec import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    IdMap,
    Mqueue,
    Overlay,
    Proc,
    Spec,
    Symlink,
    Sysfs,
    Tmpfs,
)
from creche.spec.filesystem import FILE_MAX

TARGETS = {
    "Bind": lambda target: Bind("/a", target),
    "Tmpfs": lambda target: Tmpfs(target),
    "Overlay": lambda target: Overlay(["/a"], target=target),
    "File": lambda target: File(target, b""),
    "Symlink": lambda target: Symlink("a", target),
    "Proc": Proc,
    "Sysfs": Sysfs,
    "DevPts": DevPts,
    "Mqueue": Mqueue,
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("/a", "/a"),
        ("//a///b/", "/a/b"),
        ("/./a/.", "/a"),
        (Path("/a/b"), "/a/b"),
        (b"/a\xff", os.fsdecode(b"/a\xff")),
        ("/a,b:c\\d\ne", "/a,b:c\\d\ne"),  # nothing in a name is an option: it stays one path
        ("/..a/b..", "/..a/b.."),
        ("/" + "x" * 255, "/" + "x" * 255),
    ],
)
def test_a_target_is_normalised(kind: str, given: Any, normal: str) -> None:
    assert TARGETS[kind](given).target == normal


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "a",
            "./a",
            "/",
            "//",
            "/.",
            "/..",
            "/a/../b",
            "/a/..",
            "/a\0b",
            b"/a\0",
            3,
            ["/a"],
            "/a\ud800",
        ),
        *("/" + "x" * 256, "/" + "é" * 128, "/x" * 2048),
    ],
)
def test_a_target_is_absolute_and_goes_down_only(kind: str, given: Any) -> None:
    refused(lambda: TARGETS[kind](given), f"{kind}.target")


@pytest.mark.parametrize("given", ["", "a\0", 3, None, ["/a"], "x" * 4096])
def test_a_source_is_a_path(given: Any) -> None:
    refused(lambda: Bind(given, "/a"), "Bind.source")
    refused(lambda: Directory(given), "Directory.path")
    refused(lambda: Overlay([given]), "Overlay.lower[0]")


def test_a_source_may_be_relative_and_stays_as_it_is() -> None:
    assert Bind("./app/../x", "/a").source == "./app/../x"


@pytest.mark.parametrize("field", ["readonly", "nosuid", "nodev", "noexec", "optional", "idmap"])
def test_a_flag_is_true_or_false(field: str) -> None:
    refused(lambda: Bind("/a", "/b", **{field: 1}), f"Bind.{field}", "True or False")
    refused(lambda: Bind("/a", "/b", **{field: "yes"}), f"Bind.{field}")


def test_an_idmapped_bind_maps_both_kinds_of_ids() -> None:
    maps = [IdMap(0, 1000, 1)]
    assert Bind("/a", "/b", uid_map=maps, gid_map=maps).uid_map == tuple(maps)
    refused(lambda: Bind("/a", "/b", uid_map=maps), "Bind.gid_map")
    refused(lambda: Bind("/a", "/b", gid_map=maps), "Bind.uid_map")
    refused(lambda: Bind("/a", "/b", uid_map=maps, gid_map=maps, idmap=False), "Bind.idmap")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"size": 0}, "Tmpfs.size"),
        ({"size": "-1"}, "Tmpfs.size"),
        ({"size": "half"}, "Tmpfs.size"),
        ({"inodes": 0}, "Tmpfs.inodes"),
        ({"mode": 0o2000}, "Tmpfs.mode"),
        ({"mode": -1}, "Tmpfs.mode"),
        ({"mode": "rwx"}, "Tmpfs.mode"),
        ({"mode": "0999"}, "Tmpfs.mode"),
    ],
)
def test_a_tmpfs_is_bounded(given: dict[str, Any], field: str) -> None:
    refused(lambda: Tmpfs("/t", **given), field)


def test_a_mode_may_be_written_in_octal() -> None:
    assert Tmpfs("/t", mode="1777").mode == Tmpfs("/t", mode="0o1777").mode == 0o1777
    assert File("/f", b"", mode="0644").mode == 0o644
    assert Tmpfs("/t", mode="0").mode == 0


def test_a_file_has_bytes() -> None:
    assert File("/f", "é").content == "é".encode()
    assert File("/f", bytearray(b"a")).content == b"a"
    refused(lambda: File("/f", 3), "File.content")
    refused(lambda: File("/f", ["a"]), "File.content")
    refused(lambda: File("/f", "\ud800"), "File.content")
    refused(lambda: File("/f", bytes(FILE_MAX + 1)), "File.content", "8 MiB")
    refused(lambda: File("/f", b"", mode=0o4755), "File.mode")  # no setuid files


def test_a_link_says_anything_but_nothing() -> None:
    assert Symlink("../../x", "/l").source == "../../x"
    refused(lambda: Symlink("", "/l"), "Symlink.source")


def test_proc_hides_by_name() -> None:
    assert Proc(hidepid=2).hidepid == "invisible"
    assert Proc(hidepid="ptraceable", subset="pid").hidepid == "ptraceable"
    for nonsense in (3, True, "all", 2.0):
        refused(lambda nonsense=nonsense: Proc(hidepid=nonsense), "Proc.hidepid")
    refused(lambda: Proc(subset="all"), "Proc.subset")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"lower": []}, "Overlay.lower"),
        ({"lower": "/a"}, "Overlay.lower"),
        ({"lower": ["/a", "/a"]}, "Overlay.lower[1]"),
        ({"lower": [f"/{n}" for n in range(501)]}, "Overlay.lower"),
        ({"lower": ["/a"], "upper": "/u"}, "Overlay.work"),
        ({"lower": ["/a"], "work": "/w"}, "Overlay.upper"),
        ({"lower": ["/a"], "upper": "/u", "work": "/u"}, "Overlay.work"),
        ({"lower": ["/a"], "upper": "/u", "work": "/u/w"}, "Overlay.work"),
        ({"lower": ["/a"], "upper": "/w/u", "work": "/w"}, "Overlay.work"),
        ({"lower": ["/a"], "upper": "/a/u", "work": "/w"}, "Overlay.upper"),
        ({"lower": ["/x", "/u/../u/a"], "upper": "/u", "work": "/w"}, "Overlay.upper"),
        ({"lower": ["/"], "upper": "/u", "work": "/w"}, "Overlay.work"),
    ],
)
def test_layers_do_not_lie_in_one_another(given: dict[str, Any], field: str) -> None:
    refused(lambda: Overlay(**given), field)


def test_layers_with_like_names_are_apart() -> None:
    assert Overlay(["/srv/base"], upper="/srv/base-upper", work="/srv/base-work").upper == "/srv/base-upper"


def test_a_rootfs_is_one_of_four() -> None:
    assert Spec(["a"]).rootfs == HostView()
    assert Spec(["a"], rootfs=None).rootfs is None
    refused(lambda: Spec(["a"], rootfs="/srv"), "rootfs", "Directory")
    refused(lambda: Spec(["a"], rootfs=Bind("/a", "/b")), "rootfs")
    refused(lambda: Spec(["a"], rootfs=Overlay(["/a"], target="/b")), "rootfs.target")


def test_mounts_are_a_list_of_mounts() -> None:
    assert Spec(["a"], mounts=[Tmpfs("/t")]).mounts == (Tmpfs("/t"),)
    refused(lambda: Spec(["a"], mounts=[Tmpfs("/t"), "/a:/b"]), "mounts[1]")
    refused(lambda: Spec(["a"], mounts=Tmpfs("/t")), "mounts", "list")
    refused(lambda: Spec(["a"], mounts=[Overlay(["/a"])]), "mounts[0].target")
    refused(lambda: Spec(["a"], mounts=[HostView()]), "mounts[0]")


def test_devices_are_below_dev() -> None:
    assert Spec(["a"], devices=["/dev//net/tun"]).devices == ("/dev/net/tun",)
    for nonsense in ("/dev", "/etc/passwd", "/dev/../etc/passwd", "fuse"):
        refused(lambda nonsense=nonsense: Spec(["a"], devices=[nonsense]), "devices[0]", "/dev")
    refused(lambda: Spec(["a"], devices="/dev/fuse"), "devices")
