"""What a test may need of its machine, each need probed once and in one place; what is missing is told, never hidden.

    pytestmark = needs("userns")          # a module
    @needs("root", "cgroup2")             # a test or a class

A test that cannot run here is skipped with the reason, is listed at the end of the run, and `.ci/run` shows in which
other place (root, user, a guest) it did run. With `CRECHE_MUST_HAVE=userns,overlay` in the environment the named
needs may not be missing: their absence is then a failure, as a skip would hide that the place is not what it should be.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

_PROBES: dict[str, Callable[[], str | None]] = {}


def needs(*names: str) -> pytest.MarkDecorator:
    """A mark for tests that cannot do without these. An unknown name is a KeyError at import, not a skip."""
    for name in names:
        if name not in _PROBES and not name.startswith("kernel>="):
            raise KeyError(f"no need is called {name!r}; tests/needs.py has {', '.join(sorted(_PROBES))}")
    return pytest.mark.needs(*names)


@functools.cache
def missing(name: str) -> str | None:
    """Why this need is not met here, in a few words, or None when it is."""
    if name.startswith("kernel>="):
        wanted = name.removeprefix("kernel>=")
        return (
            None
            if _kernel() >= _version(wanted)
            else f"kernel {wanted} or newer; this one is {os.uname().release}"
        )
    return _PROBES[name]()


def _need(name: str) -> Callable[[Callable[[], str | None]], Callable[[], str | None]]:
    def register(probe: Callable[[], str | None]) -> Callable[[], str | None]:
        _PROBES[name] = probe
        return probe

    return register


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)?", text)
    assert found, text
    return tuple(int(part) for part in found.group().split("."))


def _kernel() -> tuple[int, ...]:
    return _version(os.uname().release)


def _program(name: str, package: str) -> None:
    _PROBES[name] = lambda: None if shutil.which(name) else f"{name} (Debian's package {package})"


for _name, _package in {
    "bwrap": "bubblewrap",
    "busybox": "busybox-static",
    "cc": "gcc",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "fish": "fish",
    "podman": "podman",
    "runc": "runc",
    "setpriv": "util-linux",
    "strace": "strace",
    "tmux": "tmux",
    "valgrind": "valgrind",
    "zsh": "zsh",
}.items():
    _program(_name, _package)


@_need("musl")
def _musl() -> str | None:
    return None if shutil.which("musl-gcc") else "musl-gcc (Debian's package musl-tools)"


@_need("aarch64")
def _aarch64() -> str | None:
    there = shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")
    return None if there else "a cross compiler and an emulator (Debian's packages gcc-aarch64-linux-gnu and qemu-user)"


_TRY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result, what):
    if result < 0:
        error = ctypes.get_errno()
        sys.exit(f"{what}: {os.strerror(error)}")
uid, gid = os.geteuid(), os.getegid()
must(libc.unshare(0x10000000 | 0x20000), "unshare(CLONE_NEWUSER | CLONE_NEWNS)")
try:
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
    open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
except OSError as error:
    sys.exit(f"id maps: {error.strerror}")
def mount(source, target, kind, options=None):
    must(libc.mount(source.encode(), target.encode(), kind.encode(), 0, options and options.encode()), "mount of " + kind)
"""


def _tried(code: str) -> str | None:
    """What happens in a process with a user and a mount namespace of its own, where nothing outlives the process."""
    done = subprocess.run([sys.executable, "-c", _TRY + code], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@_need("root")
def _root() -> str | None:
    return None if os.geteuid() == 0 else "to be root"


@_need("user")
def _user() -> str | None:
    return None if os.geteuid() != 0 else "to be an ordinary user"


@_need("ranks")
def _ranks() -> str | None:
    """To be able to give oneself real-time scheduling as a limit (rlimits rtprio and nice)."""
    status = Path("/proc/self/status").read_text()
    powers = int(status.partition("CapEff:")[2].split()[0], 16)
    return None if os.geteuid() == 0 and powers >> 24 & 1 else "to be root with CAP_SYS_RESOURCE"


@_need("libseccomp")
def _libseccomp() -> str | None:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return "libseccomp.so.2 (Debian's package libseccomp2)"
    return None


@_need("sanitizers")
def _sanitizers() -> str | None:
    command = ["cc", "-fsanitize=address,undefined", "-x", "c", "-", "-o", "/dev/null"]
    try:
        done = subprocess.run(
            command, input="int main(void) { return 0; }", capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "cc (Debian's package gcc)"
    return (
        "a cc with -fsanitize=address,undefined (Debian's package libgcc-12-dev or newer)"
        if done.returncode
        else None
    )


@_need("libfuzzer")
def _libfuzzer() -> str | None:
    command = ["clang", "-fsanitize=fuzzer,address", "-x", "c", "-", "-o", "/dev/null"]
    target = "int LLVMFuzzerTestOneInput(const char *data, long size) { return size && data ? 0 : 0; }"
    try:
        done = subprocess.run(command, input=target, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "clang (Debian's package clang)"
    return "a clang with -fsanitize=fuzzer (Debian's package libclang-rt-14-dev)" if done.returncode else None


@_need("atheris")
def _atheris() -> str | None:
    return None if importlib.util.find_spec("atheris") else "atheris, libFuzzer for Python (wheels for x86-64 and Python up to 3.13)"


@_need("x86_64")
def _x86_64() -> str | None:
    return None if os.uname().machine == "x86_64" else "a machine with x86-64"


@_need("i386")
def _i386() -> str | None:
    code = """
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=7)
page[:8] = bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3])  # mov eax, 20 (getpid); int 0x80; ret
raise SystemExit(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() != os.getpid())
"""
    here = os.uname().machine == "x86_64" and subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    return None if here else "a kernel that takes i386's calls (CONFIG_IA32_EMULATION)"


@_need("userns")
def _userns() -> str | None:
    return _tried("")


@_need("overlay")
def _overlay() -> str | None:
    return _tried(
        """
mount("none", "/tmp", "tmpfs")
for name in "lower", "lower2":
    os.mkdir("/tmp/" + name)
mount("none", "/tmp/lower", "overlay", "lowerdir=/tmp/lower:/tmp/lower2,userxattr")
"""
    )


@_need("tmpfs-xattr")
def _tmpfs_xattr() -> str | None:
    return _tried(
        """
mount("none", "/tmp", "tmpfs")
try:
    os.setxattr("/tmp", "user.creche", b"1")
except OSError as error:
    sys.exit(f"user xattrs on tmpfs: {error.strerror}")
"""
    )


@_need("overcommit")
def _overcommit() -> str | None:
    mode = Path("/proc/sys/vm/overcommit_memory").read_text().strip()
    return None if mode == "0" else f"heuristic overcommit (vm.overcommit_memory is {mode}, not 0)"


@_need("timens")
def _timens() -> str | None:
    return None if os.path.exists("/proc/self/ns/time") else "time namespaces in the kernel"


@_need("subids")
def _subids() -> str | None:
    import pwd

    names = {pwd.getpwuid(os.geteuid()).pw_name, str(os.geteuid())}
    for path in "/etc/subuid", "/etc/subgid":
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            return f"{path}: {error.strerror}"
        if not any(line.split(":")[0] in names for line in lines):
            return f"a range for this user in {path}"
    return None


@_need("newuidmap")
def _newuidmap() -> str | None:
    absent = [name for name in ("newuidmap", "newgidmap") if not shutil.which(name)]
    if absent:
        return f"{' and '.join(absent)} (Debian's package uidmap)"
    if os.geteuid() and "NoNewPrivs:\t1" in Path("/proc/self/status").read_text():
        return "to be without no_new_privs, or newuidmap gains nothing by being setuid"
    return None


@_need("landlock")
def _landlock() -> str | None:
    abi = ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1)
    return None if abi >= 1 else "Landlock in the kernel, switched on (lsm=landlock,…)"


@_need("apparmor")
def _apparmor() -> str | None:
    try:
        on = Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        on = False
    return None if on else "AppArmor, switched on"


@_need("selinux")
def _selinux() -> str | None:
    return None if os.path.exists("/sys/fs/selinux/enforce") else "SELinux, switched on"


@_need("idmapped")
def _idmapped() -> str | None:
    if os.geteuid():
        return "to be root: only the file system's owner may idmap a mount"
    return None if _kernel() >= (5, 12) else "idmapped mounts, which came with kernel 5.12"


@_need("cgroup2")
def _cgroup2() -> str | None:
    """A version 2 hierarchy with the memory controller, in which this user may make a cgroup."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if not after.startswith("cgroup2 "):
            continue
        top = before.split(" ")[4]
        own = next(
            (part[3:] for part in Path("/proc/self/cgroup").read_text().splitlines() if part[:3] == "0::"),
            "/",
        )
        folder = top + own.rstrip("/")
        try:
            controllers = Path(folder, "cgroup.controllers").read_text().split()
        except OSError as error:
            return f"{folder}: {error.strerror}"
        if "memory" not in controllers:
            return f"the memory controller in {folder} (it has {' '.join(controllers) or 'none'})"
        return None if os.access(folder, os.W_OK) else f"a delegated cgroup: {folder} is not ours to write"
    return "cgroup version 2 mounted"


@_need("cgroup1")
def _cgroup1() -> str | None:
    if not os.path.isdir("/sys/fs/cgroup/memory"):
        return "cgroup version 1 mounted"
    return (
        None
        if os.access("/sys/fs/cgroup/memory", os.W_OK)
        else "a cgroup version 1 hierarchy that is ours to write"
    )


@_need("limits")
def _limits() -> str | None:
    """Either version, with memory, for tests that hold on both."""
    two, one = missing("cgroup2"), missing("cgroup1")
    return None if two is None or one is None else f"a cgroup to put limits on: {two}; {one}"


@_need("systemd")
def _systemd() -> str | None:
    return None if os.path.isdir("/run/systemd/system") else "systemd as process 1"


@_need("systemd-user")
def _systemd_user() -> str | None:
    path = os.path.join(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}"), "bus")
    return None if os.path.exists(path) else f"a systemd --user with its bus at {path}"


@_need("native")
def _native() -> str | None:
    try:
        import creche._native  # noqa: F401
    except ImportError as error:
        return f"creche built here: {error}"
    return None


def _place(kind: str) -> str | None:
    """Whether cgroups with the memory controller can be made in this kind of place; asking for "systemd" moves us."""
    import creche.cgroups

    place = creche.cgroups.find_place({**os.environ, "CRECHE_CGROUP": kind})
    if not place.usable:
        return f"a place of the kind {kind!r} ({'; '.join(place.reasons)})"
    return None if place.home("memory") else "a memory controller there"


for _kind in ("v2", "systemd", "delegated", "container", "hybrid", "v1"):
    _PROBES[f"place-{_kind}"] = functools.partial(_place, _kind)


@_need("disk")
def _disk() -> str | None:
    """A directory on a file system with one block device behind it."""
    from creche.cgroups.devices import device
    from creche.errors import CrecheError

    try:
        device(disk_folder())
    except CrecheError as error:
        return str(error)
    return None


@_need("swap")
def _swap() -> str | None:
    """A file that is ours to swap to for a while: no test switches the machine's own swap."""
    return None if "CRECHE_SWAP" in os.environ else "a file to swap to in $CRECHE_SWAP, as the guests have it"


@_need("registry")
def _registry() -> str | None:
    """Packages by pip: asked for a small one that creche itself depends on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries=0", "--timeout=15", "-d", folder, "jeepney"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    return "pip, and a package registry that it reaches" if done.returncode else None


@_need("hugetlb")
def _hugetlb() -> str | None:
    if not os.path.isdir("/sys/kernel/mm/hugepages/hugepages-2048kB"):
        return "huge pages of 2 MB in the kernel"
    return None if "hugetlb" in Path("/proc/cgroups").read_text() else "the hugetlb controller in the kernel"


@_need("keys")
def _keys() -> str | None:
    return None if os.path.exists("/proc/keys") else "keyrings in the kernel (CONFIG_KEYS)"


@_need("autogroup")
def _autogroup() -> str | None:
    return None if os.path.exists("/proc/self/autogroup") else "shares of the processors by session (CONFIG_SCHED_AUTOGROUP)"


@_need("weights")
def _weights() -> str | None:
    from creche.cgroups.devices import weighing

    return None if weighing() else "a disk scheduled by weight (bfq with CONFIG_BFQ_GROUP_IOSCHED, or io.cost)"


@_need("writeback")
def _writeback() -> str | None:
    """A file system that tells whose a page in the cache is (cgroup-v2.rst, "Writeback")."""
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    folder = os.path.realpath(disk_folder())
    while folder not in kinds:
        folder = os.path.dirname(folder)
    tracked = {"ext2", "ext4", "btrfs", "f2fs", "xfs"}
    return None if kinds[folder] in tracked else f"one of {', '.join(sorted(tracked))} at {folder}, which is {kinds[folder]}"


@_need("cpuset-v2")
def _cpuset_v2() -> str | None:
    if len(os.sched_getaffinity(0)) < 2:
        return "two processors"
    try:
        names = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    except OSError:
        names = []
    return None if "cpuset" in names else "version 2's cpuset controller (CONFIG_CPUSETS)"


@_need("numa")
def _numa() -> str | None:
    return None if os.path.isdir("/sys/devices/system/node/node1") else "two nodes of memory"


def disk_folder() -> str:
    """Where a test's file lies on a disk: $CRECHE_DISK, or /var/tmp."""
    return os.environ.get("CRECHE_DISK", "/var/tmp")
