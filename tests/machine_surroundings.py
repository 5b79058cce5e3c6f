"""Half-forbidden surroundings, built for a child process: seccomp filters, a chroot, namespaces with limits of 0."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import creche

SOURCE = str(Path(creche.__file__).parents[1])  # where the package that is tested lies: it may be installed
CALLS = {
    "x86_64": {"clone3": 435, "unshare": 272, "mount": 165, "clone": 56},
    "aarch64": {"clone3": 435, "unshare": 97, "mount": 40, "clone": 220},
}[os.uname().machine] | {"open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442}
KILL, ERRNO, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000

REPORT = """
import json, attrs
from creche.doctor import examine
from creche.machine import probe
from creche.trial import run_trial
findings = examine(probe(landlock=True), run_trial(), executable="/opt/it/python3")
print(json.dumps([attrs.asdict(finding) for finding in findings]))
"""

#: Leaves "/" for a directory of a tmpfs that holds all of the machine: a chroot that is no mount point.
CHROOT = """
set -e
mount -t tmpfs none /mnt
mkdir /mnt/root
cd /
for name in *; do
    test -L "$name" && cp -a "$name" /mnt/root/ && continue
    test "$name" = mnt && continue
    test -d "$name" && mkdir "/mnt/root/$name" && mount --rbind "/$name" "/mnt/root/$name"
done
exec chroot /mnt/root "$@"
"""
#: The same onto a mount point, where /proc/self/mountinfo shows nothing odd.
CHROOT_ON_MOUNT = """
set -e
mount --rbind / /mnt
exec chroot /mnt "$@"
"""


def filter_for(answers: dict[str, int]) -> bytes:
    """A classic BPF program: each call of *answers* gets its errno (or death, for -1), all others pass.

    As in Docker's filter, clone is refused only where it makes namespaces; forks go on.
    """
    code = []
    for name, answer in answers.items():
        action = KILL if answer < 0 else ERRNO | answer
        code.append(struct.pack("HBBI", 0x20, 0, 0, 0))  # load the number
        code.append(struct.pack("HBBI", 0x15, 0, 3 if name == "clone" else 1, CALLS[name]))
        if name == "clone":
            code.append(struct.pack("HBBI", 0x20, 0, 0, 16))  # load the first argument's lower half
            code.append(struct.pack("HBBI", 0x45, 0, 1, 0x7E02_0000))  # any CLONE_NEW* flag
        code.append(struct.pack("HBBI", 0x06, 0, 0, action))
    code.append(struct.pack("HBBI", 0x06, 0, 0, ALLOW))
    return b"".join(code)


def install(program: bytes) -> None:
    """Put a filter on this process, for ever; for a preexec function."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    argument = ctypes.create_string_buffer(head, len(head))
    for call in ((38, 1, 0, 0, 0), (22, 2, argument, 0, 0)):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP (filter)
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), errno.errorcode[ctypes.get_errno()])


def findings(*before: str, answers: dict[str, int] | None = None) -> dict[str, dict[str, str]]:
    """The doctor's findings in a child started as `*before python …`, by name; *answers* is put on it as a filter."""
    command = [*before, sys.executable, "-c", REPORT]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE}
    apply = (lambda: install(filter_for(answers))) if answers else None
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, preexec_fn=apply, check=False
    )
    assert run.returncode == 0, run.stderr
    return {finding["name"]: finding for finding in json.loads(run.stdout)}
