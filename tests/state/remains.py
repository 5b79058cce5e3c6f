"""What a guest may leave behind, each with a program that plants it and one that looks for it: what that prints is a remain."""

from __future__ import annotations

from attrs import field, frozen

from creche import File, Namespaces, Security, Spec, Tmpfs


@frozen
class Remain:
    """`plant` runs first; what `look` prints is there and is not there before."""

    plant: str
    look: str
    spec: Spec = field(factory=Spec)


BACKGROUND = "setsid python3 -c '{program}' >/dev/null 2>&1 & until {seen}; do sleep 0.01; done"
LOOPBACK = """
import socket
server = socket.create_server(("127.0.0.1", 7777)); client = socket.create_connection(server.getsockname()); other, _ = server.accept()
client.close(); other.recv(1); other.close()
"""
KEYS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
add, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[__import__("os").uname().machine]
if sys.argv[1] == "plant":
    for ring in (-3, -4, -5):
        if libc.syscall(add, b"user", b"mine%d" % -ring, b"secret", 6, ring) < 0: sys.exit("no keys")
else:
    for ring in (-3, -4, -5):
        if libc.syscall(keyctl, 10, ring, b"user", b"mine%d" % -ring, 0) > 0: print("mine", ring)
"""
PLANT_MQ = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 240, "aarch64": 180}[__import__("os").uname().machine]
assert libc.syscall(number, b"mine", 0o102, 0o600, None) >= 0
"""


def sh(program: str, *arguments: str) -> str:
    return " ".join(["python3", "-c", "'" + program.replace("'", '"') + "'", *arguments])


PROGRAM = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 1234[5]'"

REMAINS = {
    "a file in /tmp": Remain("echo mine > /tmp/mine", "cat /tmp/mine 2>/dev/null"),
    "a file in /dev/shm": Remain("echo mine > /dev/shm/mine", "cat /dev/shm/mine 2>/dev/null"),
    "a file in a tmpfs of the Spec's": Remain("echo mine > /data/mine", "cat /data/mine 2>/dev/null", Spec(mounts=[Tmpfs("/data")])),
    "a file in a tmpfs that copies up": Remain(
        "rm /etc/alternatives/awk", "test -e /etc/alternatives/awk -o -L /etc/alternatives/awk || echo gone", Spec(mounts=[Tmpfs("/etc/alternatives", copy_up=True)])
    ),
    "a file of the Spec's, written to": Remain("echo mine > /data", "grep mine /data", Spec(mounts=[File("/data", "ours", readonly=False, mode=0o666)])),
    "a program": Remain(f"n=1234; setsid sleep ${{n}}5 >/dev/null 2>&1 & until {PROGRAM} >/dev/null; do :; done", PROGRAM),
    "System V queue, memory and semaphore": Remain("ipcmk -Q -M 4096 -S 1", "cat /proc/sysvipc/* | grep -v key"),
    "a POSIX message queue": Remain(sh(PLANT_MQ), "ls /dev/mqueue"),
    "an abstract socket": Remain(
        BACKGROUND.format(program='import socket, time; s = socket.socket(1); s.bind(b"\\0mine"); time.sleep(999)', seen="grep -q @mine /proc/net/unix"),
        "grep -o @mine /proc/net/unix",
    ),
    "a timer": Remain(
        BACKGROUND.format(
            program='import signal, time; signal.signal(14, lambda *_: open("/tmp/tick", "a").write("mine")); signal.setitimer(0, 0.01, 0.01); [time.sleep(1) for _ in range(999)]',
            seen="test -s /tmp/tick",
        ),
        "sleep 0.1; cat /tmp/tick 2>/dev/null",
    ),
    "a connection in TIME_WAIT": Remain(sh(LOOPBACK), "grep -o 1E61 /proc/net/tcp"),
    "what the network counts": Remain(sh(LOOPBACK), "awk '/lo:/ && $2 > 0' /proc/net/dev"),
    "a terminal": Remain(
        BACKGROUND.format(program="import os, time; os.openpty(); time.sleep(999)", seen="test -e /dev/pts/0"), "ls /dev/pts | grep -v ptmx"
    ),
    "the number of processes that were": Remain("for i in $(seq 60); do true & done; wait", "test $$ -lt 30 || echo $$; cut -d/ -f2 /proc/loadavg | awk '$2 > 30'"),
    "the processors of process 1": Remain(sh("import os; os.sched_setaffinity(1, {0})"), sh("import os; print(*(['mine'] if len(os.sched_getaffinity(0)) < 2 else []))"), Spec(security=Security(capabilities=["CAP_SYS_NICE"]))),
    "a limit of process 1": Remain(
        sh("import resource as r; r.prlimit(1, r.RLIMIT_STACK, (4 << 20, r.prlimit(1, r.RLIMIT_STACK)[1]))"), "ulimit -Ss | grep 4096"
    ),
    "process 1 as the first to be killed": Remain("echo 777 > /proc/1/oom_score_adj", "grep 777 /proc/self/oom_score_adj"),
    "what process 1 would dump": Remain("echo 1 > /proc/1/coredump_filter", "grep 00000001 /proc/self/coredump_filter"),
    "keys in its keyrings": Remain(sh(KEYS, "plant"), sh(KEYS, "look"), Spec(security=Security(seccomp=None))),
    "a file in the host's network": Remain("echo mine > /tmp/mine", "cat /tmp/mine 2>/dev/null", Spec(namespaces=Namespaces(network=False))),
}  # fmt: skip
#: The same, in a root that is an Overlay of the folder that a test makes.
WRITES = {
    "a new file": ("echo mine > /mine", "cat /mine 2>/dev/null"),
    "a file that was there": ("echo mine > /etc/one", "grep mine /etc/one"),
    "a file that was removed": ("rm /etc/one", "test -e /etc/one || echo gone"),
    "a directory that was moved": ("mkdir /a && echo mine > /a/b && mv /a /c", "cat /c/b 2>/dev/null"),
    "a mode": ("chmod 600 /etc/one", "stat -c %a /etc/one | grep 600"),
    "an attribute": (sh("import os; os.setxattr('/etc/one', 'user.mine', b'x')"), sh("import os; print(*os.listxattr('/etc/one'))") + " | grep mine"),
}

