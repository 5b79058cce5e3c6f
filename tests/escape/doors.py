"""Attacks on the kernel's doors (families F and H of the catalogue, and what a filter stops of A, E and G)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import pty
import signal
import socket
import struct
import tempfile

from escape.attacker import ATTACKS, Held, attack, call, lines, prctl, reached

__all__ = ["ATTACKS"]

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
UPPER = 1 << 40


def status(key, pid="self"):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(key + ":"))


def sub(number, *flags):
    """clone with these flags: the child is gone at once, and what matters is that it could be made."""
    child = call("clone", number | signal.SIGCHLD, 0, 0, 0, 0)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return "a child in namespaces of its own"


# ---- F1 to F3: a user namespace, and with it every capability again ----

for _name, _flags in {
    "F1 unshare of a user namespace": NEWUSER,
    "F1 unshare of user and mount namespaces": NEWUSER | NEWNS,
    "F1 unshare of user and network namespaces": NEWUSER | NEWNET,
    "F1 unshare of user and cgroup namespaces": NEWUSER | NEWCGROUP,
}.items():

    @attack(_name)
    def _unshare(flags=_flags):
        call("unshare", flags)
        return f"capabilities {status('CapEff')}"


for _name, _flags in {
    "F1 unshare of a mount namespace": NEWNS,
    "F1 unshare of a network namespace": NEWNET,
    "F1 unshare of a PID namespace": NEWPID,
    "F1 unshare of a time namespace": 0x80,
}.items():

    @attack(_name)
    def _unshare_one(flags=_flags):
        call("unshare", flags)
        return "a namespace of its own"


for _name, _flags in {
    "F2 clone into a user namespace": NEWUSER,
    "F2 clone into user, PID and mount namespaces": NEWUSER | NEWPID | NEWNS,
    "F6 clone into a user namespace, upper half set": NEWUSER | UPPER,
}.items():

    @attack(_name)
    def _clone(flags=_flags):
        return sub(flags)


@attack("F2 clone3 into a user namespace")
def _():
    arguments = ctypes.create_string_buffer(struct.pack("=11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0))
    child = call("clone3", arguments, 88)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return "a child in a user namespace"


@attack("E11 a child of its own parent's")
def _():
    child = call("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)  # CLONE_PARENT
    if not child:
        os._exit(0)
    return f"process {child}, which another must bury"


@attack("F3 setns into a namespace by a descriptor")
def _():
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    call("setns", fd, NEWNET)
    return "joined"


# ---- F4: as another processor ----


@attack("F4 unshare of a user namespace as i386 calls it")
def _():
    if os.uname().machine != "x86_64":
        raise Held("no such processor")
    # push rbx; mov eax, 310; mov ebx, CLONE_NEWUSER; int 0x80; pop rbx; ret
    code = b"\x53\xb8\x36\x01\x00\x00\xbb\x00\x00\x00\x10\xcd\x80\x5b\xc3"
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return f"capabilities {status('CapEff')}"


# ---- F8 to F12: doors that a first filter forgets ----


@attack("F8 io_uring")
def _():
    return f"a ring, descriptor {call('io_uring_setup', 1, ctypes.create_string_buffer(256))}"


@attack("F9 bpf: a map")
def _():
    return f"a map, descriptor {call('bpf', 0, ctypes.create_string_buffer(struct.pack('=4I', 2, 4, 4, 1), 120), 120)}"


@attack("F9 perf_event_open")
def _():
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 112, 0), 112)  # a software event: the processor's clock
    return f"an event, descriptor {call('perf_event_open', attributes, 0, -1, -1, 0)}"


@attack("F9 userfaultfd")
def _():
    return f"descriptor {call('userfaultfd', 1)}"  # UFFD_USER_MODE_ONLY: what anybody may ask for


for _name, _call, _arguments, _by in (
    ("F9 init_module", "init_module", (0, 0, b""), (8, 14)),
    ("F9 finit_module", "finit_module", (-1, b"", 0), (9,)),
    ("F9 delete_module", "delete_module", (b"no such module of creche", 0o4000), (2,)),
    ("F9 kexec_load", "kexec_load", (0, 1000, 0, 0), (22,)),
    ("F9 swapon", "swapon", (b"/no/such/file", 0), (2,)),
    ("F9 swapoff", "swapoff", (b"/no/such/file",), (2,)),
    ("F9 reboot", "reboot", (0, 0, 0, 0), (22,)),
    ("F9 acct", "acct", (b"/no/such/file",), (2,)),
    ("F9 quotactl", "quotactl", (0x80000500, b"/no/such/device", 0, ctypes.create_string_buffer(64)), (2, 15, 19, 20, 22)),
    ("D7 the kernel's log by syslog", "syslog", (3, ctypes.create_string_buffer(16), 16), ()),
    ("D7 the kernel log's size", "syslog", (10, 0, 0), ()),
    ("F9 iopl", "iopl", (3,), ()),
    ("F9 ioperm", "ioperm", (0x80, 1, 1), ()),
    ("F22 settimeofday", "settimeofday", (0, 0), ()),
    ("F22 sethostname", "sethostname", (b"other", 5), ()),
    ("F22 setdomainname", "setdomainname", (b"other", 5), ()),
    ("A6 chroot", "chroot", (b"/tmp",), ()),
    ("A14 mount of a tmpfs", "mount", (b"none", b"/tmp", b"tmpfs", 0, 0), ()),
    ("A14 fsopen", "fsopen", (b"tmpfs", 0), ()),
    ("A14 open_tree, cloned", "open_tree", (-100, b"/tmp", 1), ()),
    ("A1 mount_setattr", "mount_setattr", (-100, b"/tmp", 0, ctypes.create_string_buffer(struct.pack("=4Q", 2, 0, 0, 0)), 32), ()),
    ("A4 umount2", "umount2", (b"/tmp", 2), ()),
    ("A5 pivot_root", "pivot_root", (b".", b"."), (16, 22)),
    ("A7 name_to_handle_at", "name_to_handle_at", (-100, b"/tmp", ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 256), ctypes.create_string_buffer(8), 0), ()),
    ("A7 open_by_handle_at", "open_by_handle_at", (-1, ctypes.create_string_buffer(struct.pack("=Ii", 8, 1), 64), 0), (9, 116)),
    ("A22 fanotify", "fanotify_init", (0, 0), ()),
    ("F10 the session keyring", "keyctl", (0, -3, 0), ()),
    ("F10 add_key", "add_key", (b"user", b"of the guest", b"x", 1, -2), ()),
    ("F10 request_key", "request_key", (b"user", b"no such key of creche", 0, 0), (126,)),
    ("F11 kcmp", "kcmp", (os.getpid(), os.getpid(), 2, 0, 0), ()),
    ("F11 move_pages", "move_pages", (0, 0, 0, 0, 0, 0), ()),
    ("F11 set_mempolicy", "set_mempolicy", (0, 0, 0), ()),
    ("F11 migrate_pages", "migrate_pages", (0, 0, 0, 0), (22,)),
    ("F11 modify_ldt", "modify_ldt", (0, ctypes.create_string_buffer(16), 16), ()),
    ("F12 personality: ADDR_NO_RANDOMIZE", "personality", (0x40000,), ()),
    ("F12 personality: READ_IMPLIES_EXEC", "personality", (0x400000,), ()),
    ("F6 personality, upper half set", "personality", (0x40000 | UPPER,), ()),
):

    @attack(_name)
    def _reach(name=_call, arguments=_arguments, by=_by):
        return reached(name, *arguments, by=by)


@attack("F11 process_vm_readv")
def _():
    word, copy = ctypes.create_string_buffer(b"bait"), ctypes.create_string_buffer(5)
    local = ctypes.create_string_buffer(struct.pack("=2Q", ctypes.addressof(copy), 5))
    remote = ctypes.create_string_buffer(struct.pack("=2Q", ctypes.addressof(word), 5))
    call("process_vm_readv", os.getpid(), local, 1, remote, 1, 0)
    return copy.value.decode()


@attack("E1 pidfd_getfd")
def _():
    return f"descriptor {call('pidfd_getfd', os.pidfd_open(os.getpid()), 0, 0)}"


# ---- F13, F14, F17, F21: what a process has, and may add ----

for _set in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):

    @attack(f"F13 {_set} is not empty")
    def _capabilities(name=_set):
        if int(status(name), 16):
            return status(name)
        raise Held("held")


@attack("F13 capabilities by the exec of uid 0")
def _():
    import subprocess

    line = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, check=True).stdout.split()[1]
    if int(line, 16):
        return line.decode()
    raise Held("held")


@attack("F13 raises an ambient capability")
def _():
    prctl(47, 2, 13)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW
    return status("CapAmb")


@attack("F13 changes the securebits")
def _():
    prctl(28, 0)  # PR_SET_SECUREBITS
    return "they are gone"


@attack("F14 no_new_privs is not set")
def _():
    if status("NoNewPrivs") == "0":
        return "a setuid program would gain by it"
    raise Held("held")


@attack("F14 no filter is in force")
def _():
    if prctl(21) == 0:  # PR_GET_SECCOMP
        return "any call"
    raise Held("held")


@attack("F15 the init has no filter")
def _():
    if status("Seccomp", 1) == "0":
        return "none"
    raise Held("held")


@attack("F17 a second listener")
def _():
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    fprog = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program)))
    fd = call("seccomp", 1, 8, fprog)
    # One of its own is no harm: it hears of what it refuses itself. It must not hear of what we refuse, nor undo it.
    with contextlib.suppress(OSError):
        call("unshare", NEWUSER)
        return f"the filter below it is gone (listener {fd})"
    raise Held("held")


@attack("F21 a real-time scheduler")
def _():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "SCHED_FIFO"


@attack("F21 a better nice value")
def _():
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return "-5"


@attack("F21 the disks' real-time class")
def _():
    call("ioprio_set", 1, 0, 1 << 13)
    return "IOPRIO_CLASS_RT"


@attack("E14 a core dump")
def _():
    call("prlimit64", 0, 4, ctypes.create_string_buffer(struct.pack("=2Q", 1 << 20, 1 << 20)), 0)  # RLIMIT_CORE
    return "a megabyte"


@attack("E17 raises its own limit of files")
def _():
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    call("prlimit64", 0, 7, ctypes.create_string_buffer(struct.pack("=2Q", most + 1, most + 1)), 0)
    return "one more"


@attack("D9 a lower oom_score_adj")
def _():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-500")
    return "others die first"


@attack("F23 becomes another user")
def _():
    for uid in (1, 1000, 65534):
        with contextlib.suppress(OSError):
            call("setresuid", uid, uid, uid)
            return f"uid {uid}"
    raise Held("held")


@attack("D10 drops or takes groups")
def _():
    call("setgroups", 0, 0)
    return f"groups {os.getgroups()}"


# ---- G5: typing into a terminal ----


def terminal(number, value):
    """An ioctl on a terminal of its own that controls its own session."""
    os.setsid()
    master, slave = pty.openpty()
    call("ioctl", slave, 0x540E, 0)  # TIOCSCTTY
    text = ctypes.create_string_buffer(value)
    call("ioctl", slave, number, text)
    return f"done on {os.ttyname(slave)} ({master})"


for _name, _number, _value in (
    ("G5 TIOCSTI", 0x5412, b"x"),
    ("G5 TIOCSTI, upper half set", 0x5412 | UPPER, b"x"),
    ("G5 TIOCSETD", 0x5423, b"\0\0\0\0"),
    ("F6 TIOCSETD, upper half set", 0x5423 | UPPER, b"\0\0\0\0"),
):

    @attack(_name)
    def _terminal(number=_number, value=_value):
        return terminal(number, value)


@attack("G5 TIOCLINUX")
def _():
    """Pastes what is selected on a virtual console: here the kernel itself answers that a terminal of programs is none."""
    try:
        return terminal(0x541C, b"\3")
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return "the kernel's own answer"
        raise


# ---- H4, H5: families of sockets ----

for _name, _family, _kind, _protocol in (
    ("H4 a vsock", 40, 1, 0),
    ("H4 a vsock, upper half set", 40 | UPPER, 1, 0),
    ("H5 a packet socket", 17, 3, 0),
    ("H5 a raw socket", 2, 3, 255),
    ("H5 a raw socket of version 6", 10, 3, 58),
    ("H5 an XDP socket", 44, 3, 0),
    ("H5 DCCP by its type", 2, 6, 0),
    ("H6 netlink: netfilter", 16, 3, 12),
    ("H7 netlink: uevents", 16, 3, 15),
    ("H7 netlink: audit", 16, 3, 9),
    ("H7 netlink: the process connector", 16, 3, 11),
    ("H7 netlink: xfrm", 16, 3, 6),
    ("H7 netlink: generic", 16, 3, 16),
):

    @attack(_name)
    def _socket(family=_family, kind=_kind, protocol=_protocol):
        fd = call("socket", family, kind, protocol)
        os.close(fd)
        return f"descriptor {fd}"


for _name, _number in (("H5 a bridge's module by an ioctl", 0x8940), ("H5 a bridge's module by an ioctl, upper half set", 0x8940 | UPPER)):

    @attack(_name)
    def _module(number=_number):
        with socket.socket(socket.AF_UNIX) as one:
            return reached("ioctl", one.fileno(), number, ctypes.create_string_buffer(64), by=(errno.EPERM, errno.EFAULT))


@attack("H3 an address of the outside")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("169.254.169.254", 80))  # nothing is sent: a route alone is asked for
    return "a route"


@attack("A8 a device node of the memory")
def _():
    path = tempfile.mktemp(dir="/tmp")
    os.mknod(path, 0o20666, os.makedev(1, 1))
    return path


@attack("A10 a setuid file that holds")
def _():
    for line in lines("/proc/self/mountinfo"):
        fields = line.split(" ")
        if "nosuid" not in fields[5].split(","):
            return f"{fields[4]} is mounted with suid"
    raise Held("held")


@attack("A9 a mount where device nodes work")
def _():
    for line in lines("/proc/self/mountinfo"):
        fields = line.split(" ")
        if "nodev" not in fields[5].split(",") and not fields[4].startswith("/dev/"):
            return f"{fields[4]} is mounted with dev"
    raise Held("held")
