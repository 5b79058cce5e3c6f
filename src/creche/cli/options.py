"""Options of `creche run` and `creche plan` to a Spec: a pure function, so that a table can test it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from creche import Spec

__all__ = ["MOUNTS", "OPTION_OF_FIELD", "build_spec"]

#: Parameters whose values become mounts; their order on the command line is the order of the mounts.
MOUNTS = (
    "volume",
    "mount",
    "tmpfs",
    "bind",
    "ro_bind",
    "bind_try",
    "ro_bind_try",
    "symlink",
    "proc",
    "mqueue",
)

#: For error messages: the option in which a field of the Spec is given.
OPTION_OF_FIELD = {
    "command": "COMMAND",
    "env": "--env",
    "inherit_env": "--env",
    "cwd": "--workdir",
    "user": "--user",
    "groups": "--group-add",
    "hostname": "--hostname",
    "domainname": "--domainname",
    "uid_map": "--uidmap",
    "gid_map": "--gidmap",
    "rootfs": "--rootfs",
    "devices": "--device",
    "rlimits": "--ulimit",
    "umask": "--umask",
    "nice": "--nice",
    "oom_score_adj": "--oom-score-adj",
    "sysctl": "--sysctl",
    "pass_fds": "--preserve-fd",
    "name": "--name",
    "limits.memory": "--memory",
    "limits.memory_high": "--memory-high",
    "limits.swap": "--swap",
    "limits.cpus": "--cpus",
    "limits.cpu_weight": "--cpu-weight",
    "limits.cpu_time": "--cpu-time",
    "limits.cpuset": "--cpuset-cpus",
    "limits.cpuset_mems": "--cpuset-mems",
    "limits.pids": "--pids",
    "limits.io": "--device-read-bps and its like",
    "limits.io_weight": "--blkio-weight",
    "security.capabilities": "--cap-add",
    "security.seccomp": "--seccomp",
    "security.seccomp_report": "--report-violations",
    "security.apparmor": "--security-opt apparmor=",
    "security.selinux": "--security-opt label=",
}

_LIMITS = {
    "memory": "memory",
    "memory_high": "memory_high",
    "swap": "swap",
    "cpus": "cpus",
    "cpu_weight": "cpu_weight",
    "cpu_time": "cpu_time",
    "cpuset_cpus": "cpuset",
    "cpuset_mems": "cpuset_mems",
    "pids": "pids",
    "blkio_weight": "io_weight",
}
_IO = {
    "device_read_bps": "rbps",
    "device_write_bps": "wbps",
    "device_read_iops": "riops",
    "device_write_iops": "wiops",
}
_PLAIN = ("hostname", "domainname", "nice", "oom_score_adj", "name", "init", "user")
_NAMESPACES = {
    "network": "network",
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "userns": "user",
    "cgroupns": "cgroup",
}


def build_spec(
    given: Mapping[str, Any],
    command: Sequence[str] = (),
    *,
    order: Sequence[str] = (),
    base: Spec | None = None,
    environ: Mapping[str, str] | None = None,
) -> Spec:
    """The Spec that the options ask for; those that are None or empty leave *base* (a spec file's) as it is.

    *order* names the parameters as they came on the command line, once for each time. Raises SpecError for values
    that make no sense, and click's BadParameter for text that can't be taken apart.
    """
    import attrs

    from creche import Spec

    start = Spec() if base is None else base
    if given.get("preset") is not None:
        from creche.spec.presets import preset

        start = attrs.evolve(
            start, security=preset(given["preset"])
        )  # in place of all that a spec file says of it
    fields: dict[str, Any] = {name: given[name] for name in _PLAIN if given.get(name) is not None}
    if command:
        fields["command"] = list(command)
    if given.get("workdir") is not None:
        fields["cwd"] = given["workdir"]
    if given.get("umask") is not None:
        fields["umask"] = _octal(given["umask"], "--umask")
    if given.get("group_add"):
        fields["groups"] = [
            *(start.groups or ()),
            *(int(g) if g.isdecimal() else g for g in given["group_add"]),
        ]
    if given.get("preserve_fd"):
        fields["pass_fds"] = [*start.pass_fds, *given["preserve_fd"]]
    if given.get("device"):
        fields["devices"] = [*start.devices, *given["device"]]
    fields |= _environment(given, start, os.environ if environ is None else environ)
    fields |= _id_maps(given)
    fields |= _root(given, start)
    mounts = _mounts(given, order)
    if mounts:
        fields["mounts"] = [*start.mounts, *mounts]
    limits = _limits(given, start)
    if limits:
        fields["limits"] = attrs.evolve(start.limits, **limits)
    security = _security(given, start)
    if security:
        fields["security"] = attrs.evolve(start.security, **security)
    namespaces = _namespaces(given)
    if namespaces:
        fields["namespaces"] = attrs.evolve(start.namespaces, **namespaces)
    if given.get("ulimit"):
        fields["rlimits"] = {**start.rlimits, **dict(_ulimit(text) for text in given["ulimit"])}
    if given.get("sysctl"):
        fields["sysctl"] = {
            **start.sysctl,
            **dict(_pair(text, "--sysctl", "NAME=VALUE") for text in given["sysctl"]),
        }
    return attrs.evolve(start, **fields)


def _bad(option: str, text: str, wish: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is not {wish}", param_hint=f"'{option}'")


def _pair(text: str, option: str, wish: str, separator: str = "=") -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        raise _bad(option, text, wish)
    return name, value


def _octal(text: str, option: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise _bad(option, text, "an octal number such as 022") from None


def _environment(given: Mapping[str, Any], start: Spec, environ: Mapping[str, str]) -> dict[str, Any]:
    """-e NAME=VALUE sets, -e NAME hands ours on (as in docker run); --clearenv starts from nothing (as in bwrap)."""
    fields: dict[str, Any] = {}
    added: dict[str, str] = {}
    inherited: list[str] = []
    for path in given.get("env_file") or ():
        for line in _lines(path):
            name, found, value = line.partition("=")
            if found:
                added[name] = value
            elif name in environ:
                inherited.append(name)
    for text in given.get("env") or ():
        name, found, value = text.partition("=")
        if not name:
            raise _bad("--env", text, "NAME=VALUE or NAME")
        if found:
            added[name] = value
        elif name in environ:
            inherited.append(name)
    added.update(given.get("setenv") or ())
    if given.get("clearenv"):
        fields["env"], fields["inherit_env"] = added, inherited
    elif added or inherited:
        fields["inherit_env"] = [*start.inherit_env, *inherited]
        if start.env is None:
            # the default environment stays under what is added: Spec(env=None) and these on top of it
            fields["env"] = {**_default_environment(given, start), **added} if added else None
        else:
            fields["env"] = {**start.env, **added}
    return fields


def _default_environment(given: Mapping[str, Any], start: Spec) -> dict[str, str]:
    """What a Spec without env has. HOME is left out where it depends on a passwd that only the container has."""
    import attrs

    from creche.plan.command import Account, environment

    spec = attrs.evolve(
        start, env=None, inherit_env=(), **_root(given, start), user=given.get("user") or start.user
    )
    ref = spec.user_ref
    default = environment(spec, Account(ref.uid if ref and ref.uid is not None else 0, 0), {})
    if ref is not None and ref.name is not None:
        del default["HOME"]
    return default


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="'--env-file'") from None
    return [line for line in (raw.strip() for raw in text.splitlines()) if line and not line.startswith("#")]


def _id_maps(given: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option, field in (("uidmap", "uid_map"), ("gidmap", "gid_map")):
        if given.get(option):
            fields[field] = [_id_map(text, "--" + option) for text in given[option]]
    return fields


def _id_map(text: str, option: str) -> Any:
    from creche import IdMap

    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise _bad(option, text, "INSIDE:OUTSIDE[:COUNT]")
    return IdMap(int(parts[0]), int(parts[1]), int(parts[2]) if len(parts) == 3 else 1)


def _root(given: Mapping[str, Any], start: Spec) -> dict[str, Any]:
    from creche import Directory, HostView, Overlay

    where, lower = given.get("rootfs"), given.get("overlay") or ()
    if where is not None and lower:
        raise click.UsageError("--rootfs and --overlay both say what the root is: give one of them")
    if (given.get("upper") or given.get("work")) and not lower:
        raise click.UsageError("--upper and --work belong to --overlay")
    root: Any = start.rootfs
    if where == "host":
        root = HostView()
    elif where == "none":
        root = None
    elif where is not None:
        root = Directory(os.path.abspath(where))
    elif lower:
        parts = [os.path.abspath(part) for text in lower for part in text.split(":")]
        upper, work = (
            os.path.abspath(given[name]) if given.get(name) else None for name in ("upper", "work")
        )
        root = Overlay(lower=parts, upper=upper, work=work)
    elif not given.get("read_only"):
        return {}
    if given.get("read_only") and not isinstance(root, HostView):
        if root is None:
            raise click.UsageError(
                "--read-only needs a root of the container's own: --rootfs DIR or --overlay DIR"
            )
        import attrs

        root = attrs.evolve(root, readonly=True)
    return {"rootfs": root}


def _mounts(given: Mapping[str, Any], order: Sequence[str]) -> list[Any]:
    from . import mounts

    return [
        mounts.MAKERS[name](value)
        for name, value in _in_order({name: list(given.get(name) or ()) for name in MOUNTS}, order)
    ]


def _in_order(values: dict[str, list[Any]], order: Sequence[str]) -> list[tuple[str, Any]]:
    """The values as they came; without an order they go by kind."""
    found = [(name, values[name].pop(0)) for name in order if values.get(name)]
    return found + [(name, value) for name, rest in values.items() for value in rest]


def _limits(given: Mapping[str, Any], start: Spec) -> dict[str, Any]:
    fields: dict[str, Any] = {
        field: given[name] for name, field in _LIMITS.items() if given.get(name) is not None
    }
    io: dict[str, dict[str, Any]] = {path: dict(limits) for path, limits in (start.limits.io or {}).items()}
    for name, key in _IO.items():
        for text in given.get(name) or ():
            path, rate = _pair(text, "--" + name.replace("_", "-"), "DEVICE:RATE", ":")
            io.setdefault(path, {})[key] = int(rate) if rate.isdecimal() else rate
            fields["io"] = io
    return fields


def _security(given: Mapping[str, Any], start: Spec) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    capabilities = [*start.security.capabilities, *(_capability(name) for name in given.get("cap_add") or ())]
    dropped = {_capability(name) for name in given.get("cap_drop") or ()}
    if given.get("cap_add") or dropped:
        kept = () if "CAP_ALL" in dropped else (name for name in capabilities if name not in dropped)
        added = [_capability(name) for name in given.get("cap_add") or ()]
        fields["capabilities"] = list(dict.fromkeys([*kept, *added]))
    if given.get("privileged"):
        fields["privileged"] = True
    if given.get("report_violations"):
        fields["seccomp_report"] = True
    for text in given.get("security_opt") or ():
        fields |= _security_opt(text)
    if given.get("seccomp") is not None:
        fields["seccomp"] = _seccomp(given["seccomp"], "--seccomp")
    return fields


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CAP_") else "CAP_" + upper


def _security_opt(text: str) -> dict[str, Any]:
    """docker run's --security-opt, with "=" or ":" between name and value."""
    name, _, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
    if name == "seccomp" and value:
        return {"seccomp": _seccomp(value, "--security-opt")}
    if name == "no-new-privileges" and value in ("", "true", "false"):
        return {"no_new_privs": value != "false"}
    if name == "apparmor" and value:
        return {"apparmor": value}
    if name == "label" and value:
        return {"selinux": value}
    if name == "systempaths" and value == "unconfined":
        return {"masked_paths": [], "readonly_paths": []}
    wish = "seccomp=…, no-new-privileges[=false], apparmor=PROFILE, label=CONTEXT or systempaths=unconfined"
    raise _bad("--security-opt", text, wish)


def _seccomp(value: str, option: str) -> Any:
    """A built-in filter's name, "unconfined" (or "none") for no filter, or a file in Docker's JSON."""
    if value in ("default", "strict"):
        return value
    if value in ("unconfined", "none"):
        return None
    import json

    try:
        with open(value, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        wish = f"default, strict, unconfined or a file that can be read ({error.strerror})"
        raise _bad(option, value, wish) from None
    except ValueError as error:
        raise _bad(option, value, f"a file of JSON: {error}") from None


def _namespaces(given: Mapping[str, Any]) -> dict[str, Any]:
    """--pid host shares ours, --pid private makes a new one, --pid ns:PATH joins one."""
    fields: dict[str, Any] = {}
    for option, field in _NAMESPACES.items():
        value = given.get(option)
        if value is None:
            continue
        if value == "host":
            fields[field] = False
        elif value in ("private", "none"):
            fields[field] = True
        elif value.startswith("ns:") and len(value) > 3:
            fields[field] = value[3:]
        else:
            own = "none" if option == "network" else "private"
            raise _bad("--" + option, value, f"host, {own} or ns:PATH")
    return fields


def _ulimit(text: str) -> tuple[str, Any]:
    name, value = _pair(text, "--ulimit", "NAME=SOFT[:HARD]")
    soft, found, hard = value.partition(":")
    pair = [_rlimit(part, text) for part in ((soft, hard) if found else (soft, soft))]
    return name, (pair[0], pair[1])


def _rlimit(text: str, whole: str) -> Any:
    if text in ("unlimited", "-1"):
        return "unlimited"
    if not text.isdecimal():
        raise _bad("--ulimit", whole, "NAME=SOFT[:HARD], in numbers or the word unlimited")
    return int(text)
