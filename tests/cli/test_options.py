"""Options to a Spec, as a table: what docker run and bwrap users type, and the Spec that they mean."""

from typing import Any

import attrs
import click
import pytest

from creche import (
    Bind,
    Directory,
    HostView,
    IdMap,
    Limits,
    Mqueue,
    Namespaces,
    Overlay,
    Proc,
    Security,
    Spec,
    SpecError,
    Symlink,
    Sysfs,
    Tmpfs,
)
from creche.cli.options import build_spec
from creche.cli.parameters import RunCommand, shared


@click.command("try", cls=RunCommand)
@shared
@click.pass_context
def _parse(ctx: click.Context, **given: Any) -> tuple[dict[str, Any], list[str]]:
    return given, ctx.meta["creche.order"]


def spec_of(*arguments: str, base: Spec | None = None) -> Spec:
    """What the words of a command line mean."""
    given, order = _parse.main(list(arguments), standalone_mode=False)
    return build_spec(given, given["command"], order=order, base=base, environ={"OURS": "1", "TERM": "xterm"})


ONE_LIMIT = [
    (("-m", "64M"), Limits(memory="64M")),
    (("--memory", "64M", "--swap", "0"), Limits(memory="64M", swap=0)),
    (("--memory-high", "1G"), Limits(memory_high="1G")),
    (("--cpus", "1.5"), Limits(cpus=1.5)),
    (("--cpu-weight", "50"), Limits(cpu_weight=50)),
    (("--cpu-time", "3"), Limits(cpu_time=3)),
    (("--pids", "32"), Limits(pids=32)),
    (("--pids-limit", "32"), Limits(pids=32)),
    (("--cpuset-cpus", "0-1"), Limits(cpuset="0-1")),
    (
        ("--device-read-bps", "/dev/vda:10M", "--device-write-iops", "/dev/vda:100"),
        Limits(io={"/dev/vda": {"rbps": "10M", "wiops": 100}}),
    ),
]


@pytest.mark.parametrize(("arguments", "limits"), ONE_LIMIT, ids=lambda value: str(value)[:40])
def test_limits(arguments: tuple[str, ...], limits: Limits) -> None:
    """docker run's names for limits, and the cgroup's own where docker has none."""
    assert spec_of(*arguments).limits == limits


@pytest.mark.parametrize(
    ("arguments", "mounts"),
    [
        (("-v", "/a:/b"), (Bind("/a", "/b"),)),
        (("-v", "/a:/b:ro"), (Bind("/a", "/b", readonly=True),)),
        (
            ("-v", "/a:/b:ro,noexec,suid,dev"),
            (Bind("/a", "/b", True, nosuid=False, nodev=False, noexec=True),),
        ),
        (("--bind", "/a", "/b"), (Bind("/a", "/b"),)),
        (("--ro-bind", "/a", "/b"), (Bind("/a", "/b", readonly=True),)),
        (("--ro-bind-try", "/a", "/b"), (Bind("/a", "/b", readonly=True, optional=True),)),
        (("--tmpfs", "/t"), (Tmpfs("/t"),)),
        (("--tmpfs", "/t:size=1M,mode=1777,noexec"), (Tmpfs("/t", size="1M", mode=0o1777, noexec=True),)),
        (("--mount", "type=bind,source=/a,target=/b,readonly"), (Bind("/a", "/b", readonly=True),)),
        (("--mount", "src=/a,dst=/b,ro=true"), (Bind("/a", "/b", readonly=True),)),
        (
            ("--mount", "type=tmpfs,destination=/t,tmpfs-size=1M,tmpfs-mode=700"),
            (Tmpfs("/t", size="1M", mode=0o700),),
        ),
        (
            ("--mount", "type=overlay,target=/o,lowerdir=/a:/b,upperdir=/u,workdir=/w"),
            (Overlay(["/a", "/b"], "/u", "/w", target="/o"),),
        ),
        (("--mount", "type=proc,target=/p,subset=pid"), (Proc("/p", subset="pid"),)),
        (("--mount", "type=sysfs,target=/s"), (Sysfs("/s"),)),
        (("--symlink", "usr/bin", "/bin2"), (Symlink("usr/bin", "/bin2"),)),
        (("--mqueue", "/q", "--proc", "/p"), (Mqueue("/q"), Proc("/p"))),
    ],
    ids=lambda value: str(value)[:50],
)
def test_mounts(arguments: tuple[str, ...], mounts: tuple[object, ...]) -> None:
    """docker run's -v, --mount and --tmpfs, bwrap's --bind and its like."""
    assert spec_of(*arguments).mounts == mounts


def test_mounts_keep_the_order_of_the_command_line() -> None:
    """A later mount covers an earlier one, so kinds must not be sorted (bwrap users rely on it)."""
    mounts = spec_of("--tmpfs", "/a", "-v", "/x:/a/x", "--ro-bind", "/y", "/a/y", "--tmpfs", "/a/x/z").mounts
    assert [mount.target for mount in mounts] == ["/a", "/a/x", "/a/y", "/a/x/z"]


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("-w", "/work"), "cwd", "/work"),
        (("--chdir", "/work"), "cwd", "/work"),
        (("-u", "1000:1000"), "user", "1000:1000"),
        (("--group-add", "7", "--group-add", "audio"), "groups", (7, "audio")),
        (("--hostname", "box"), "hostname", "box"),
        (("--name", "job"), "name", "job"),
        (("--no-init", "true"), "init", False),
        (("--umask", "077"), "umask", 0o077),
        (("--nice", "5"), "nice", 5),
        (("--oom-score-adj", "-5"), "oom_score_adj", -5),
        (("--sysctl", "net.ipv4.ip_forward=1"), "sysctl", {"net.ipv4.ip_forward": "1"}),
        (("--ulimit", "nofile=64:128"), "rlimits", {"nofile": (64, 128)}),
        (("--ulimit", "core=0"), "rlimits", {"core": (0, 0)}),
        (("--ulimit", "stack=unlimited"), "rlimits", {"stack": (2**64 - 1, 2**64 - 1)}),
        (("--uidmap", "0:1000", "--gidmap", "0:1000:1"), "uid_map", (IdMap(0, 1000, 1),)),
        (("--preserve-fd", "5"), "pass_fds", (5,)),
        (("--device", "/dev/fuse"), "devices", ("/dev/fuse",)),
        (("--network", "host"), "namespaces", Namespaces(network=False)),
        (("--net", "none"), "namespaces", Namespaces()),
        (
            ("--pid", "ns:/proc/7/ns/pid", "--ipc", "host", "true"),
            "namespaces",
            Namespaces(pid="/proc/7/ns/pid", ipc=False),
        ),
        (("--rootfs", "/srv"), "rootfs", Directory("/srv")),
        (("--rootfs", "/srv", "--read-only"), "rootfs", Directory("/srv", readonly=True)),
        (("--rootfs", "none"), "rootfs", None),
        (("--rootfs", "host", "--read-only"), "rootfs", HostView()),
        (("--overlay", "/a:/b", "--overlay", "/c"), "rootfs", Overlay(["/a", "/b", "/c"])),
        (("--overlay", "/a", "--upper", "/u", "--work", "/w"), "rootfs", Overlay(["/a"], "/u", "/w")),
        (
            ("--cap-add", "net_admin", "--cap-add", "CAP_CHOWN"),
            "security",
            Security(capabilities=("CAP_NET_ADMIN", "CAP_CHOWN")),
        ),
        (("--seccomp", "unconfined"), "security", Security(seccomp=None)),
        (("--security-opt", "seccomp=strict"), "security", Security(seccomp="strict")),
        (("--security-opt", "no-new-privileges"), "security", Security(no_new_privs=True)),
        (("--security-opt", "no-new-privileges:false"), "security", Security(no_new_privs=False)),
        (("--security-opt", "apparmor=mine"), "security", Security(apparmor="mine")),
        (
            ("--security-opt", "systempaths=unconfined"),
            "security",
            Security(masked_paths=(), readonly_paths=()),
        ),
        (("--privileged",), "security", Security(privileged=True)),
    ],
    ids=lambda value: str(value)[:50],
)
def test_single_options(arguments: tuple[str, ...], field: str, value: object) -> None:
    """One option, one field; all others stay as a Spec has them."""
    spec = spec_of(*arguments)
    assert getattr(spec, field) == value
    touched = {field, "command"} | ({"gid_map"} if field == "uid_map" else set())
    untouched = [name.name for name in attrs.fields(Spec) if name.name not in touched]
    assert {name: getattr(spec, name) for name in untouched} == {
        name: getattr(Spec(), name) for name in untouched
    }


def test_environment() -> None:
    """NAME=VALUE sets, NAME hands ours on, a NAME that we lack is passed over (docker run does so)."""
    spec = spec_of("-e", "A=1", "-e", "OURS", "-e", "MISSING", "--setenv", "B", "x=y", "-e", "C=")
    assert spec.env is not None
    assert (spec.env["A"], spec.env["B"], spec.env["C"]) == ("1", "x=y", "")
    assert spec.inherit_env == ("OURS",)
    assert {"PATH", "HOME", "LANG"} < set(spec.env), "what is added comes on top of the default environment"


def test_home_is_left_to_the_containers_own_passwd() -> None:
    """Only the container knows where a named user lives; a guess would be wrong."""
    assert "HOME" not in (spec_of("-u", "anna", "-e", "A=1").env or {})
    assert (spec_of("-u", "0", "--rootfs", "/srv", "-e", "A=1").env or {})["HOME"] == "/root"


def test_an_empty_environment() -> None:
    """--clearenv starts from nothing at all."""
    spec = spec_of("--clearenv", "-e", "A=1")
    assert (spec.env, spec.inherit_env) == ({"A": "1"}, ())


def test_an_env_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """As docker's: comments and blank lines are passed over, and -e has the last word."""
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\nB=file=2\nOURS\n")
    spec = spec_of("--env-file", str(file), "-e", "A=option")
    assert spec.env is not None
    assert (spec.env["A"], spec.env["B"], spec.inherit_env) == ("option", "file=2", ("OURS",))


def test_options_override_a_spec_file() -> None:
    """What is one value is replaced; what is many is added to."""
    base = Spec(
        ["from", "file"],
        env={"A": "1", "B": "2"},
        mounts=[Tmpfs("/one")],
        limits=Limits(memory="1G", pids=9),
        security=Security(capabilities=("CAP_CHOWN", "CAP_KILL")),
        rlimits={"core": 0},
    )
    spec = spec_of(
        "-e", "A=3", "--tmpfs", "/two", "-m", "2G", "--cap-drop", "kill", "--ulimit", "nofile=5", base=base
    )
    assert spec.command == ("from", "file")
    assert spec.env == {"A": "3", "B": "2"}
    assert [mount.target for mount in spec.mounts] == ["/one", "/two"]
    assert spec.limits == Limits(memory="2G", pids=9)
    assert spec.security.capabilities == ("CAP_CHOWN",)
    assert spec.rlimits == {"core": (0, 0), "nofile": (5, 5)}
    assert spec_of("other", base=base).command == ("other",)


def test_cap_drop_all_leaves_what_is_added() -> None:
    """docker's usual pair: drop all, add one."""
    base = Spec(security=Security(capabilities=("CAP_CHOWN", "CAP_KILL")))
    assert spec_of("--cap-drop", "ALL", "--cap-add", "fowner", base=base).security.capabilities == (
        "CAP_FOWNER",
    )


def test_options_end_at_the_command() -> None:
    """`creche run ls -l` is about ls's -l; `--` ends options too."""
    assert spec_of("-m", "64M", "ls", "-m", "--memory").command == ("ls", "-m", "--memory")
    assert spec_of("--", "-odd").command == ("-odd",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-v", "/a"), "SOURCE:TARGET"),
        (("-v", "/a:/b:rx"), "'rx' is not one of"),
        (("--mount", "type=nfs,target=/x"), "type is bind"),
        (("--mount", "type=bind,target=/x"), "source=SOURCE"),
        (("--mount", "type=bind,src=/a,dst=/x,bind-propagation=shared"), "bind-propagation"),
        (("--tmpfs", "/t:mode=9"), "octal"),
        (("--ulimit", "nofile"), "NAME=SOFT"),
        (("--ulimit", "nofile=many"), "NAME=SOFT"),
        (("--uidmap", "0"), "INSIDE:OUTSIDE"),
        (("--network", "bridge"), "host, none or ns:PATH"),
        (("--pid", "container:x"), "host, private or ns:PATH"),
        (("--security-opt", "proc-opts=x"), "--security-opt"),
        (("--seccomp", "/nonexistent/x.json"), "No such file"),
        (("--umask", "u=rwx"), "octal"),
        (("--env", "=x"), "NAME=VALUE"),
        (("--sysctl", "kernel.x"), "NAME=VALUE"),
        (("--rootfs", "/a", "--overlay", "/b"), "give one of them"),
        (("--upper", "/a"), "belong to --overlay"),
        (("--rootfs", "none", "--read-only"), "--read-only needs"),
        (("--no-such-option",), "No such option"),
        (("--nice", "much"), "not a valid integer"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_read_is_a_usage_error(arguments: tuple[str, ...], words: str) -> None:
    """With the option's name and what would be right."""
    with pytest.raises(click.UsageError) as caught:
        spec_of(*arguments)
    assert words in caught.value.format_message()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "12 apples"),
        ("-m", "0"),
        ("--cpus", "-1"),
        ("--pids", "0"),
        ("-w", "relative"),
        ("--cap-add", "fly"),
    ],
)
def test_what_makes_no_sense_is_the_specs_own_error(arguments: tuple[str, ...]) -> None:
    """The Spec judges values, so the command line and the library say the same."""
    with pytest.raises(SpecError):
        spec_of(*arguments)
