"""What containers share of a HostView: nobody can change it for others, whatever power he has in his own, and it is as fresh as the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from privileged.look import run

import creche
from creche import Bind, Container, Security, SpawnError, Spec, hostview, sharing
from needs import needs

pytestmark = needs("userns", "native", "kernel>=6.15")

POWER = Security(capabilities=["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN"], seccomp=None)

#: Tries to write below argv[1:], by all ways that mounts have: what became of each.
ATTACK = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    return libc.syscall(number, *args)
at = os.fsencode(sys.argv[1])
attr = (ctypes.c_uint64 * 4)(0, 1, 0, 0)  # clears MOUNT_ATTR_RDONLY
print("setattr", call(442, -100, at, 0, attr, 32))
print("remount", libc.mount(None, at, None, 32 | 4096, None), libc.mount(None, at, None, 32, None))
fd = call(433, -100, at, 0)  # fspick
print("reconfigure", fd < 0 or call(431, fd, 0, b"rw", None, 0) | call(431, fd, 7, None, None, 0))
try:
    open(sys.argv[1] + "/planted", "w").write("x")
    print("written")
except OSError as error:
    print("refused", error.errno)
"""


@pytest.fixture(autouse=True)
def one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every container of these tests follows another, and nothing went wrong before."""
    monkeypatch.setattr(sharing, "_not_before", 0.0)
    sharing.worth()


def attack(place: str) -> str:
    return run(["python3", "-I", "-S", "-c", ATTACK, place], security=POWER).stdout.decode()


def test_they_share_one_etc() -> None:
    devices = {run(["stat", "-c", "%d", "/etc"]).stdout for _ in range(3)}
    assert len(devices) == 1


def test_an_etc_with_a_mount_of_ones_own_is_ones_own() -> None:
    shared = run(["stat", "-c", "%d", "/etc"]).stdout  # it stays, so its number is not given again
    mine = run(["stat", "-c", "%d", "/etc"], mounts=[creche.File("/etc/mine", b"x")]).stdout
    assert mine != shared == run(["stat", "-c", "%d", "/etc"]).stdout


@pytest.mark.parametrize("place", ["/etc", "/dev"])
def test_nobody_writes_what_others_read(place: str) -> None:
    told = attack(place)
    assert "setattr 0" in told and "refused 30" in told, told  # its own mount is writable by now, and the file system is not
    assert run(["test", "-e", f"{place}/planted"]).exit.code == 1


def test_the_same_attack_on_what_is_the_containers_own_goes_through() -> None:
    """The control: the root is a tmpfs of each container's own, read-only by its mount alone."""
    assert "written" in attack("/")
    assert run(["test", "-e", "/planted"]).exit.code == 1


def test_devices_and_shared_memory_are_each_containers_own() -> None:
    async def main() -> None:
        async with Container(Spec()) as one, Container(Spec()) as other:
            assert (await one.run(["sh", "-c", "echo x >/dev/shm/a && echo y >/dev/null && echo z >/tmp/a"])).exit.code == 0
            assert (await other.run(["sh", "-c", "ls -A /dev/shm /tmp /dev/mqueue"])).stdout.split() == [b"/dev/mqueue:", b"/dev/shm:", b"/tmp:"]

    anyio.run(main)


def test_after_a_reset_it_is_as_before() -> None:
    async def main() -> None:
        async with Container(Spec()) as box:
            look = "ls -A /; ls -lA --time-style=+ /etc /dev /usr/bin | grep -v mqueue | sort; cat /proc/self/mountinfo | cut -d' ' -f 4- | sort"
            before = (await box.run(["sh", "-c", look])).stdout
            for _ in range(2):
                await box.reset()
            after = (await box.run(["sh", "-c", look])).stdout
            drop = lambda text: [line for line in text.decode().splitlines() if "tmpfs" not in line and "devpts" not in line]  # noqa: E731
            assert "\n".join(drop(after)) == "\n".join(drop(before))

    anyio.run(main)


CHANGES = """
import anyio, creche, os, subprocess, sys
def seen():
    return anyio.run(lambda: creche.run(["sh", "-c", "ls -A /opt; stat -c %d /etc"])).stdout
first, second, third = seen(), seen(), seen()
assert second == third, (second, third)
subprocess.run(["mount", "-t", "tmpfs", "none", "/opt"], check=True)
open("/opt/new", "w").close()
now = seen()
assert b"new" in now, now
subprocess.run(["umount", "/opt"], check=True)
assert b"new" not in seen()
top = sys.argv[1]
def mounted():
    os.mkdir(top + "/folder")
    subprocess.run(["mount", "--bind", top + "/folder", "/opt"], check=True)
    return next(line for line in open("/proc/self/mountinfo") if " /opt " in line)
line = mounted()
open("/opt/one", "w").close()
assert b"one" in seen()
for n in range(50):  # another folder with the same words in the mount table, numbers and all
    os.rename(top + "/folder", top + f"/{n}")
    subprocess.run(["umount", "/opt"], check=True)
    if mounted() == line:
        break
else:
    sys.exit("never the same")
open("/opt/other", "w").close()
now = seen()
assert b"other" in now and b"one" not in now, now
print("well")
"""

COMES_AND_GOES = """
import anyio, creche, subprocess, sys
from creche import sharing
def view():
    anyio.run(lambda: creche.run(["true"]))
    return sharing.mounts()
first, second, third = view(), view(), view()
assert third and second == third, (first, second, third)
subprocess.run("mount -t tmpfs none /mnt && umount /mnt", shell=True, check=True)
assert not sharing.mounts() and view() == third, "it is made anew"
subprocess.run("mount -t tmpfs none /mnt", shell=True, check=True)
assert view() == third + 1
subprocess.run("mount -o remount,ro,bind /mnt", shell=True, check=True)
assert view() == third + 2
print("well")
"""


@needs("root")
@pytest.mark.skipif(not os.path.isdir("/opt"), reason="a host with /opt")
def test_a_mount_that_the_host_makes_is_seen_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run(["unshare", "--mount", sys.executable, "-c", CHANGES, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "well\n", done


@needs("root")
@pytest.mark.skipif(not os.path.isdir("/mnt"), reason="a host with /mnt")
def test_a_mount_that_comes_and_goes_changes_nothing() -> None:
    """As in each run of some container engines: what is shared is not made anew for it."""
    done = subprocess.run(["unshare", "--mount", sys.executable, "-c", COMES_AND_GOES], capture_output=True, text=True, check=False)
    assert done.stdout == "well\n", done


KERNELS = """
import anyio, creche, os, subprocess, sys
top = sys.argv[1]
os.makedirs(top + "/folder/p")
os.symlink("folder", top + "/link")
def seen(name):
    mounts = [creche.Bind(top + "/link", "/x", readonly=True)]
    return anyio.run(lambda: creche.run(["sh", "-c", f"cd /x{name} && wc -c <interrupts && wc -c <version"], mounts=mounts)).stdout.split()
for _ in range(3):  # once more than it takes until the mounts are remembered
    assert seen("/p") == []
subprocess.run(["mount", "-t", "proc", "none", top + "/folder/p"], check=True)
for _ in range(3):
    covered, shown = seen("/p")
    assert covered == b"0" and int(shown) > 0, (covered, shown)
subprocess.run(["umount", top + "/folder/p"], check=True)
os.unlink(top + "/link")
os.symlink("/proc", top + "/link")
covered, shown = seen("")
assert covered == b"0" and int(shown) > 0, (covered, shown)
print("well")
"""


@needs("root")
def test_a_proc_that_the_host_mounts_in_a_folder_is_covered_in_the_next(tmp_path: Path) -> None:
    """Also where the mounts are remembered from one start to the next, and where a link leads to it since."""
    tmp_path.chmod(0o755)
    done = subprocess.run(["unshare", "--mount", sys.executable, "-c", KERNELS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "well\n", done


def test_what_can_not_be_shown_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = hostview.HostListing(trees=(("/usr", True), ("/no-such-folder", True)), links=hostview.listing().links)
    monkeypatch.setattr("creche.starting.listing", lambda: listing)
    with pytest.raises(SpawnError, match="/no-such-folder") as caught:
        run(["true"])
    assert caught.value.field == "rootfs"


TIGHT = """
import anyio, creche
async def main():
    for _ in range(3):
        print((await creche.run(["echo", "well"])).stdout)  # at once: the kernel still counts the user namespace of the last one
anyio.run(main)
"""


@pytest.mark.parametrize(("limit", "told"), [(2, ["b'well\\n'"] * 3), (1, ["b'well\\n'"] * 3), (0, [])])
def test_where_it_can_not_be_made_each_makes_its_own(limit: int, told: list[str]) -> None:
    """For want of user namespaces beside the container's; with none at all, the control, there is no container."""
    script = f'echo {limit} > /proc/sys/user/max_user_namespaces; exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, TIGHT], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == told, done
    assert (done.returncode == 0) is (limit > 0)


def test_a_bind_beside_it_is_writable(tmp_path: Path) -> None:
    assert run(["sh", "-c", "echo x >/here/file"], mounts=[Bind(tmp_path, "/here")]).exit.code == 0
