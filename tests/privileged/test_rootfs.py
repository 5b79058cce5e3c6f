"""Directory, Overlay and no rootfs at all: what is seen, what is written where, and what stays the caller's."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from privileged.look import ROOT, inside, run, sh

import creche
from creche import Bind, Directory, File, IdMap, Namespaces, Overlay, Spec, Tmpfs
from needs import needs

pytestmark = needs("userns", "native", "busybox", "overlay")

#: Names that options in one string could not hold, or that other runtimes split.
ODD = ["a,b", "a:b", "a\\b", "a b", "ä€𝄞", "new\nline", "quo'te\"", "$(x)`", "-o", "a=b,upperdir=c", "%2f", "tab\there", b"\xff\xfe".decode(errors="surrogateescape")]


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for name in ("top", "bottom", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "top/both").write_text("top")
    (tmp_path / "bottom/both").write_text("bottom")
    (tmp_path / "bottom/only").write_text("only bottom")
    return tmp_path


# ---- Directory ----


def test_a_directory_is_the_root_and_keeps_what_is_written(image: Path) -> None:
    assert sh("ls /etc/passwd; echo kept > /srv/f; cat /srv/f", rootfs=Directory(image)) == "/etc/passwd\nkept"
    kept = image / "srv/f"
    assert kept.read_text() == "kept\n"
    assert kept.stat().st_uid == os.geteuid()  # as an ordinary user its own; as root by an idmapped mount


def test_a_directory_read_only(image: Path) -> None:
    result = run("echo x > /srv/f; echo y > /tmp/y && cat /tmp/y", rootfs=Directory(image, readonly=True))
    assert b"Read-only" in result.stderr and result.stdout == b"y\n"
    assert not (image / "srv/f").exists()


def test_a_relative_directory_counts_from_the_working_directory(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    assert sh("cat /etc/group | head -n 1", rootfs=Directory("image")) == "root:x:0:"


@pytest.mark.parametrize("name", ODD)
def test_a_directory_of_any_name(image: Path, tmp_path: Path, name: str) -> None:
    image.rename(tmp_path / name)
    assert sh("echo in", rootfs=Directory(tmp_path / name)) == "in"


@needs("root")
def test_files_of_others_stay_theirs_through_an_idmapped_root(image: Path) -> None:
    (image / "srv/theirs").write_text("x")
    os.chown(image / "srv/theirs", 7, 8)
    got = sh("stat -c %u:%g /srv/theirs; touch /srv/new; chown 7:8 /srv/new", rootfs=Directory(image), security=creche.Security(capabilities=["CAP_CHOWN"]))
    assert got == "7:8"
    found = (image / "srv/new").stat()
    assert (found.st_uid, found.st_gid) == (7, 8)


# ---- Overlay ----


def test_lowers_are_seen_top_first_and_nothing_is_written_to_them(layers: Path) -> None:
    overlay = Overlay([layers / "top", layers / "bottom"], target="/o")
    assert sh("cat /o/both /o/only; echo new > /o/new; echo changed > /o/both; ls /o", mounts=[overlay]) == "toponly bottomboth\nnew\nonly"
    assert sorted(os.listdir(layers / "top")) == ["both"] and (layers / "top/both").read_text() == "top"
    assert sorted(os.listdir(layers / "bottom")) == ["both", "only"]


def test_a_throw_away_upper_is_thrown_away(image: Path) -> None:
    for _ in range(2):
        assert sh("ls /srv; echo x > /srv/x", rootfs=Overlay([image])) == ""
    assert os.listdir(image / "srv") == []


def test_upper_keeps_what_is_written(layers: Path) -> None:
    overlay = Overlay([layers / "top", layers / "bottom"], layers / "upper", layers / "work", target="/o")
    sh("echo new > /o/new; echo more >> /o/both; rm /o/only", mounts=[overlay])
    assert (layers / "upper/new").read_text() == "new\n"
    assert (layers / "upper/both").read_text() == "topmore\n"
    assert (layers / "upper/new").stat().st_uid == os.geteuid()
    # and is there for the next container, the whiteout too
    assert sh("ls /o; cat /o/new", mounts=[overlay]) == "both\nnew\nnew"
    assert (layers / "bottom/only").exists()


def test_whiteouts_and_opaque_directories_are_seen_right(layers: Path) -> None:
    (layers / "bottom/d").mkdir()
    (layers / "bottom/d/old").write_text("old")
    first = Overlay([layers / "bottom"], layers / "upper", layers / "work", target="/o")
    sh("rm -r /o/d; mkdir /o/d; touch /o/d/fresh; rm /o/only", mounts=[first])
    assert sh("ls /o /o/d", mounts=[first]) == "/o:\nboth\nd\n\n/o/d:\nfresh"
    second = Overlay([layers / "upper", layers / "bottom"], target="/o")
    assert sh("ls /o /o/d", mounts=[second]) == "/o:\nboth\nd\n\n/o/d:\nfresh"


def test_an_overlay_as_the_root_with_upper(image: Path, layers: Path) -> None:
    rootfs = Overlay([image], layers / "upper", layers / "work")
    assert sh("echo x > /srv/x; mkdir /new; ls /", rootfs=rootfs).split() == ["bin", "dev", "etc", "new", "proc", "srv", "tmp"]
    assert (layers / "upper/srv/x").exists() and (layers / "upper/new").is_dir()
    assert not (image / "new").exists()


def test_a_read_only_overlay(image: Path) -> None:
    assert b"Read-only" in run("touch /srv/x", rootfs=Overlay([image], readonly=True)).stderr
    assert b"Read-only" in run("touch /o/x", mounts=[Overlay([image], target="/o", readonly=True)]).stderr


@needs("kernel>=6.7")
def test_more_lowers_than_fit_a_page_of_options(tmp_path: Path) -> None:
    lowers = []
    for index in range(300):
        lower = tmp_path / f"{index:03}{'x' * 60}"
        lower.mkdir()
        (lower / f"{index:03}").write_text("")
        (lower / "both").write_text(str(index))
        lowers.append(lower)
    got = sh("ls /o | wc -l; cat /o/both", mounts=[Overlay(lowers, target="/o")]).split()
    assert got == ["301", "0"]


@pytest.mark.parametrize("name", ODD)
def test_layers_of_any_name(tmp_path: Path, name: str) -> None:
    """A16: what would end an option or begin another is a part of a path; the control of it is that the files are there."""
    folder = tmp_path / name
    for layer in ("lower", "second", "upper", "work"):
        (folder / layer).mkdir(parents=True)
    (folder / "lower/seen").write_text("seen")
    overlay = Overlay([folder / "lower", folder / "second"], folder / "upper", folder / "work", target="/o/" + name)
    assert sh(["sh", "-c", 'cat "$1/seen"; touch "$1/new"', "sh", "/o/" + name], mounts=[overlay]) == "seen"
    assert (folder / "upper/new").exists()


def test_several_in_one_container(layers: Path, image: Path) -> None:
    (layers / "w2").mkdir()
    (layers / "u2").mkdir()
    mounts = [
        Overlay([layers / "top"], target="/a"),
        Overlay([layers / "bottom"], target="/b"),
        Overlay([layers / "top", layers / "bottom"], layers / "u2", layers / "w2", target="/a/c"),
    ]
    rootfs = Overlay([image], layers / "upper", layers / "work")
    got = sh("cat /a/both /b/both /a/c/both; echo 1 > /a/x; echo 2 > /b/x; echo 3 > /a/c/x; cat /a/x /b/x /a/c/x", rootfs=rootfs, mounts=mounts)
    assert got == "topbottomtop1\n2\n3"
    assert (layers / "u2/x").exists() and not (layers / "upper/x").exists()


def test_an_upper_and_work_far_apart_on_one_file_system(tmp_path: Path) -> None:
    for name in ("lower", "here/upper", "there/deep/work"):
        (tmp_path / name).mkdir(parents=True)
    sh("touch /o/f", mounts=[Overlay([tmp_path / "lower"], tmp_path / "here/upper", tmp_path / "there/deep/work", target="/o")])
    assert (tmp_path / "here/upper/f").exists()


@needs("root")
def test_lowers_keep_their_owners_under_a_private_range(layers: Path) -> None:
    os.chown(layers / "bottom/only", 7, 8)
    overlay = Overlay([layers / "bottom"], layers / "upper", layers / "work", target="/o")
    assert sh("stat -c %u:%g /o/only /o/both; echo x >> /o/both", mounts=[overlay]) == "7:8\n0:0"
    found = (layers / "upper/both").stat()
    assert (found.st_uid, found.st_gid) == (0, 0)


# ---- None: the caller's own file system ----


def test_no_rootfs_is_the_callers_file_system(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "f").write_text("here")
    (tmp_path / "f").chmod(0o644)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_mode & 0o001 == 0:
            return_early = ROOT  # root's container is nobody there
            break
    else:
        return_early = False
    if not return_early:
        assert sh(["cat", str(tmp_path / "f")], rootfs=None) == "here"
    assert sh("ls -d /usr /home; ls -d /proc/1 /proc/self", rootfs=None) == "/home\n/usr\n/proc/1\n/proc/self"


def test_without_a_rootfs_mounts_are_the_containers_alone() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    got = sh("ls /srv; cat /srv/f; stat -c %d:%i / /..", rootfs=None, mounts=[Tmpfs("/srv"), File("/srv/f", b"x\n")]).splitlines()
    assert got[:2] == ["f", "x"] and got[2] == got[3]
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not Path("/srv/f").exists()


def test_without_a_mount_namespace_nothing_is_mounted() -> None:
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    got = sh("wc -l < /proc/self/mountinfo", rootfs=None, namespaces=Namespaces(mount=False, pid=False))
    assert int(got) == before


# ---- the working directory ----


def test_the_working_directory_is_inside(image: Path) -> None:
    assert sh("pwd", rootfs=Directory(image)) == "/"
    assert sh("pwd", rootfs=Directory(image), cwd="/srv") == "/srv"
    (image / "link").symlink_to("/srv")
    assert sh("pwd -P", rootfs=Directory(image), cwd="/link") == "/srv"


def test_binds_of_files_and_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("f")
    mounts = [Bind(tmp_path / "d", "/d"), Bind(tmp_path / "d/f", "/deep/er/f", readonly=True), Bind(tmp_path / "none", "/none", optional=True)]
    assert sh("cat /d/f /deep/er/f; echo new > /d/new; echo x > /deep/er/f || echo refused; ls -d /none 2>/dev/null || echo none", mounts=mounts) == "ffrefused\nnone"
    assert (tmp_path / "d/new").read_text() == "new\n" and (tmp_path / "d/f").read_text() == "f"


def test_a_file_and_a_link() -> None:
    mounts = [File("/etc/app.conf", "ünïcode", mode=0o600), creche.Symlink("/etc/app.conf", "/srv/link"), creche.Symlink("nowhere", "/srv/broken")]
    got = sh("cat /srv/link; stat -c ' %a' /etc/app.conf; readlink /srv/broken; echo x > /etc/app.conf || echo refused", mounts=mounts)
    assert got == "ünïcode 600\nnowhere\nrefused"
    writable = [File("/tmp/f", b"a", readonly=False)]
    assert sh("echo b >> /tmp/f; cat /tmp/f", mounts=writable) == "ab"


def test_a_file_of_eight_mebibytes() -> None:
    assert sh("wc -c < /big; tail -c 3 /big", mounts=[File("/big", b"x" * ((8 << 20) - 3) + b"end")]) == "8388608\nend"


def test_what_was_written_is_there_while_the_container_lives(image: Path) -> None:
    async def body(box: creche.Container) -> bytes:
        await box.run(["sh", "-c", "echo x > /srv/x"], check=True)
        return (await box.run(["cat", "/srv/x"])).stdout

    assert inside(body, Spec(rootfs=Overlay([image]))) == b"x\n"


def test_two_at_once_do_not_see_each_others_throw_away_layers(image: Path) -> None:
    async def main() -> list[bytes]:
        spec = Spec(rootfs=Overlay([image]))
        async with creche.Container(spec) as one, creche.Container(spec) as two:
            await one.run(["sh", "-c", "echo one > /srv/x"], check=True)
            return [(await two.run(["ls", "/srv"])).stdout, (await one.run(["cat", "/srv/x"])).stdout]

    assert anyio.run(main) == [b"", b"one\n"]


@needs("root")
def test_an_explicit_map_of_root_to_root_writes_as_root(image: Path) -> None:
    maps = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    sh("echo x > /srv/x", rootfs=Directory(image), **maps)
    assert (image / "srv/x").stat().st_uid == 0
