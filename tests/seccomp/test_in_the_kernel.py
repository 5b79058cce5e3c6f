"""Real filters on real processes: refused calls are refused, with a control that shows the call would have gone through."""

from __future__ import annotations

import errno
import json
import os
import random
import signal

import pytest
from seccomp import child

from creche.plan.seccomp import Filter, compile_filter, verdict
from creche.plan.seccomp.compiler import compile_policy
from creche.plan.seccomp.numbers import numbers
from creche.plan.seccomp.rules import ALLOW, INT, Action, Compare, Kind, Op, Policy, Rule, refuse
from needs import needs

pytestmark = needs("x86_64")
CALL = numbers("x86_64")

NONE: frozenset[str] = frozenset()


def made(name: str = "default", capabilities: frozenset[str] = NONE, **keywords: bool) -> Filter:
    found = compile_filter(name, arch="x86_64", capabilities=capabilities, kernel=(6, 1), **keywords)
    assert found is not None
    return found


UPPER = 1 << 40

# A call, its arguments, and what the default profile answers. None of them would do harm if it went through.
REFUSED = [
    ("unshare", (0x10000000,), errno.EPERM),  # F1: CLONE_NEWUSER
    ("unshare", (0x80,), errno.EPERM),
    ("clone3", (0, 0), errno.ENOSYS),  # F2
    ("setns", (-1, 0), errno.EPERM),  # F3
    ("socket", (40, 1, 0), errno.EAFNOSUPPORT),  # H4: AF_VSOCK
    ("socket", (40 | UPPER, 1, 0), errno.EAFNOSUPPORT),  # F6
    ("socket", (38, 5, 0), errno.EAFNOSUPPORT),  # H5: AF_ALG, AF_PACKET, AF_BLUETOOTH
    ("socket", (17, 3, 0), errno.EAFNOSUPPORT),
    ("socket", (31, 3, 0), errno.EAFNOSUPPORT),
    ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),  # SCTP
    ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),  # NETLINK_NETFILTER
    ("socketpair", (30, 5, 0, 0), errno.EAFNOSUPPORT),  # AF_TIPC
    ("io_uring_setup", (1, 0), errno.EPERM),  # F8
    ("bpf", (0, 0, 0), errno.EPERM),  # F9
    ("perf_event_open", (0, 0, 0, 0, 0), errno.EPERM),
    ("userfaultfd", (0,), errno.EPERM),
    ("quotactl", (0, 0, 0, 0), errno.EPERM),
    ("acct", (1,), errno.EPERM),
    ("keyctl", (0, -3, 0), errno.EPERM),  # F10: KEYCTL_GET_KEYRING_ID
    ("request_key", (0, 0, 0, 0), errno.EPERM),
    ("add_key", (0, 0, 0, 0, 0), errno.EPERM),
    ("kcmp", (1, 1, 0, 0, 0), errno.EPERM),  # F11
    ("process_vm_readv", (1, 0, 0, 0, 0, 0), errno.EPERM),
    ("name_to_handle_at", (-1, 0, 0, 0, 0), errno.EPERM),
    ("move_pages", (0, 0, 0, 0, 0, 0), errno.EPERM),
    ("mbind", (0, 0, 0, 0, 0, 0), errno.EPERM),
    ("personality", (0x40000,), errno.EPERM),  # F12: ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC
    ("personality", (0x400000,), errno.EPERM),
    ("personality", (0x40000 | UPPER,), errno.EPERM),
    ("ioctl", (-1, 0x5412, 0), errno.EPERM),  # G5: TIOCSTI, and with the upper half set
    ("ioctl", (-1, 0x5412 | UPPER, 0), errno.EPERM),
    ("ioctl", (-1, 0x541C, 0), errno.EPERM),
    ("ioctl", (-1, 0x5423, 0), errno.EPERM),
    ("fcntl", (-1, 1024, 0), errno.EPERM),  # F_SETLEASE, and with the upper half set; F_SETDELEG
    ("fcntl", (-1, 1024 | UPPER, 0), errno.EPERM),
    ("fcntl", (-1, 1040, 0), errno.EPERM),
    ("mount", (0, 0, 0, 0, 0), errno.EPERM),
    ("pivot_root", (0, 0), errno.EPERM),
    ("open_tree", (-1, 0, 0), errno.EPERM),
    ("chroot", (0,), errno.EPERM),
    ("pidfd_getfd", (-1, 0, 0), errno.EPERM),
    ("syslog", (10, 0, 0), errno.EPERM),
    ("sethostname", (0, 1 << 20), errno.EPERM),
    ("modify_ldt", (0, 0, 0), errno.EPERM),
]

_CALLS = "print(json.dumps([raw(number, *args) for number, args in json.loads(sys.argv[2])]))"


def _made_in_a_child(filter: Filter | None, calls: list[tuple[int, tuple[int, ...]]]) -> list[int]:
    found: list[int] = child.python(filter, _CALLS, json.dumps(calls))
    return found


def test_what_the_default_profile_refuses() -> None:
    """By the errno that it promises; the simulator says the same."""
    calls = [(CALL[name], args) for name, args, _ in REFUSED]
    got = _made_in_a_child(made(), calls)
    assert {
        f"{name}{args}": errno.errorcode[answer] for (name, args, _), answer in zip(REFUSED, got, strict=True)
    } == {f"{name}{args}": errno.errorcode[wanted] for name, args, wanted in REFUSED}
    for name, args, wanted in REFUSED:
        assert verdict(made(), name, args) == refuse(wanted)


def test_the_control_without_a_filter() -> None:
    """The same calls reach the kernel: most say something else, so the test above is about the filter."""
    calls = [(CALL[name], args) for name, args, _ in REFUSED if name not in {"acct", "unshare"}]
    wanted = [answer for name, _, answer in REFUSED if name not in {"acct", "unshare"}]
    got = _made_in_a_child(None, calls)
    assert sum(one != other for one, other in zip(got, wanted, strict=True)) > len(calls) // 2


def test_the_kernel_reads_the_lower_half_of_an_int() -> None:
    """The control of F6: what `is_int` says is so. A filter of 64-bit comparisons would have been led past."""
    code = f"""
made = []
made.append(raw({CALL["socket"]}, 1 | {UPPER}, 1, 0))
made.append(raw({CALL["fcntl"]}, 1, 1 | {UPPER}, 0))
made.append(raw({CALL["personality"]}, 0xffffffff | {UPPER}))
made.append(raw({CALL["readv"]}, 0 | {UPPER}, 0, 0))
made.append(raw({CALL["kill"]}, os.getpid() | {UPPER}, {UPPER}))
made.append(raw({CALL["mprotect"]}, 0, 0, 0))
print(json.dumps(made))
"""
    assert child.python(None, code) == [0] * 6


def test_other_abis() -> None:
    """F4, F5, F7: newer numbers and those of x32 do not exist; what is called as i386 ends the process."""
    numbers = [470, 512, 1000, (1 << 30) + 41, (1 << 30) + 59, INT]
    assert _made_in_a_child(made(), [(number, ()) for number in numbers]) == [errno.ENOSYS] * len(numbers)
    # mov eax, 20 (getpid of i386); int 0x80; ret
    code = """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("b814000000cd80c3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
got = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
os._exit(0 if got == os.getpid() else 3)
"""
    assert child.status(made(), code) == -signal.SIGSYS
    assert child.status(None, code) in (0, -signal.SIGSEGV)  # the latter: a kernel without i386 calls


def test_capabilities_open_what_belongs_to_them() -> None:
    """As in Docker's profile; the kernel still has its own say."""
    opened = {
        "CAP_SYS_ADMIN": ["mount", "setns", "bpf", "clone3", "unshare", "sethostname", "pivot_root"],
        "CAP_BPF": ["bpf"],
        "CAP_SYS_PTRACE": ["kcmp", "process_vm_readv", "pidfd_getfd"],
        "CAP_SYS_CHROOT": ["chroot"],
        "CAP_SYS_TIME": ["clock_settime"],
        "CAP_SYS_NICE": ["mbind"],
        "CAP_DAC_READ_SEARCH": ["open_by_handle_at", "name_to_handle_at"],
        "CAP_SYSLOG": ["syslog"],
    }
    for capability, names in opened.items():
        filter = made(capabilities=frozenset({capability}))
        for name in names:
            assert verdict(filter, name, (0x10000000,)) == ALLOW, (capability, name)
            assert verdict(made(), name, (0x10000000,)) != ALLOW
        assert verdict(filter, "keyctl") == refuse(errno.EPERM)
        assert verdict(filter, "ioctl", (0, 0x5412)) == refuse(errno.EPERM)
    raw = made(capabilities=frozenset({"CAP_NET_RAW"}))
    assert verdict(raw, "socket", (17, 3, 3)) == verdict(raw, "socket", (2, 3, 255)) == ALLOW
    assert verdict(raw, "socket", (40, 1, 0)) == refuse(errno.EAFNOSUPPORT)
    admin = made(capabilities=frozenset({"CAP_NET_ADMIN"}))
    assert verdict(admin, "socket", (16, 3, 12)) == ALLOW


@pytest.mark.slow
def test_the_simulator_and_the_kernel_agree() -> None:
    """Thousands of calls with random arguments under random filters that let none of them through."""
    dice = random.Random(5)
    kept = "read write close exit_group mmap munmap mremap brk futex rt_sigaction rt_sigprocmask madvise mprotect fstat lseek"
    kept += " rt_sigreturn ioctl getrandom newfstatat openat poll sigaltstack sched_getaffinity pread64 getpid gettid"
    kept += " uprobe uretprobe"  # these two the kernel lets past every filter: they are its own trampolines
    targets = [name for name in sorted(CALL) if name not in kept.split()]
    for _ in range(4):
        rules = [Rule(tuple(kept.split()), ALLOW)]
        values = [0, 1, INT, INT + 1, 7, 1 << 63, *(dice.getrandbits(64) for _ in range(8))]
        for at in range(80):
            when = tuple(
                Compare(index, dice.choice(list(Op)), dice.choice(values))
                for index in dice.sample(range(6), dice.choice([1, 1, 2]))
            )
            rules.append(Rule((targets[at * len(targets) // 80],), refuse(100 + at % 30), when))
        policy = Policy(tuple(rules), refuse(99))
        filter = Filter(compile_policy(policy, "x86_64"), 0, "x86_64", policy=policy)
        calls = [
            (CALL[dice.choice(targets)], tuple(dice.choice(values) for _ in range(6))) for _ in range(1000)
        ] + [(number, (0,) * 6) for number in (470, 600, 1 << 30)]
        wanted = [verdict(filter, number, args).data for number, args in calls]
        assert _made_in_a_child(filter, calls) == wanted
        assert len(set(wanted)) > 10


def test_reported_violations_reach_the_listener_and_are_answered() -> None:
    """A violation waits for the listener, which answers as the quiet filter would; what is expected is not reported."""
    filter = made(report=True)
    assert filter.needs_listener and filter.listener_flags & 8
    code = f"""
import fcntl, socket, struct, threading
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    listener = install(first, {filter.listener_flags})
    install(second)
    socket.send_fds(theirs, [b"x"], [listener])
    os.close(listener)
    got = [raw({CALL["clone3"]}, 0, 0), raw({CALL["keyctl"]}, 0, 1, 2), raw({CALL["socket"]}, 40, 1, 0), raw({CALL["getpid"]})]
    os._exit(0 if got == [38, 1, 97, 0] else 3)
_, [listener], _, _ = socket.recv_fds(ours, 1, 1)
seen = []
for _ in range(2):
    request = bytearray(80)
    fcntl.ioctl(listener, 0xC0502100, request)
    id, who, flags, number, arch, address, *args = struct.unpack("<QIIiIQ6Q", request)
    seen.append([number, args[:3]])
    fcntl.ioctl(listener, 0xC0182101, struct.pack("<QqiI", id, 0, -{{ {CALL["keyctl"]}: 1, {CALL["socket"]}: 97 }}[number], 0))
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen]))
"""
    both = f"first, second = bytes.fromhex({filter.listener.hex()!r}), bytes.fromhex({filter.program.hex()!r})\n"
    done = child.python(None, both + code)
    assert done == [0, [[CALL["keyctl"], [0, 1, 2]], [CALL["socket"], [40, 1, 0]]]]
    assert filter.answer(CALL["keyctl"]) == refuse(errno.EPERM)
    assert filter.answer(CALL["socket"], (40, 1, 0)) == refuse(errno.EAFNOSUPPORT)


def test_a_guest_cannot_answer_its_own_reports() -> None:
    """F17: a second listener is refused (EBUSY), and without one the guest's own USER_NOTIF is ENOSYS: never a yes."""
    filter = made(report=True)
    own = compile_policy(
        Policy((Rule(("keyctl",), Action(Kind.NOTIFY)),), otherwise=ALLOW, newer=ALLOW), "x86_64"
    )
    code = f"""
fprog = Program({len(own) // 8}, bytes.fromhex({own.hex()!r}))
install(bytes.fromhex({filter.listener.hex()!r}), 8)
install(bytes.fromhex({filter.program.hex()!r}))
got = [raw(SECCOMP, 1, 8, ctypes.addressof(fprog)), raw(SECCOMP, 1, 0, ctypes.addressof(fprog)), raw({CALL["keyctl"]}, 0, -3, 0)]
print(json.dumps(got))
"""
    assert child.python(None, code) == [errno.EBUSY, 0, errno.ENOSYS]


def test_own_filters_of_a_guest_only_narrow() -> None:
    """A guest may install filters (browsers do); an ALLOW of its own opens nothing."""
    own = compile_policy(Policy((), otherwise=ALLOW, newer=ALLOW), "x86_64")
    code = f"""
fprog = Program({len(own) // 8}, bytes.fromhex({own.hex()!r}))
print(json.dumps([raw(SECCOMP, 1, 0, ctypes.addressof(fprog)), raw({CALL["keyctl"]}, 0, -3, 0)]))
"""
    assert child.python(made(), code) == [0, errno.EPERM]


def test_strict_in_the_kernel() -> None:
    """Threads run, files are read, and there is no way to another process, socket or identity."""
    code = """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(sum(range(10**5))))
thread.start(); thread.join()
def refused(call, *args):
    try:
        call(*args)
    except OSError as error:
        return error.errno
    return 0
import socket
tried = [refused(os.fork), refused(os.posix_spawn, "/bin/true", ["true"], {}), refused(socket.socket)]
tried += [refused(os.setuid, os.getuid()), refused(os.mkfifo, "/nowhere/x"), refused(os.listdir, "/nowhere")]
one, other = socket.socketpair()
one.send(b"x")
got = other.recv(9)
tried += [refused(one.sendto, b"x", "/nowhere"), refused(socket.send_fds, one, [b"x"], [0])]
print(json.dumps([found, tried, got.decode()]))
"""
    EPERM, ENOENT = errno.EPERM, errno.ENOENT
    wanted = [[sum(range(10**5))], [EPERM, EPERM, EPERM, EPERM, EPERM, ENOENT, EPERM, EPERM], "x"]
    assert child.python(made("strict"), code) == wanted
    assert child.command(made("strict"), ["/bin/echo", "once"]).stdout == "once\n"
    piped = child.command(made("strict"), ["/bin/sh", "-c", "true | true"])
    assert (piped.returncode != 0 and os.strerror(errno.EPERM) in piped.stderr) or "fork" in piped.stderr
