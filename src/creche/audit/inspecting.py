"""What a container of a Spec could reach, as a table with a score: for `creche inspect`; pure, nothing is started."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from ..plan.covered import MASKED, READONLY
from ..plan.seccomp import Filter, compile_filter, verdict
from ..spec.filesystem import Bind, Directory, HostView, Overlay
from ..spec.security import CAPABILITIES
from ..spec.spec import Spec

__all__ = ["Exposure", "Inspection", "inspect"]

_LEVELS = ((0.5, "safe"), (2.0, "good"), (4.0, "medium"), (7.0, "exposed"), (10.0, "unsafe"))
_NEWUSER = 0x1000_0000
#: Doors to much of the kernel, or to others' processes and secrets: a call, the arguments that matter, what is behind it.
DOORS = (
    ("unshare", (_NEWUSER,), "user namespaces, and in one every capability"),
    ("clone3", (), "namespaces, by flags that no filter sees"),
    ("mount", (), "mounts"),
    ("bpf", (), "programs in the kernel"),
    ("io_uring_setup", (), "calls made past the filter"),
    ("keyctl", (), "the user's keys"),
    ("perf_event_open", (), "the kernel's counters and traces"),
    ("userfaultfd", (), "stops in the middle of the kernel's copies"),
    ("open_by_handle_at", (), "files by number instead of by name"),
    ("process_vm_readv", (), "other processes' memory"),
    ("kexec_load", (), "another kernel"),
    ("init_module", (), "kernel modules"),
    ("ptrace", (), "other processes of the container"),
)
#: Capabilities that are all of the machine where the container has no user namespace of its own.
_WHOLE = frozenset(
    f"CAP_{name}" for name in ("SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_PTRACE", "DAC_READ_SEARCH", "DAC_OVERRIDE", "SYS_BOOT", "BPF", "NET_ADMIN", "MAC_ADMIN", "SETUID")
)
_PERSONAL = ("/home", "/root", "/var", "/run", "/etc", "/boot", "/srv")
_KERNELS = ("/proc", "/sys", "/dev")
_RAW = ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/sd", "/dev/vd", "/dev/nvme", "/dev/dm-", "/dev/loop", "/dev/kmsg", "/dev/vfio")
_SHARED = (
    ("pid", 6, "sees and signals the host's processes of its user"),
    ("network", 6, "reaches what the host reaches: its own 127.0.0.1, the network around it, abstract sockets"),
    ("ipc", 3, "reaches the host's System V objects and message queues"),
    ("mount", 4, "lives in the host's mounts"),
    ("uts", 1, "has the host's name"),
    ("cgroup", 1, "sees the host's names of its cgroups"),
)


@frozen
class Exposure:
    """One thing that a container has or lacks: the field that decides it, what it means, how bad (0 to 1), what to do."""

    field: str
    means: str
    bad: float
    weight: int
    advice: str = ""


@frozen
class Inspection:
    """All exposures of a Spec. `score` is 0 (nothing beyond its own files) to 10 (the host)."""

    exposures: tuple[Exposure, ...]

    @property
    def score(self) -> float:
        """Ten times the weighed share of what is bad; a container that is the host's root is 10 whatever else holds."""
        if any(item.weight >= 100 and item.bad >= 1 for item in self.exposures):
            return 10.0
        total = sum(item.weight for item in self.exposures if item.weight < 100)
        return round(10 * sum(item.bad * item.weight for item in self.exposures if item.weight < 100) / total, 1)

    @property
    def level(self) -> str:
        """The score in a word."""
        return next(word for most, word in _LEVELS if self.score <= most)


def inspect(spec: Spec, *, arch: str = "x86_64", kernel: tuple[int, int] = (6, 1)) -> Inspection:
    """What a container of *spec* could reach on such a machine. Raises SpecError for a filter that can't be compiled."""
    parts = (_ids(spec), _calls(spec, arch, kernel), _namespaces(spec), _files(spec), _kernel_files(spec), _descriptors(spec), _limits(spec))
    return Inspection(tuple(item for part in parts for item in part))


def _ids(spec: Spec) -> Iterator[Exposure]:
    security, own = spec.security, spec.namespaces.user is not False
    if not own:
        yield Exposure("namespaces.user", "its ids are the host's: started by root, it is root", 1, 100, "leave namespaces.user True")
    elif any(item.outside == 0 for item in spec.uid_map or ()):
        yield Exposure("uid_map", "the host's root is mapped: files of the host's root are its own", 1, 12, "map a range of ids that nobody has")
    else:
        yield Exposure("uid_map", "root inside is a user without power outside", 0, 12)
    if security.privileged and not security.capabilities:
        names = set(CAPABILITIES)
    else:
        names = set(security.capabilities)
    if not names:
        yield Exposure("security.capabilities", "none, in any set", 0, 10)
    else:
        bad = 0.3 + 0.5 * bool(names & _WHOLE) if own else 1.0
        told = "all" if len(names) == len(CAPABILITIES) else ", ".join(sorted(names))
        over = "over its own namespaces" if own else "over the machine"
        if "CAP_SYS_PTRACE" in names and own and spec.has_init and len(names) < len(CAPABILITIES):
            over += ", and by tracing the init all others without the filter"
            bad = 0.8
        if "CAP_SYS_ADMIN" in names and own and len(names) < len(CAPABILITIES):
            over += ", and over its mounts: what is read-only or covered is so no longer when it likes"
        yield Exposure("security.capabilities", f"{told} {over}", bad, 10, "name only those that the program asks for")
    nnp = security.no_new_privs
    yield Exposure(
        "security.no_new_privs", "setuid programs gain nothing" if nnp else "a setuid program in sight gives its owner's power",
        0 if nnp else 1, 8, "" if nnp else "leave no_new_privs True",
    )  # fmt: skip


def _allowed(filter: Filter, name: str, args: tuple[int, ...]) -> bool:
    return verdict(filter, name, args).kind.name in ("ALLOW", "LOG")


def _calls(spec: Spec, arch: str, kernel: tuple[int, int]) -> Iterator[Exposure]:
    security = spec.security
    capabilities = frozenset(CAPABILITIES) if security.privileged and not security.capabilities else frozenset(security.capabilities)
    compiled = compile_filter(security.seccomp, arch=arch, capabilities=capabilities, kernel=kernel)
    if compiled is None:
        yield Exposure("security.seccomp", "every system call of the kernel", 1, 14, 'give seccomp="default"')
        return
    open_doors = [(name, behind) for name, args, behind in DOORS if _allowed(compiled, name, args)]
    serious = [name for name, _ in open_doors if name != "ptrace"]
    bad = min(1.0, 0.15 * len(serious) + 0.05 * bool(open_doors))
    told = "; ".join(f"{name} ({behind})" for name, behind in open_doors) or "none of the doors that matter most"
    yield Exposure("security.seccomp", f"calls: {told}", bad, 14, f"take {serious[0]} from what is allowed" if serious else "")


def _namespaces(spec: Spec) -> Iterator[Exposure]:
    for name, weight, means in _SHARED:
        value = getattr(spec.namespaces, name)
        if value is True:
            yield Exposure(f"namespaces.{name}", "its own", 0, weight)
        elif value is False:
            yield Exposure(f"namespaces.{name}", means, 1, weight, f"leave namespaces.{name} True")
        else:
            yield Exposure(f"namespaces.{name}", f"that of {value}, with whoever lives there", 0.5, weight)


def _files(spec: Spec) -> Iterator[Exposure]:
    root = spec.rootfs
    if root is None:
        yield Exposure("rootfs", "every file of the caller's", 1, 14, "give HostView(), or a root of its own")
    elif isinstance(root, HostView):
        yield Exposure("rootfs", "the host's programs and libraries (/usr, /opt, a part of /etc), read-only", 0.05, 14)
    elif isinstance(root, Directory):
        kind = "read-only" if root.readonly else "which it may change for good"
        yield Exposure("rootfs", f"{root.path}, {kind}", 0.02 if root.readonly else 0.1, 14)
    elif isinstance(root, Overlay):
        kept = f"what it writes is kept in {root.upper}" if root.upper else "what it writes is thrown away"
        yield Exposure("rootfs", f"{', '.join(root.lower)}; {kept}", 0.05 if root.upper else 0, 14)
    for index, mount in enumerate(spec.mounts):
        if isinstance(mount, Bind):
            yield _bind(mount, f"mounts[{index}]")
    for path in spec.devices:
        raw = path.startswith(_RAW)
        yield Exposure("devices", f"{path}{': raw access to disks or memory' if raw else ''}", 1 if raw else 0.3, 8, "leave it out" if raw else "")


def _bind(mount: Bind, field: str) -> Exposure:
    how = "read" if mount.readonly else "read and change"
    parts = [f"may {how} {mount.source}"]
    bad = 0.1 if mount.readonly else 0.3
    if mount.source == "/" or any(mount.source == top or mount.source.startswith(f"{top}/") for top in _KERNELS):
        bad, parts = 1.0, [*parts, "the host's own"]
    elif mount.source in _PERSONAL or mount.source.endswith((".sock", "/.ssh", "/.aws", "/.gnupg", "/.kube")):
        bad, parts = 0.9, [*parts, "where services, people and secrets are"]
    for flag in ("nosuid", "nodev"):
        if not getattr(mount, flag):
            bad, parts = min(1.0, bad + 0.3), [*parts, f"without {flag}"]
    return Exposure(field, ", ".join(parts), bad, 6, "" if bad <= 0.1 else "bind less, or readonly=True")


def _kernel_files(spec: Spec) -> Iterator[Exposure]:
    security = spec.security
    for field, value, defaults, means in (
        ("masked_paths", security.masked_paths, MASKED, "files that tell of the kernel and of the host"),
        ("readonly_paths", security.readonly_paths, READONLY, "settings of the kernel"),
    ):
        open_ = () if value is None and not security.privileged else tuple(path for path in defaults if path not in (value or ()))
        told = f"{means} are covered" if not open_ else f"{means}: {', '.join(open_[:4])}{' …' if len(open_) > 4 else ''}"
        yield Exposure(f"security.{field}", told, len(open_) / len(defaults), 5, f"add them to {field}" if open_ else "")


def _descriptors(spec: Spec) -> Iterator[Exposure]:
    inherited = [name for name in ("stdin", "stdout", "stderr") if getattr(spec, name) == "inherit"]
    if inherited:
        yield Exposure("stdin", f"the caller's own {', '.join(inherited)}: what these lead to it reaches too", 0.4, 4, 'give "pipe" or "null"')
    if spec.pass_fds:
        yield Exposure("pass_fds", f"descriptors {', '.join(map(str, spec.pass_fds))}, whatever they lead to", 0.4, 4)
    if spec.inherit_env:
        yield Exposure("inherit_env", f"of the caller's environment: {', '.join(spec.inherit_env)}", 0.3, 3)


def _limits(spec: Spec) -> Iterator[Exposure]:
    for name, what in (("memory", "memory"), ("pids", "processes"), ("cpus", "processors")):
        value = getattr(spec.limits, name)
        if value is None:
            yield Exposure(f"limits.{name}", f"as many {what} as the machine has" if name != "memory" else "all of the machine's memory", 0.5, 3, f"give limits.{name}")
        else:
            yield Exposure(f"limits.{name}", f"at most {value}", 0, 3)
