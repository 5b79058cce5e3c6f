"""Machine: parsers as tables, and the real probe against what the kernel says by other ways."""

import os
import subprocess
import sys

import pytest

from creche import _surroundings as surroundings
from creche.machine import (
    DEFAULT_SUBID_COUNT,
    DEFAULT_SUBID_START,
    Extent,
    Helper,
    Machine,
    capability_names,
    parse_id_map,
    parse_sub_ids,
    probe,
    sub_ids,
)

WHOLE = (Extent(0, 0, 0xFFFF_FFFF),)
DEFAULT = ((DEFAULT_SUBID_START, DEFAULT_SUBID_COUNT),)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-fc-v782", (6, 18, 44)),
        ("5.14.0-503.el9.x86_64", (5, 14, 0)),
        ("6.1", (6, 1, 0)),
        ("6.6.87.2-microsoft-standard-WSL2", (6, 6, 87)),
        ("nonsense", (0, 0, 0)),
    ],
)
def test_releases_become_numbers(release: str, version: tuple[int, int, int]) -> None:
    """Distribution suffixes do not matter."""
    assert surroundings.parse_release(release) == version


def test_capability_masks() -> None:
    """Bit 0 is CAP_CHOWN and bit 40 CAP_CHECKPOINT_RESTORE, as in linux/capability.h."""
    assert capability_names("0000000000000000") == frozenset()
    assert capability_names("0000010000000001") == {"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}
    assert capability_names("0000000000200000") == {"CAP_SYS_ADMIN"}


def test_id_maps() -> None:
    """The kernel's columns are separated by any number of blanks; no lines is no map."""
    assert parse_id_map("         0       1000          1\n         1     100000      65536\n") == (
        Extent(0, 1000, 1),
        Extent(1, 100_000, 65_536),
    )
    assert parse_id_map("") == ()


def test_sub_ids_by_name_and_by_number_and_broken_lines() -> None:
    """subuid(5) allows names and numbers; whatever is broken, or beyond 32 bits, gives nothing."""
    text = "anna:100000:65536\n1000:300000:10\nbert:1:2\nanna:x:1\nanna:5\nanna:4294967295:5\nanna:7:0\n"
    assert parse_sub_ids(text, ["1000", "anna"]) == ((100_000, 65_536), (300_000, 10))


@pytest.mark.parametrize(
    ("text", "name", "uid", "may_map", "id_map", "ranges", "source"),
    [
        ("anna:1:2", "anna", 1000, False, WHOLE, ((1, 2),), "/etc/subuid"),
        ("", "anna", 1000, False, WHOLE, (), "none"),
        ("creche:9:9\nroot:1:2", "root", 0, True, WHOLE, ((9, 9),), "/etc/subuid (creche)"),
        ("root:1:2", "root", 0, True, WHOLE, ((1, 2),), "/etc/subuid (root)"),
        ("", "root", 0, True, WHOLE, DEFAULT, "default"),
        ("creche:9:9", "anna", 1000, False, WHOLE, (), "none"),
        # root in a rootless container: it can't give what it does not have
        (
            "",
            "root",
            0,
            True,
            (Extent(0, 1000, 1), Extent(1, 100_000, 65_536)),
            ((32_769, 32_768),),
            "the upper",
        ),
        ("", "root", 0, True, (Extent(0, 1000, 1),), (), "none"),
    ],
)
def test_which_ids_the_caller_may_give(text, name, uid, may_map, id_map, ranges, source) -> None:  # type: ignore[no-untyped-def]
    """A user has what subuid(5) names; root has creche's lines, its own, or the documented default."""
    found, where = sub_ids(text, name, uid, may_map, id_map)
    assert (found, where[: len(source)]) == (ranges, source)


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 22 0:22 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
24 22 0:23 /null /proc/kcore rw - tmpfs tmpfs rw
25 22 0:21 /sys /proc/sys ro - proc proc rw
26 27 0:24 / /mnt/with\\040space ro,nosuid - tmpfs x rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
"""


def test_mountinfo_and_masks() -> None:
    """Only mounts over /proc that the kernel counts are masks: its own empty mount points are not."""
    mounts = surroundings.parse_mounts(MOUNTS)
    assert surroundings.Mount("/mnt/with space", "tmpfs", "/", True) in mounts
    assert surroundings.masks(mounts, "/proc", "proc") == ("/proc/kcore", "/proc/sys")


def test_a_second_unmasked_proc_makes_masks_harmless() -> None:
    """The kernel looks for any fully visible proc in the namespace, not only for the one on /proc."""
    mounts = surroundings.parse_mounts(MOUNTS + "30 27 0:99 / /srv/proc rw - proc proc rw\n")
    assert surroundings.masks(mounts, "/proc", "proc") == ()


@pytest.mark.parametrize(
    ("change", "many"),
    [
        ({}, True),
        ({"subuid": ()}, False),
        ({"no_new_privs": True}, False),
        ({"newgidmap": None}, False),
        ({"newuidmap": Helper("/usr/bin/newuidmap", False)}, False),
        ({"newuidmap": None, "capabilities": frozenset({"CAP_SETUID", "CAP_SETGID"})}, True),
        ({"newuidmap": None, "capabilities": frozenset({"CAP_SETUID"})}, False),
    ],
)
def test_many_ids_needs_ranges_and_a_way_to_map_them(change: dict[str, object], many: bool) -> None:
    """A setuid helper is no use under no_new_privs, and one capability of two is no use either."""
    import attrs

    assert attrs.evolve(Machine.example(), **change).many_ids is many


def test_examples_are_what_they_say() -> None:
    """The two machines that tests start from."""
    user, root = Machine.example(), Machine.example_root()
    assert (user.is_root, root.is_root) == (False, True)
    assert user.initial_user_namespace and user.supported


def test_the_probe_agrees_with_the_process() -> None:
    """What probe() says of this very process, asked another way."""
    machine = probe(fresh=True)
    assert (machine.uid, machine.euid, machine.gid) == (os.getuid(), os.geteuid(), os.getgid())
    assert machine.groups == tuple(os.getgroups())
    assert machine.release == os.uname().release
    assert probe() is machine


def test_the_probe_is_read_again_under_another_id() -> None:
    """What was read as one user must not be told to another: the cache's key holds the ids."""
    code = (
        "import os; from creche.machine import probe; a = probe(); "
        "os.geteuid() == 0 and os.seteuid(65534); b = probe(); print(a.euid, b.euid, b.is_root)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    expected = "65534" if os.geteuid() == 0 else str(os.geteuid())
    assert out[1:] == [expected, "False"]


def test_a_user_namespace_is_seen() -> None:
    """In a namespace with one id the probe says so, and finds nothing to give."""
    code = "from creche.machine import probe; m = probe(); print(m.initial_user_namespace, m.is_root, m.many_ids)"
    run = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "True", "False"]


def test_landlock_is_asked_only_when_wanted() -> None:
    """ctypes costs milliseconds, and most spawns want no Landlock."""
    code = (
        "import sys; from creche.machine import probe; m = probe(); "
        "print('ctypes' in sys.modules, m.landlock_abi, probe(landlock=True).landlock_abi >= 0)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out == ["False", "None", "True"]
