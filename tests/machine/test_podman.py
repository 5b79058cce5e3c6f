"""Inside a real Podman, with its defaults and with the flags that docs/nested.md gives."""

import errno
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine_surroundings import SOURCE, findings

from needs import needs

pytestmark = [needs("root", "podman", "runc"), pytest.mark.slow]

FLAGS = ("--security-opt=unmask=ALL", "--security-opt=seccomp=unconfined")
Podman = Callable[..., tuple[str, ...]]


@pytest.fixture
def podman() -> Iterator[Podman]:
    """The words that start a program in a container of Podman's, which sees our interpreter and the sources.

    Podman runs in a mount namespace of its own, with its storage and cgroups in places that are removed afterwards.
    """
    place = Path(tempfile.mkdtemp(prefix="p"))  # Podman refuses a runroot of more than 50 characters
    root = place / "root"
    needed = {"/usr", sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), SOURCE}
    for name in ("proc", "sys", "dev", "tmp", "run", "etc", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(f"/{name}"))
        elif Path("/", name).is_dir():
            needed.add(f"/{name}")
    shutil.copy("/etc/passwd", root / "etc")
    parent = f"creche-tests-{os.getpid()}"

    def words(*options: str) -> tuple[str, ...]:
        volumes = [word for path in sorted(needed) for word in ("-v", f"{path}:{path}:ro")]
        stores = (f"--root={place}/store", f"--runroot={place}/run", f"--tmpdir={place}/tmp")
        # two limits, as root here may lack CAP_SYS_RESOURCE to raise those that Podman sets
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=500:500")
        start = ("run", "--rm", "--network=none", f"--cgroup-parent=/{parent}", *limits)
        engine = ("podman", *stores, "--runtime=runc", "--cgroup-manager=cgroupfs", "--log-level=error")
        seen = ("-e", f"PYTHONPATH={SOURCE}")
        return ("unshare", "--mount", *engine, *start, *seen, *volumes, *options, "--rootfs", str(root))

    yield words
    for hierarchy in Path("/sys/fs/cgroup").glob(f"**/{parent}"):
        for folder, _, _ in os.walk(hierarchy, topdown=False):
            _remove_when_empty(folder)
    shutil.rmtree(place)


def _remove_when_empty(folder: str) -> None:
    """Podman's monitor outlives the container by a moment, and a cgroup with a process in it is busy."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return os.rmdir(folder)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_its_defaults_leave_proc_covered(podman: Podman) -> None:
    """Podman's filter lets namespaces through; a fresh /proc is refused, and the flag that helps is Podman's own."""
    found = findings(*podman())
    assert found["version"]["found"].endswith("inside podman")
    assert found["user"]["state"] == "yes"
    assert found["outer seccomp filter"]["found"].startswith("refuses sethostname (EPERM")
    assert "mount too revealing" in found["proc"]["why"]
    assert "--security-opt unmask=ALL" in found["proc"]["fix"]


def test_the_documented_flags_are_enough(podman: Podman) -> None:
    """With unmask=ALL and no filter nothing is in the way any more."""
    found = findings(*podman(*FLAGS))
    assert {
        name for name, finding in found.items() if finding["state"] == "no" and finding["needed"]
    } == set()
    assert "proc" in found["file systems"]["found"]


def test_no_new_privileges_for_an_ordinary_user(podman: Podman) -> None:
    """One user is left, and the rest works."""
    found = findings(*podman(*FLAGS, "--security-opt=no-new-privileges", "--user", "65534:65534"))
    assert found["many users in a container"]["state"] == "no"
    assert "no_new_privs" in found
    assert found["user"]["state"] == "yes"


@needs("native")
@pytest.mark.parametrize(
    ("options", "own", "status", "words"),
    [
        ((), (), 125, "--security-opt unmask=ALL"),
        (("--security-opt=unmask=ALL",), (), 125, "answers sethostname with EPERM"),
        (("--security-opt=unmask=ALL",), ("--uts", "host"), 0, "started"),
        (FLAGS, (), 0, "started"),
        ((*FLAGS, "--security-opt=no-new-privileges", "--user=65534:65534"), (), 0, "started"),
    ],
    ids=["defaults", "unmasked", "unmasked, our host name", "both flags", "an ordinary user"],
)
def test_a_container_in_it(
    podman: Podman, options: tuple[str, ...], own: tuple[str, ...], status: int, words: str
) -> None:
    """It starts, or says in Podman's own words what to change."""
    command = [*podman(*options), sys.executable, "-m", "creche.cli", "run", *own, "echo", "started"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, words in run.stdout + run.stderr) == (status, True), run.stderr


@needs("native", "place-v2")
@pytest.mark.parametrize(
    ("options", "limits", "status", "words"),
    [
        ((), ("--memory", "64M"), 125, "--security-opt unmask=ALL"),
        (FLAGS, ("--memory", "64M"), 137, "give it more than limits.memory of 64M"),
        (FLAGS, (), 0, "held"),
    ],
    ids=["defaults", "both flags", "control"],
)
def test_limits_in_it(podman: Podman, options: tuple[str, ...], limits: tuple[str, ...], status: int, words: str) -> None:
    """With version 2 Podman's flag for /proc makes the container's own cgroup writable, too; without it the refusal names that flag."""
    program = "x = bytearray(200 << 20); print('held')"
    command = [*podman(*options), sys.executable, "-m", "creche.cli", "run", *limits, "python3", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (run.returncode, words in run.stdout + run.stderr) == (status, True), run.stderr
