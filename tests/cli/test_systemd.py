"""The unit of docs/workers.md under a real systemd, as it stands there: readiness, watchdog, reload, deaths, stop."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.project import CRECHE, Folder

from needs import needs

pytestmark = [needs("systemd", "userns"), pytest.mark.slow]

UNIT = re.search(r"^```ini\n(.*?)^```$", (Path(__file__).parents[2] / "docs" / "workers.md").read_text(), re.M | re.S)
PATIENCE = 240.0  # the guest is slow

# The file `go` is what the readiness waits for.
PROJECT = """
name = "creche-test-unit"
[workers.db]
command = ["sh", "-c", "until test -e /srv/go; do sleep 0.1; done; echo listening; exec sleep 1000"]
readiness = { line = "listening" }
shutdown = 1.0
[workers.db.spec]
mounts = [{ type = "bind", source = ".", target = "/srv", readonly = true }]
[workers.web]
command = ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"]
count = 2
shutdown = 1.0
spec = { limits = { pids = 20 } }
"""
READY = {"db": "ready", "web.1": "ready", "web.2": "ready"}


class Service(Folder):
    """The unit, installed until the machine is booted anew: root's is a system's unit of another user, anybody else's his own."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, PROJECT)
        self.unit = "creche-test-unit.service"
        self.root = os.geteuid() == 0
        # as the service, so its user has no runtime directory unless he has logged in
        self.env = {name: value for name, value in self.env.items() if name != "XDG_RUNTIME_DIR"}
        if self.root:
            self.units = Path("/run/systemd/system")
            shutil.chown(path, "nobody")
        else:
            self.env["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]
            self.units = Path(os.environ["XDG_RUNTIME_DIR"]) / "systemd" / "user"

    def install(self) -> None:
        """The text as it is in the document, and beside it what is this machine's: where, who, with which creche."""
        assert UNIT is not None
        text = UNIT[1]
        drop = self.units / f"{self.unit}.d"
        drop.mkdir(parents=True)
        here = [f"WorkingDirectory={self.path}", "User=nobody" if self.root else "User=", "WatchdogSec=8", "TimeoutStartSec=300"]
        here += [f"Environment=PYTHONPATH={os.pathsep.join(path for path in sys.path if path)}"]
        for line in text.splitlines():
            name, _, command = line.partition("=")
            if name in ("ExecStart", "ExecReload"):
                program, words = command.split(" ", 1)
                assert program == "/usr/bin/creche"
                here += [f"{name}=", f"{name}={' '.join(CRECHE)} {words}"]
        (drop / "here.conf").write_text("\n".join(["[Service]", *here, ""]))
        (self.units / self.unit).write_text(text)
        self.systemctl("daemon-reload")

    def remove(self) -> None:
        """Away with all of it."""
        self.systemctl("stop", self.unit, check=False)
        self.systemctl("reset-failed", self.unit, check=False)
        (self.units / self.unit).unlink()
        shutil.rmtree(self.units / f"{self.unit}.d")
        self.systemctl("daemon-reload")
        base = Path(f"/tmp/creche-{pwd.getpwnam('nobody').pw_uid}" if self.root else os.environ["XDG_RUNTIME_DIR"])
        (base / "creche" / "creche-test-unit.lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is somebody's who runs something else, or was never made
            (base / "creche").rmdir()
            if self.root:
                base.rmdir()

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["systemctl", *([] if self.root else ["--user"]), *words]
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert told.returncode == 0 or not check, (command, told, self.journal())
        return told

    def journal(self) -> str:
        """What it is like, for a failure."""
        return self.systemctl("status", "--full", "--lines=30", self.unit, check=False).stdout

    def show(self, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", self.unit).stdout.strip()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As the service's user."""
        who = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if self.root else []
        return subprocess.run(
            [*who, *CRECHE, *arguments], check=False, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=PATIENCE
        )

    def workers(self) -> dict[str, int]:
        """The pids of its workers, all of which are ready."""
        rows = self.rows()
        assert {row["name"]: row["state"] for row in rows} == READY, (rows, self.journal())
        return {row["name"]: row["pid"] for row in rows}

    def when(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"never {what}: {self.journal()}"
            time.sleep(0.1)

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], list[int]]]:
        """Those of the processes in its control group now that live; none of them is ever taken for another."""
        group = Path("/sys/fs/cgroup" + self.show("ControlGroup"))
        pids = [int(pid) for path in group.rglob("cgroup.procs") for pid in path.read_text().split()]
        assert len(pids) >= 1 + 3 * 2 + 2, pids  # creche; an init and a command in each; two have a daemon
        fds = {pid: os.pidfd_open(pid) for pid in pids}
        try:
            yield lambda: [pid for pid, fd in fds.items() if not select.select([fd], [], [], 0)[0]]
        finally:
            for fd in fds.values():
                os.close(fd)


@pytest.fixture
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="creche-unit-", dir="/var/tmp") as folder:
        made = Service(Path(folder))
        try:
            made.install()
            yield made
        finally:
            made.remove()


# The name is what .ci/in-guest goes by: as root here alone, and as the user `tester`, who has a systemd of his own.
@pytest.mark.parametrize("place", [pytest.param("systemd", marks=[] if os.geteuid() == 0 else [needs("systemd-user")])])
def test_the_documented_unit(service: Service, place: str) -> None:
    # Type=notify: it is not active before all of its workers are ready
    service.systemctl("start", "--no-block", service.unit)
    service.when(lambda: service.ps().get("db") == "starting", "starting")
    assert service.show("ActiveState") == "activating"
    (service.path / "go").touch()
    service.when(lambda: service.show("ActiveState") == "active", "active")
    if service.root:  # somebody who has logged in has a runtime directory, and finds it as well
        service.env["XDG_RUNTIME_DIR"] = f"/run/user/{os.stat(service.path).st_uid}"
    first = service.workers()
    if service.root:
        del service.env["XDG_RUNTIME_DIR"]
    assert service.show("StatusText") == "3 workers are ready"
    main = int(service.show("MainPID"))

    # the watchdog is fed: without that it would be ended after 8 seconds, which is seen below
    fed = [service.show("WatchdogTimestampMonotonic")]
    while len(fed) < 4:
        service.when(lambda: service.show("WatchdogTimestampMonotonic") != fed[-1], "fed again")
        fed.append(service.show("WatchdogTimestampMonotonic"))
    assert (service.show("NRestarts"), service.show("MainPID")) == ("0", str(main))

    # a reload changes what changed, and a project that makes no sense is refused with a word
    toml = service.path / "creche.toml"
    toml.write_text(PROJECT.replace('exec sleep 1000"]\ncount', 'exec sleep 2000"]\ncount'))
    service.systemctl("reload", service.unit)
    second = service.workers()
    assert {name for name in READY if second[name] != first[name]} == {"web.1", "web.2"}
    toml.write_text(PROJECT.replace("command", "commadn", 1))
    assert service.systemctl("reload", service.unit, check=False).returncode != 0
    assert service.show("MainPID") == str(main) and service.workers() == second
    toml.write_text(PROJECT)

    # kill -9: it comes back, and of the former nothing is left
    with service.watched() as alive:
        os.kill(main, signal.SIGKILL)
        service.when(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "restarted")
        assert alive() == []

    # one that hangs: the watchdog's control
    with service.watched() as alive:
        os.kill(int(service.show("MainPID")), signal.SIGSTOP)
        service.when(lambda: service.show("NRestarts") == "2" and service.show("ActiveState") == "active", "restarted")
        assert alive() == []
    service.workers()

    # a stop is one of creche's own, within its time, and nothing stays
    with service.watched() as alive:
        group = Path("/sys/fs/cgroup" + service.show("ControlGroup"))
        service.systemctl("stop", service.unit)
        assert (service.show("ActiveState"), service.show("Result"), service.show("ExecMainStatus")) == ("inactive", "success", "0")
        assert alive() == [] and not group.exists()
    assert "does not run" in service.run("ps").stderr
