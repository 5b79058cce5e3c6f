"""Under an AppArmor profile that forbids mounts, as docker-default does: it is named by doctor and run alike."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_surroundings import SOURCE, findings

from needs import needs

pytestmark = [needs("apparmor", "root", "native"), pytest.mark.slow]

NAME = f"creche-tests-{os.getpid()}"
#: Everything but mount: what is not allowed is refused with EACCES.
PROFILE = f"""
profile {NAME} flags=(attach_disconnected) {{
  file,
  capability,
  network,
  signal,
  ptrace,
  unix,
  umount,
}}
"""
CONFINE = """
import os, sys
path = "/proc/self/attr/apparmor/exec"
with open(path if os.path.exists(path) else "/proc/self/attr/exec", "w") as file:
    file.write("exec " + sys.argv[1])
os.execvp(sys.argv[2], sys.argv[2:])
"""
CONFINED = (sys.executable, "-c", CONFINE, NAME)


def _parser(*options: str) -> None:
    """apparmor_parser with securityfs in sight, in a mount namespace of its own."""
    script = 'mountpoint -q "$0" || mount -t securityfs none "$0"; exec apparmor_parser "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "/sys/kernel/security", *options, "-K", "-X"]
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def _profile(tmp_path: Path) -> Iterator[None]:
    file = tmp_path / "profile"
    file.write_text(PROFILE)
    _parser("-r", str(file))
    yield
    _parser("-R", str(file))


def test_the_doctor_names_the_profile() -> None:
    """Namespaces work, mounts do not, and the reason is AppArmor's profile."""
    found = findings(*CONFINED)
    refused = next(finding for name, finding in found.items() if "tmpfs" in name)
    assert refused["found"].startswith("EACCES")
    assert refused["why"] == f"AppArmor's profile {NAME} (enforce) forbids mounts"
    assert found["user"]["state"] == "yes"


def test_a_run_names_the_profile() -> None:
    """The same words from a container that does not start."""
    command = [*CONFINED, sys.executable, "-m", "creche.cli", "run", "true"]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert (run.returncode, f"AppArmor's profile {NAME} (enforce) forbids mounts" in run.stderr) == (
        125,
        True,
    ), run.stderr
