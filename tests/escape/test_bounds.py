"""Family I: what a guest tries against the machine's resources. Bombs are bounded themselves, and their bound is the failure."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import anyio
import pytest
from privileged.look import inside, run

from creche import CgroupError, Container, Limits, Overlay, Reason, Spec, SpecError, Tmpfs, UnsupportedError
from needs import needs

pytestmark = needs("userns", "native")
PYTHON = ["python3", "-I", "-S", "-c"]

# ---- I1: processes and threads ----

BOMBS = {
    "forks": "import os\nmade = 0\ntry:\n    while made < 300:\n        if not os.fork():\n            import time; time.sleep(60); os._exit(0)\n        made += 1\nexcept OSError as error: print(made, error.errno, flush=True)\nelse: print(made, 0, flush=True)\nos._exit(0)",
    "threads": "import threading, time, os\nmade = 0\ntry:\n    while made < 300:\n        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); made += 1\nexcept RuntimeError: print(made, 11, flush=True)\nelse: print(made, 0, flush=True)\nos._exit(0)",
    "orphans in sessions of their own": "import os\nmade = 0\ntry:\n    while made < 300:\n        if not os.fork():\n            os.setsid()\n            import time; time.sleep(60); os._exit(0)\n        made += 1\nexcept OSError as error: print(made, error.errno, flush=True)\nelse: print(made, 0, flush=True)\nos._exit(0)",
    "clone without a signal": "import ctypes, os\nlibc, made = ctypes.CDLL(None, use_errno=True), 0\nnumber = 56 if os.uname().machine == 'x86_64' else 220\nwhile made < 300:\n    child = libc.syscall(number, 0, 0, 0, 0, 0)\n    if child < 0: break\n    if not child:\n        import time; time.sleep(60); os._exit(0)\n    made += 1\nprint(made, ctypes.get_errno() if made < 300 else 0, flush=True)\nos._exit(0)",
}  # fmt: skip


@needs("limits")
@pytest.mark.parametrize("bomb", BOMBS)
def test_i1_a_bomb_of(bomb: str) -> None:
    made, error = run([*PYTHON, BOMBS[bomb]], limits=Limits(pids=40)).stdout.split()
    assert int(made) < 40 and error == b"11"  # EAGAIN
    control = run([*PYTHON, BOMBS[bomb]], limits=Limits(pids=1000)).stdout.split()
    assert control == [b"300", b"0"], "without the limit it is one"


# ---- I1: terminals, of which there is a number for all containers together ----

TERMINALS = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
made = []
try:
    while len(made) < 1100:
        made.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error:
    print(len(made), error.errno)
else:
    print(len(made), 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048, reason="so many descriptors are not to be had here (a hard limit of nofile)")
def test_i1_terminals_end() -> None:
    assert run([*PYTHON, TERMINALS]).stdout.split() == [b"1024", b"28"]  # ENOSPC
    control = subprocess.run(["python3", "-I", "-S", "-c", TERMINALS], capture_output=True, check=True)
    assert control.stdout.split() == [b"1100", b"0"]


# ---- F21: ranks that need no capability, which a supervisor may have been given (sched(7)) ----

RANKED = """
import anyio, creche, sys
attack = "import os\\ntry: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2)); os.setpriority(os.PRIO_PROCESS, 0, -5); print('achieved')\\nexcept OSError as error: print(error.errno)"
asked = {"rlimits": {"rtprio": 5, "nice": 30}} if len(sys.argv) > 1 else {}
print(anyio.run(lambda: creche.run(["python3", "-I", "-S", "-c", attack], **asked)).stdout.decode())
"""


@pytest.mark.guest
@needs("ranks")
@pytest.mark.parametrize("user", [[], ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]], ids=["root", "an ordinary user"])
@pytest.mark.parametrize(("asked", "answer"), [([], "1"), (["asked"], "achieved")], ids=["by default", "control: asked for"])
def test_f21_a_supervisors_ranks_are_not_a_guests(user: list[str], asked: list[str], answer: str) -> None:
    done = subprocess.run(["prlimit", "--rtprio=5", "--nice=30", *user, sys.executable, "-c", RANKED, *asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == answer, done.stderr


# ---- I2, I3: memory, also such as belongs to no process ----

HOGS = {
    "touched pages": "x = bytearray(128 << 20)",
    "forks' copies": "import os\nx = bytearray(24 << 20)\nfor _ in range(6):\n    if not os.fork():\n        for at in range(0, len(x), 4096): x[at] = 1\n        import time; time.sleep(2); os._exit(0)\nimport time; time.sleep(1)\nfor _ in range(6): assert os.wait()[1] == 0",
    "a memfd": "import os\nf = os.memfd_create('x')\nfor _ in range(128): os.write(f, bytes(1 << 20))",
    "unlinked files in /tmp": "import os\nf = os.open('/tmp/x', os.O_RDWR | os.O_CREAT); os.unlink('/tmp/x')\nfor _ in range(128): os.write(f, bytes(1 << 20))",
    "pages of pipes": "import fcntl, os\npipes = []\ntry:\n    for _ in range(400):\n        pair = os.pipe(); pipes.append(pair); os.set_blocking(pair[1], False)\n        try: fcntl.fcntl(pair[1], 1031, 1 << 20)\n        except OSError: pass\n        try:\n            while True: os.write(pair[1], bytes(1 << 20))\n        except BlockingIOError: pass\nexcept OSError: pass\nx = bytearray(128 << 20)",
}  # fmt: skip


@needs("limits")
@pytest.mark.parametrize("hog", HOGS)
def test_i2_i3_memory_by(hog: str) -> None:
    result = run([*PYTHON, HOGS[hog]], limits=Limits(memory="48M", swap=0, pids=50))
    assert not result.exit.ok and (result.exit.reason is Reason.OOM or result.exit.oom_kills)
    peak = result.exit.usage.memory_peak
    assert peak is None or peak <= 52 << 20
    assert run([*PYTHON, HOGS[hog]], limits=Limits(memory="400M", pids=50)).exit.ok, "the control: with more it ends well"


@pytest.mark.parametrize(("path", "mounts"), [("/tmp", []), ("/dev/shm", []), ("/t", [Tmpfs("/t", size="2M")]), ("/o", [Overlay(["/etc/alternatives"], target="/o")])])
def test_a17_what_lies_in_memory_ends(path: str, mounts: list[object]) -> None:
    """A17, I3: by a giant made at once, which takes no time; the control is a file that fits."""
    program = f"import os\nf = os.open('{path}/x', os.O_RDWR | os.O_CREAT)\nos.posix_fallocate(f, 0, 1 << 20)\ntry: os.posix_fallocate(f, 0, 2 << 30); print('all of it')\nexcept OSError as error: print(error.errno)"
    assert run([*PYTHON, program], mounts=mounts).stdout == b"28\n"


# ---- I7, I14, I15 ----


@needs("limits")
def test_i14_a_death_that_looks_like_an_oom_is_none() -> None:
    """The reason comes from the cgroup's counters: neither a status nor a signal makes one."""
    for program, reason in (("import os; os.kill(os.getpid(), 9)", Reason.SIGNALED), ("raise SystemExit(137)", Reason.EXITED)):
        exit = run([*PYTHON, program], limits=Limits(memory="64M")).exit
        assert exit.reason is reason and not exit.oom_kills
    control = run([*PYTHON, "x = bytearray(128 << 20)"], limits=Limits(memory="32M", swap=0)).exit
    assert control.reason is Reason.OOM and control.limit == "limits.memory"


@needs("limits")
def test_i14_the_oom_of_a_child_is_told_and_is_not_the_commands() -> None:
    program = "import os\nif not os.fork(): x = bytearray(128 << 20); os._exit(0)\nprint(os.wait()[1])"
    result = run([*PYTHON, program], limits=Limits(memory="32M", swap=0))
    assert result.exit.reason is Reason.EXITED and result.exit.oom_kills == 1 and result.stdout == b"9\n"


@needs("limits")
def test_i10_what_breeds_is_dead_at_once() -> None:
    """A chain that forks before it dies is never seen whole by whoever kills one by one."""
    breed = "import os, signal\nprint(flush=True)\nwhile True:\n    if os.fork(): os._exit(0)"

    async def body(box: Container) -> None:
        async with box.open([*PYTHON, breed]) as breeder:
            assert breeder.stdout is not None
            await breeder.stdout.receive(1)
            with anyio.fail_after(20):
                box.kill()
                exit = await box.wait()
            assert exit.reason is Reason.KILLED

    inside(body, Spec(limits=Limits(pids=50)))


def test_i15_a_limit_is_an_error_or_it_holds() -> None:
    """No limit is passed over: where there is no place for cgroups here, none of these runs at all."""
    for limits, key in ((Limits(pids=5), "pids"), (Limits(memory="64M"), "memory"), (Limits(cpus=0.5), "cpus")):
        try:
            result = run(["sh", "-c", "ulimit -a >/dev/null; echo ran"], limits=limits)
        except (UnsupportedError, CgroupError) as error:
            assert key[:3] in str(error) or "cgroup" in str(error)
        else:
            assert result.stdout == b"ran\n" and result.exit.usage.scope == "container"
    for nonsense in ({"memory": 0}, {"pids": -1}, {"cpus": "12 apples"}):
        with pytest.raises(SpecError):
            Limits(**nonsense)


@needs("limits")
def test_i6_i7_no_file_of_a_cgroup_is_in_sight() -> None:
    look = "import json, os\nfound = []\nfor folder, below, names in os.walk('/'):\n    if folder == '/': below[:] = [n for n in below if n not in ('proc', 'usr', 'opt')]\n    found += [f'{folder}/{n}' for n in names if n in ('cgroup.procs', 'memory.max', 'release_agent', 'memory.limit_in_bytes')]\nprint(json.dumps([found, open('/proc/self/cgroup').read()]))"
    found, own = json.loads(run([*PYTHON, look], limits=Limits(pids=50, memory="64M")).stdout)
    assert found == [] and {line.split(":")[2] for line in own.splitlines()} == {"/"}
