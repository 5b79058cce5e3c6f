"""/dev, /proc, /sys and the sizes of what lies in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from privileged.look import ROOT, python, run, sh

from creche import (
    Bind,
    DevPts,
    Directory,
    File,
    IdMap,
    Mqueue,
    Namespaces,
    Overlay,
    Proc,
    Security,
    Spec,
    SpecError,
    Sysfs,
    Tmpfs,
)
from creche.plan.covered import MASKED, READONLY
from needs import needs

pytestmark = needs("userns", "native", "busybox")
MIB = 1 << 20


@pytest.fixture(params=["view", "directory"])
def root(request: pytest.FixtureRequest, image: Path) -> dict[str, object]:
    return {} if request.param == "view" else {"rootfs": Directory(image)}


def test_dev_has_a_minimum(root: dict[str, object]) -> None:
    names = set(sh("ls /dev", **root).split())
    assert names == {"null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm", "mqueue", "fd", "stdin", "stdout", "stderr"}


@pytest.mark.parametrize(("name", "major", "minor"), [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)])
def test_a_device_is_the_real_one(root: dict[str, object], name: str, major: int, minor: int) -> None:
    assert sh(f"stat -c '%F %t:%T %a' /dev/{name}", **root) == f"character special file {major:x}:{minor:x} 666"


def test_devices_work(root: dict[str, object]) -> None:
    assert sh("echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; cat /dev/null", **root) == "3\n5"
    assert b"No space left" in run("dd if=/dev/zero of=/dev/full bs=1 count=1", **root).stderr


def test_the_hosts_nodes_can_not_be_changed(root: dict[str, object]) -> None:
    """They are the host's inodes, so a mode set here would be set there; root's explicit map makes it their owner."""
    if ROOT:
        root = {**root, "uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    result = run("chmod 666 /dev/null; touch -c /dev/zero", **root)  # what they have already: bait, not damage
    assert result.stderr.count(b"Read-only file system") == 2, result.stderr


@needs("root")
def test_control_a_node_that_is_bound_writable_can_be_changed_by_the_hosts_root() -> None:
    maps = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    assert sh("chmod 666 /n && echo changed", mounts=[Bind("/dev/null", "/n", nodev=False)], **maps) == "changed"


def test_no_more_devices_can_be_made(root: dict[str, object]) -> None:
    assert run("mknod /tmp/sda b 8 0", **root).exit.code != 0


def test_fd_links_lead_to_the_commands_own(root: dict[str, object]) -> None:
    assert sh("echo out > /dev/stdout; echo err > /dev/stderr; readlink /dev/fd; readlink /dev/stdin; cat /dev/stdin", input=b"in", **root) == (
        "out\n/proc/self/fd\n/proc/self/fd/0\nin"
    )


def test_a_terminal_is_the_containers_own(root: dict[str, object]) -> None:
    code = (
        "import os, stat; m, s = os.openpty(); print(os.ttyname(s));"
        "print(oct(stat.S_IMODE(os.stat('/dev/ptmx').st_mode)), os.readlink('/dev/ptmx'), sorted(os.listdir('/dev/pts')))"
    )
    if not root:
        assert sh(["python3", "-c", code]) == "/dev/pts/0\n0o666 pts/ptmx ['0', 'ptmx']"
    assert sh("ls /dev/pts; readlink /dev/ptmx", **root) == "ptmx\npts/ptmx"


def test_there_is_no_controlling_terminal(root: dict[str, object]) -> None:
    assert run("echo x > /dev/tty", **root).exit.code != 0


def test_a_device_of_the_host_by_its_path(root: dict[str, object]) -> None:
    assert sh("stat -c '%t:%T' /dev/shm/../kmsg 2>/dev/null || stat -c '%t:%T' /dev/ptmx2 2>/dev/null || echo none", **root) == "none"
    assert sh("stat -c '%F %t:%T' /dev/kmsg", devices=["/dev/kmsg"], **root) == "character special file 1:b"


# ---- proc ----


def test_proc_shows_the_containers_processes_alone(root: dict[str, object]) -> None:
    pids = sh("ls /proc", **root).split()
    assert {name for name in pids if name.isdigit()} <= {"1", "2", "3"}


@pytest.mark.parametrize("name", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kallsyms", "/proc/interrupts", "/proc/iomem", "/proc/slabinfo"])
def test_masked_files_show_nothing(name: str) -> None:
    assert name in MASKED
    assert run(["cat", name]).stdout == b""


def test_a_masked_directory_is_empty() -> None:
    for name in ("/proc/driver", "/proc/acpi", "/proc/asound", "/proc/scsi"):
        assert run(["ls", "-A", name]).stdout == b""


@pytest.mark.parametrize("as_the_hosts_root", [False, True])
def test_proc_sys_and_its_like_are_read_only(as_the_hosts_root: bool) -> None:
    """A sysctl compares ids before it asks for a capability: the host's root would be let in, were it not read-only."""
    code = """
        import errno, os, sys
        for path in sys.argv[1:]:
            try: os.close(os.open(path, os.O_WRONLY))
            except OSError as error: print(errno.errorcode[error.errno])
            else: print("open")
    """
    maps: dict[str, object] = {}
    if as_the_hosts_root and ROOT:
        maps = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"]
    there = [path for path in paths if Path(path).exists()]
    answers = set(python(code, *there, **maps).split())
    assert answers <= {"EROFS", "EACCES", "ENOENT"}
    assert answers == {"EROFS"} if maps else "open" not in answers
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(READONLY)


def test_control_without_the_read_only_paths_proc_sys_is_writable() -> None:
    """What is the namespace's own may be written to by its root: so the read-only mount is what keeps it."""
    path = "/proc/sys/user/max_ipc_namespaces"
    open_it = f"import os; os.close(os.open({path!r}, os.O_WRONLY)); print('open')"
    assert run(["python3", "-c", open_it], security=Security(readonly_paths=[], capabilities=["CAP_SYS_RESOURCE"])).stdout == b"open\n"
    assert b"Read-only" in run(["python3", "-c", open_it], security=Security(capabilities=["CAP_SYS_RESOURCE"])).stderr


def test_masks_and_read_only_paths_of_ones_own_replace_the_defaults(image: Path) -> None:
    (image / "secret").write_text("s3cret")
    (image / "folder").mkdir()
    (image / "folder/file").write_text("x")
    (image / "srv/kept").write_text("kept")
    security = Security(masked_paths=["/secret", "/folder", "/not/there"], readonly_paths=["/srv", "/not/there/either"])
    got = sh("cat /secret; ls -A /folder; cat /srv/kept; echo x > /srv/new || echo refused; echo y > /tmp/y; head -c 1 /proc/version", rootfs=Directory(image), security=security)
    assert got == "keptrefused\nL"


def test_proc_with_options() -> None:
    assert run("ls /proc/sys", mounts=[Proc(subset="pid")]).exit.code != 0
    options = sh("grep ' /proc proc' /proc/mounts", mounts=[Proc(hidepid="invisible")])
    assert "hidepid=invisible" in options


def test_sysfs_is_there_when_asked_for_and_read_only() -> None:
    assert run(["ls", "/sys"]).exit.code != 0
    result = sh("ls /sys/class/net; cat /sys/class/net/lo/operstate; echo x > /sys/kernel/uevent_helper 2>/dev/null || echo refused; ls -A /sys/firmware", mounts=[Sysfs()])
    assert result.split() == ["lo", "unknown", "refused"]
    with pytest.raises(SpecError, match="network"):
        run(["true"], mounts=[Sysfs()], namespaces=Namespaces(network=False))


def test_mqueue_and_devpts_may_be_mounted_elsewhere(root: dict[str, object]) -> None:
    got = sh("grep -c ' /srv/q mqueue' /proc/mounts; ls /srv/pts", mounts=[Tmpfs("/srv"), Mqueue("/srv/q"), DevPts("/srv/pts")], **root)
    assert got == "1\nptmx"


# ---- sizes ----

FILL = """
import errno, os, sys
path, part = sys.argv[1], b"x" * (1 << 20)
fd, total = os.open(path + "/fill", os.O_WRONLY | os.O_CREAT, 0o600), 0
try:
    while total < 1 << 30:
        total += os.write(fd, part)
except OSError as error:
    print(total >> 20, errno.errorcode[error.errno])
"""
FILES = """
import errno, os, sys
made = 0
try:
    while made < 200_000:
        os.close(os.open(f"{sys.argv[1]}/{made}", os.O_WRONLY | os.O_CREAT))
        made += 1
except OSError as error:
    print(made, errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("path", "mount", "mib"),
    [("/tmp", None, 256), ("/dev/shm", None, 64), ("/t", Tmpfs("/t"), 64), ("/t", Tmpfs("/t", size="3M"), 3), ("/usr/o", Overlay(["/etc/alternatives"], target="/usr/o"), 512)],
    ids=["tmp", "shm", "Tmpfs", "Tmpfs of a size", "throw-away upper"],
)
@pytest.mark.slow
def test_what_lies_in_memory_has_a_size(path: str, mount: Tmpfs | Overlay | None, mib: int) -> None:
    if path == "/usr/o":
        mount, path = Overlay(["/etc/alternatives"], target="/o"), "/o"
    total, error = sh(["python3", "-c", FILL, path], mounts=[mount] if mount else []).split()
    assert error == "ENOSPC" and mib - 2 <= int(total) <= mib


@pytest.mark.parametrize(
    ("path", "mount", "most"),
    [("/dev/shm", None, 16384), ("/t", Tmpfs("/t", inodes=100), 100), ("/t", Tmpfs("/t", size="8M"), 2048), ("/o", Overlay(["/etc/alternatives"], target="/o"), 65536), ("/tmp", None, 65536)],
    ids=["shm", "Tmpfs with inodes", "Tmpfs", "throw-away upper", "tmp"],
)
@pytest.mark.slow
def test_what_lies_in_memory_has_a_number_of_files(path: str, mount: Tmpfs | Overlay | None, most: int) -> None:
    """A18, an inode bomb; the control is the same with another number: each goes as far as its own."""
    made, error = sh(["python3", "-c", FILES, path], mounts=[mount] if mount else []).split()
    assert error == "ENOSPC" and most * 0.9 <= int(made) <= most


@pytest.mark.parametrize(("path", "mounts"), [("/tmp", []), ("/dev/shm", []), ("/t", [Tmpfs("/t")]), ("/", []), ("/dev/pts", []), ("/proc", []), ("/dev/mqueue", []), ("/f", [File("/f", b"")])])
def test_is_mounted_nosuid_and_nodev(path: str, mounts: list[object]) -> None:
    options = sh(f"grep ' {path} ' /proc/self/mountinfo | head -n 1", mounts=mounts).split()[5].split(",")
    assert "nosuid" in options
    assert "nodev" in options or path == "/dev/pts"


def test_a_tmpfs_has_the_mode_and_the_flags_that_were_asked_for() -> None:
    mounts = [Tmpfs("/a", mode=0o1777, noexec=True), Tmpfs("/b", readonly=True), Tmpfs("/c", nosuid=False, nodev=False)]
    assert sh("stat -c %a /a /b /c", mounts=mounts) == "1777\n755\n755"
    info = {line.split()[4]: set(line.split()[5].split(",")) for line in sh(["cat", "/proc/self/mountinfo"], mounts=mounts).splitlines()}
    assert {"noexec", "rw"} <= info["/a"] and "ro" in info["/b"] and not info["/c"] & {"nosuid", "nodev"}
    assert run("cp /bin/true /a && /a/true", mounts=mounts).exit.code == 126
    assert b"Read-only" in run("touch /b/x", mounts=mounts).stderr


def test_copy_up_shows_what_the_root_has_there_and_keeps_changes_to_itself(image: Path) -> None:
    (image / "srv/a").write_text("from the image")
    mounts = [Tmpfs("/srv", copy_up=True)]
    assert sh("cat /srv/a; echo new > /srv/a; echo b > /srv/b; cat /srv/a /srv/b", rootfs=Directory(image), mounts=mounts) == "from the imagenew\nb"
    assert (image / "srv/a").read_text() == "from the image" and not (image / "srv/b").exists()


def test_a_mount_over_another_covers_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("bound")
    tmp_path.chmod(0o755)
    mounts = [Tmpfs("/t"), File("/t/f", b"one"), File("/t/f", b"two", mode=0o600), Bind(tmp_path, "/t", readonly=True)]
    assert sh("ls /t", mounts=mounts) == "f"
    assert Spec(["true"], mounts=mounts).mounts[0] == Tmpfs("/t")
