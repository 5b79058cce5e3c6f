"""Inside a real Podman, with its defaults and with the flags that docs/nested.md gives."""

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine_surroundings import SOURCE, findings

from needs import needs

pytestmark = [needs("root", "podman", "runc"), pytest.mark.slow]

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
            os.rmdir(folder)
    shutil.rmtree(place)


def test_its_defaults_leave_proc_covered(podman: Podman) -> None:
    """Podman's filter lets namespaces through; a fresh /proc is refused, and the flag that helps is Podman's own."""
    found = findings(*podman())
    assert found["version"]["found"].endswith("inside podman")
    assert found["user"]["state"] == "yes"
    assert found["outer seccomp filter"]["state"] == "yes"
    assert "mount too revealing" in found["proc"]["why"]
    assert "--security-opt unmask=ALL" in found["proc"]["fix"]


def test_the_documented_flag_uncovers_it(podman: Podman) -> None:
    """With unmask=ALL every file system of a container can be mounted."""
    found = findings(*podman("--security-opt", "unmask=ALL"))
    assert {
        name for name, finding in found.items() if finding["state"] == "no" and finding["needed"]
    } == set()
    assert "proc" in found["file systems"]["found"]


def test_no_new_privileges_for_an_ordinary_user(podman: Podman) -> None:
    """One user is left, and the rest works."""
    found = findings(
        *podman("--security-opt=unmask=ALL", "--security-opt=no-new-privileges", "--user", "65534:65534")
    )
    assert found["many users in a container"]["state"] == "no"
    assert "no_new_privs" in found
    assert found["user"]["state"] == "yes"
