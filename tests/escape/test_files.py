"""Families A and B of attacks: files and mounts, and images that attack whoever mounts them. Each with its control."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from privileged.look import run, sh

from creche import Bind, Directory, File, HostView, IdMap, Overlay, Security, Tmpfs
from needs import needs

pytestmark = needs("userns", "native", "busybox")


# ---- A5: the old root ----

WHAT_LIES_OVER = "for at in /.. /../.. ; do stat -c %d:%i $at; done; stat -c %d:%i /; ls -a /.. | tr '\\n' ' '; echo; ls -a / | tr '\\n' ' '"


@pytest.mark.parametrize("kind", ["view", "directory", "overlay", "overlay with upper"])
def test_nothing_lies_over_or_above_the_root(image: Path, tmp_path: Path, kind: str) -> None:
    """What was laid over "/" while the root was built (the old root, layers, contents of files) would be at "/.."."""
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    (image / "over").mkdir()
    rootfs = {
        "view": HostView(),
        "directory": Directory(image),
        "overlay": Overlay([image]),
        "overlay with upper": Overlay([image], tmp_path / "upper", tmp_path / "work"),
    }[kind]
    mounts = [File("/tmp/x", b"x"), Overlay([image / "etc"], target="/tmp/o"), Tmpfs("/tmp/etc", copy_up=False)]
    lines = sh(WHAT_LIES_OVER, rootfs=rootfs, mounts=mounts).splitlines()
    assert lines[0] == lines[1] == lines[2]
    assert lines[3] == lines[4]
    assert "old_root" not in sh("cat /proc/self/mountinfo", rootfs=rootfs, mounts=mounts)


def test_control_what_lies_over_a_root_is_seen_at_dot_dot() -> None:
    """The same look shows a mount that does lie over the root: the test above can see."""
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', b'tmpfs', 0, None) == 0, ctypes.get_errno()\n"
        "assert os.stat('/..').st_dev != os.stat('/').st_dev\n"
        "print('over')\n"
    )
    security = Security(capabilities=["CAP_SYS_ADMIN"], seccomp=None)
    assert sh(["python3", "-c", program], security=security) == "over"


# ---- A3: what is mounted below a read-only bind ----

BELOW = """
import ctypes, os, sys, anyio, creche
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1]
os.makedirs(folder + "/sub")
assert libc.mount(b"none", (folder + "/sub").encode(), b"tmpfs", 0, None) == 0, ctypes.get_errno()
os.chmod(folder + "/sub", 0o777)
async def main():
    script = "echo x > /b/f 2>/dev/null && echo wrote; echo x > /b/sub/f 2>/dev/null && echo wrote below; cat /proc/self/mountinfo | grep -c ' /b/sub ro,'"
    for readonly in (True, False):
        bind = creche.Bind(folder, "/b", readonly=readonly, idmap=False if not readonly else None)
        result = await creche.run(["sh", "-c", script], mounts=[bind])
        print(result.stdout.decode().split("\\n"))
anyio.run(main)
"""


def test_a3_a_mount_below_a_read_only_bind_is_read_only(tmp_path: Path) -> None:
    """In a mount namespace of the test's own, for a mount below there must be one. The writable bind is its control."""
    tmp_path.chmod(0o777)
    unshare = ["unshare", "--mount", "--propagation", "private", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    done = subprocess.run([*unshare, sys.executable, "-c", BELOW, str(tmp_path / "b")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held, control = done.stdout.splitlines()
    assert held == "['1', '']" and "wrote below" in control and "'0'" in control


# ---- A9: nodes that lie ready ----

OPEN = "import errno, os, sys\ntry: os.close(os.open(sys.argv[1], os.O_RDONLY)); print('opened')\nexcept OSError as error: print(errno.errorcode[error.errno])"


@needs("root")
def test_a9_a_device_node_in_a_bind_or_a_root_is_of_no_use(tmp_path: Path, image: Path) -> None:
    """The bait is another node of the null device: a harmless one."""
    tmp_path.chmod(0o755)
    for folder in (tmp_path, image / "srv"):
        os.mknod(folder / "node", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (folder / "node").chmod(0o666)
    for bind in (Bind(tmp_path, "/b"), Bind(tmp_path, "/b", readonly=True), Bind(tmp_path, "/b", idmap=False)):
        assert sh(["python3", "-c", OPEN, "/b/node"], mounts=[bind]) == "EACCES"
    assert b"denied" in run("cat /srv/node", rootfs=Directory(image)).stderr
    assert b"denied" in run("cat /srv/node", rootfs=Overlay([image])).stderr
    assert b"denied" in run("cat /o/node", mounts=[Overlay([image / "srv"], target="/o")]).stderr
    assert sh(["python3", "-c", OPEN, "/b/node"], mounts=[Bind(tmp_path, "/b", nodev=False)]) == "opened"  # the control


# ---- A10, A11: programs that give ids ----


@needs("root")
def test_a10_a_setuid_program_in_a_bind_gives_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    program = shutil.copy("/usr/bin/id", tmp_path / "id")
    os.chown(program, 7, 7)
    os.chmod(program, 0o6755)
    readable: dict[str, Any] = {"user": 5, "mounts": [Bind(tmp_path, "/b", idmap=True)]}
    assert sh(["/b/id", "-u"], **readable) == "5"
    assert sh(["/b/id", "-u"], user=5, mounts=[Bind(tmp_path, "/b", nosuid=False)]) == "5"  # no_new_privs alone
    assert sh(["/b/id", "-u"], user=5, mounts=[Bind(tmp_path, "/b")], security=Security(no_new_privs=False, seccomp=None)) == "5"  # nosuid alone
    both_gone: dict[str, Any] = {"mounts": [Bind(tmp_path, "/b", nosuid=False)], "security": Security(no_new_privs=False, seccomp=None)}
    assert sh(["/b/id", "-u"], user=5, **both_gone) == "7"  # the control


def test_a11_a_setuid_program_made_in_a_writable_bind(tmp_path: Path) -> None:
    """It is its maker's on the host. As root, whose binds are idmapped, that is root: so the bind must be where nobody else can go."""
    tmp_path.chmod(0o700)
    sh("cp /bin/true /b/t && chmod 4755 /b/t", mounts=[Bind(tmp_path, "/b")])
    found = (tmp_path / "t").stat()
    assert found.st_uid == os.geteuid() and found.st_mode & 0o4000
    private = tmp_path / "private"
    private.mkdir(mode=0o777)
    private.chmod(0o777)
    if os.geteuid() == 0:
        sh("cp /bin/true /b/t && chmod 4755 /b/t", mounts=[Bind(private, "/b", idmap=False)])
        assert (private / "t").stat().st_uid >= 100_000  # nobody's: the way to share a folder with others


# ---- A15: layers that point elsewhere ----


@needs("root", "overlay")
def test_a15_a_layer_that_redirects_is_not_followed(tmp_path: Path) -> None:
    """A directory that says it was renamed shows what lies at its old place in the lowers, which its maker could not read."""
    for name in ("top/d", "bottom/hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bottom/hidden/secret").write_text("s3cret")
    (tmp_path / "bottom/hidden").chmod(0o700)
    for namespace in ("user", "trusted"):
        os.setxattr(tmp_path / "top/d", f"{namespace}.overlay.redirect", b"/hidden")
    result = run("ls -A /o/d; ls /o", mounts=[Overlay([tmp_path / "top", tmp_path / "bottom"], target="/o")])
    assert result.stdout == b"d\nhidden\n"  # the kernel refuses to look at what it was told not to follow
    program = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "top = sys.argv[1]\n"
        "assert libc.unshare(0x20000) == 0 and libc.mount(None, b'/', None, 0x44000, None) == 0\n"
        "options = f'lowerdir={top}/top:{top}/bottom,redirect_dir=follow'.encode()\n"
        "os.mkdir(top + '/o')\n"
        "assert libc.mount(b'overlay', (top + '/o').encode(), b'overlay', 0, options) == 0, ctypes.get_errno()\n"
        "print(os.listdir(top + '/o/d'))\n"
    )
    control = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert control.stdout == "['secret']\n"


# ---- A19, A20: the host's own files ----


@needs("root")
def test_a20_the_hosts_root_inside_reads_no_secrets() -> None:
    """Mapped to itself it could: what keeps it from them is that they are not there."""
    maps: dict[str, Any] = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    for path in ("/etc/shadow", "/etc/gshadow", "/root/.profile", "/etc/machine-id"):
        assert run(["test", "-e", path], **maps).exit.code == 1
    assert sh(["head", "-c", "4", "/etc/shadow"], rootfs=None, **maps) == "root"  # the control
    assert b"denied" in run(["cat", "/etc/shadow"], rootfs=None).stderr  # and in its private range root is nobody


def test_a23_the_mount_table_names_nobody() -> None:
    """Paths that creche itself makes have no user's name and no token in them."""
    table = sh("cat /proc/self/mountinfo", rootfs=HostView(), mounts=[Overlay(["/usr/share/zoneinfo"], target="/tmp/o"), File("/tmp/f", b"x")])
    assert "/home" not in table and "creche" not in table.replace("/creche-test", "")
