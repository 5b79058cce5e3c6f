"""Specs of all shapes, for properties: what may be given, not what it becomes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from hypothesis import strategies as st

from creche.errors import SpecError
from creche.spec import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    IdMap,
    Landlock,
    Limits,
    Mqueue,
    Namespaces,
    Overlay,
    Proc,
    SeccompRules,
    Security,
    Spec,
    Symlink,
    Sysfs,
    Tmpfs,
)

# File names as Linux has them: any byte but NUL and the slash.
_words = st.one_of(
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.binary(min_size=1, max_size=8).map(lambda b: b.replace(b"\0", b"0").replace(b"/", b"-")),
).filter(lambda word: word not in (".", "..", b".", b".."))


def _joined(words: list[str | bytes]) -> str | bytes | PurePosixPath:
    if all(isinstance(word, bytes) for word in words):
        return b"/" + b"/".join(words)  # type: ignore[arg-type]
    text = "/" + "/".join(
        word if isinstance(word, str) else word.decode(errors="surrogateescape") for word in words
    )
    return PurePosixPath(text) if len(text) % 3 == 0 else text


paths = st.lists(_words, min_size=1, max_size=3).map(_joined)
arguments = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.binary(max_size=8).map(lambda b: b.replace(b"\0", b"0")),
)
sizes = st.one_of(st.integers(1 << 20, 1 << 40), st.integers(1, 1000).map(lambda n: f"{n}M"))
ids = st.integers(0, 2**32 - 2)
names = st.from_regex(r"[a-z_][a-z0-9_-]{0,15}", fullmatch=True)


@st.composite
def id_maps(draw: st.DrawFn) -> list[IdMap]:
    """Ranges one after the other, inside as outside: they cannot overlap."""
    result, inside, outside = [], 0, draw(st.integers(0, 100_000))
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 65536))
        result.append(IdMap(inside, outside, count))
        inside += count + draw(st.integers(0, 10))
        outside += count + draw(st.integers(0, 10))
    return result


optional_flag = st.none() | st.booleans()
binds = st.builds(
    Bind,
    source=paths,
    target=paths,
    readonly=st.booleans(),
    nosuid=st.booleans(),
    nodev=st.booleans(),
    noexec=st.booleans(),
    idmap=optional_flag,
    optional=st.booleans(),
) | st.builds(Bind, paths, paths, uid_map=id_maps(), gid_map=id_maps(), idmap=st.sampled_from([None, True]))
layers = st.lists(paths, min_size=1, max_size=3, unique_by=lambda path: PurePosixPath(str(path))).filter(
    lambda given: (
        len({bytes(path) if isinstance(path, PurePosixPath) else path for path in given}) == len(given)
    )
)


@st.composite
def overlays(draw: st.DrawFn, target: Any) -> Overlay:
    lower = [f"/lower{index}" for index in range(draw(st.integers(1, 3)))]
    upper = draw(st.booleans())
    return Overlay(
        lower,
        "/upper" if upper else None,
        "/work" if upper else None,
        draw(target),
        readonly=draw(st.booleans()),
    )


mounts = st.one_of(
    binds,
    st.builds(
        Tmpfs,
        paths,
        size=st.none() | sizes,
        inodes=st.none() | st.integers(1, 1 << 20),
        mode=st.integers(0, 0o1777),
        copy_up=st.booleans(),
    ),
    overlays(paths),
    st.builds(File, paths, st.binary(max_size=20) | st.text(max_size=20), mode=st.integers(0, 0o777)),
    st.builds(Symlink, paths, paths),
    st.builds(
        Proc, hidepid=st.sampled_from([None, 0, 1, 2, 4, "invisible"]), subset=st.sampled_from([None, "pid"])
    ),
    st.builds(Sysfs, paths),
    st.builds(DevPts, paths),
    st.builds(Mqueue, paths),
)
rootfs = st.one_of(
    st.builds(HostView), st.builds(Directory, paths, st.booleans()), overlays(st.none()), st.none()
)
limits = st.builds(
    Limits,
    memory=st.none() | sizes,
    swap=st.none() | st.integers(0, 1 << 30),
    cpus=st.none() | st.floats(0.01, 100) | st.just("1.5"),
    cpu_weight=st.none() | st.integers(1, 10_000),
    pids=st.none() | st.integers(1, 4096),
    io=st.none()
    | st.dictionaries(
        names.map(lambda name: f"/dev/{name}"),
        st.fixed_dictionaries({"rbps": sizes}, optional={"wiops": st.none() | st.integers(1, 1000)}),
        min_size=1,
        max_size=2,
    ),
    cpuset=st.none() | st.sampled_from(["0", "0-1,3", "3,1,2"]) | st.lists(st.integers(0, 64), min_size=1),
    hugetlb=st.none() | st.sampled_from([{"2MB": "64M"}, {"1G": 0}]),
    oom_group=optional_flag,
    cpu_time=st.none() | st.floats(0.001, 1e6) | st.just("200ms"),
)
landlocks = st.builds(
    Landlock,
    read=st.lists(paths, max_size=1),
    write=st.lists(paths, max_size=1),
    tcp_bind=st.none() | st.lists(st.integers(0, 65535), max_size=3, unique=True),
    best_effort=st.booleans(),
)
profiles = st.builds(
    lambda names, errno: {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno,
        "syscalls": [
            {
                "names": names,
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_EQ"}],
            }
        ],
    },
    st.lists(names, min_size=1, max_size=3),
    st.integers(0, 4095),
)
securities = st.builds(
    Security,
    capabilities=st.lists(st.sampled_from(["CAP_KILL", "net_bind_service", "Cap_Sys_Time"]), unique=True),
    seccomp=st.sampled_from([None, "default", "strict"])
    | st.builds(SeccompRules, allow=st.just(["ptrace"]), base=st.sampled_from(["default", "strict"]))
    | profiles,
    no_new_privs=st.booleans(),
    masked_paths=st.none() | st.lists(paths, max_size=1),
    landlock=st.none() | landlocks,
    apparmor=st.none() | names,
    privileged=st.booleans(),
)
stdio = st.sampled_from(["pipe", "null", "inherit", None, -1, -3, 7])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "command": st.lists(arguments, min_size=1, max_size=4).map(lambda words: ["true", *words]),
    "env": st.none() | st.dictionaries(names, arguments, max_size=3),
    "inherit_env": st.lists(names, unique=True, max_size=3),
    "cwd": st.none() | paths | st.just("/"),
    "user": st.none() | ids | names | st.builds("{}:{}".format, names | ids, names | ids) | ids.map(str),
    "groups": st.none() | st.lists(ids | names, unique=True, max_size=3),
    "hostname": st.none() | st.just("box-1.example"),
    "namespaces": st.builds(
        Namespaces,
        network=st.booleans(),
        ipc=st.booleans() | st.integers(0, 9),
        pid=st.booleans(),
        time=st.just(True),
    ),
    "rootfs": rootfs,
    "mounts": st.lists(mounts, max_size=3),
    "devices": st.lists(names.map(lambda name: f"/dev/{name}"), unique=True, max_size=2),
    "limits": st.none() | limits,
    "security": securities,
    "rlimits": st.dictionaries(
        st.sampled_from(["nofile", "RLIMIT_CORE", "as"]), st.just((1, "unlimited")) | st.integers(-1, 99)
    ),
    "umask": st.none() | st.integers(0, 0o777) | st.just("0022"),
    "nice": st.none() | st.integers(-20, 19),
    "oom_score_adj": st.none() | st.integers(-1000, 1000),
    "time_offsets": st.dictionaries(
        st.sampled_from(["monotonic", "boottime"]), st.floats(-1e9, 1e9) | st.just("1h")
    ),
    "init": st.booleans(),
    "tty": st.sampled_from([None, False]),
    "stdin": stdio,
    "stdout": stdio,
    "stderr": stdio | st.sampled_from(["stdout", -2]),
    "pass_fds": st.lists(st.integers(3, 1000), unique=True, max_size=3),
    "name": st.none() | names,
}
#: the fields of a Spec, as somebody may write them; some are left out
given_fields = st.fixed_dictionaries(
    {"command": FIELDS["command"]}, optional={k: v for k, v in FIELDS.items() if k != "command"}
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Specs that could be built."""
    from hypothesis import assume

    try:
        return Spec(**draw(given_fields))
    except SpecError as error:  # a rule between two fields, or two paths that are one
        assume(error.wish is None)
        raise
