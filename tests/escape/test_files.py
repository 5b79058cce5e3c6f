"""Families A and B of attacks: files and mounts, and images that attack whoever mounts them. Each with its control."""

from __future__ import annotations

from pathlib import Path

import pytest
from privileged.look import sh

from creche import Directory, File, HostView, Overlay, Tmpfs
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
    from creche import Security

    security = Security(capabilities=["CAP_SYS_ADMIN"], seccomp=None)
    assert sh(["python3", "-c", program], security=security) == "over"
