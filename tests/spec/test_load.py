"""Specs in files: what is read, what is written, and where an error says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from spec.refusals import refused

from creche.errors import SpecError
from creche.spec import (
    Bind,
    Directory,
    File,
    HostView,
    IdMap,
    Landlock,
    Limits,
    Overlay,
    SeccompRules,
    Security,
    Spec,
)
from creche.spec.schema import json_schema

SCHEMA = jsonschema.Draft202012Validator(json_schema())

TOML = """
command = ["python3", "-m", "http.server"]
user = "1000:1000"
hostname = "box"
rootfs = { type = "overlay", lower = ["/srv/app", "/srv/base"] }

[env]
LANG = "C"

[limits]
memory = "64M"
cpus = 0.5
io = { "/srv" = { rbps = "10M" } }

[[uid_map]]
inside = 0
outside = 100000
count = 65536

[[mounts]]
type = "bind"
source = "/srv/data"
target = "/data"
readonly = true

[[mounts]]
type = "file"
target = "/etc/motd"
content = "hello\\n"
mode = 0o444

[security]
capabilities = ["CAP_NET_BIND_SERVICE"]
seccomp = { allow = ["ptrace"] }
landlock = { read = ["/"], tcp_connect = [443] }
"""
MEANT = Spec(
    ["python3", "-m", "http.server"],
    user="1000:1000",
    hostname="box",
    rootfs=Overlay(["/srv/app", "/srv/base"]),
    env={"LANG": "C"},
    limits=Limits(memory="64M", cpus=0.5, io={"/srv": {"rbps": "10M"}}),
    uid_map=[IdMap(0, 100000, 65536)],
    mounts=[Bind("/srv/data", "/data", readonly=True), File("/etc/motd", b"hello\n", mode=0o444)],
    security=Security(
        capabilities=["CAP_NET_BIND_SERVICE"],
        seccomp=SeccompRules(allow=["ptrace"]),
        landlock=Landlock(read=["/"], tcp_connect=[443]),
    ),
)


def _write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = Spec.from_file(_write(tmp_path, "a.toml", TOML))
    assert toml == MEANT
    assert Spec.from_file(str(_write(tmp_path, "a.JSON", json.dumps(toml.to_dict())))) == MEANT


@pytest.mark.parametrize(
    ("fields", "spec"),
    [
        ({"command": ["a"]}, Spec(["a"])),
        ({"command": ["a"], "rootfs": "none"}, Spec(["a"], rootfs=None)),
        ({"command": ["a"], "rootfs": None}, Spec(["a"], rootfs=None)),
        ({"command": ["a"], "rootfs": "hostview"}, Spec(["a"], rootfs=HostView())),
        ({"command": ["a"], "rootfs": {"type": "hostview"}}, Spec(["a"])),
        (
            {"command": ["a"], "rootfs": {"type": "directory", "path": "/x"}},
            Spec(["a"], rootfs=Directory("/x")),
        ),
        ({"command": ["a"], "security": {"seccomp": "none"}}, Spec(["a"], security=Security(seccomp=None))),
        ({"command": ["a"], "limits": None}, Spec(["a"])),
        ({"command": ["a"], "limits": Limits(pids=3)}, Spec(["a"], limits=Limits(pids=3))),
        (
            {"command": ["a"], "mounts": [{"type": "file", "target": "/f", "content": {"base64": "/wA="}}]},
            Spec(["a"], mounts=[File("/f", b"\xff\0")]),
        ),
        (
            {"command": ["a"], "security": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}},
            Spec(["a"], security=Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW"})),
        ),
    ],
)
def test_plain_data_is_read(fields: dict[str, Any], spec: Spec) -> None:
    assert Spec.from_dict(fields) == spec


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        (Spec(["a"]), {"command": ["a"]}),
        (Spec(), {}),
        (Spec(["a"], rootfs=None), {"command": ["a"], "rootfs": "none"}),
        (Spec(["a"], env={}), {"command": ["a"], "env": {}}),
        (Spec(["a"], security=Security(seccomp=None)), {"command": ["a"], "security": {"seccomp": "none"}}),
        (
            Spec(["a"], security=Security(landlock=Landlock())),
            {"command": ["a"], "security": {"landlock": {}}},
        ),
        (
            Spec(["a"], limits=Limits(io={"/x": {"rbps": 1, "wiops": None}})),
            {"command": ["a"], "limits": {"io": {"/x": {"rbps": 1, "wiops": None}}}},
        ),
        (
            Spec(["a"], rlimits={"core": "unlimited"}),
            {"command": ["a"], "rlimits": {"core": ["unlimited"] * 2}},
        ),
        (
            Spec(["a"], mounts=[File("/f", b"\xff"), Bind("/a", "/b")]),
            {
                "command": ["a"],
                "mounts": [
                    {"type": "file", "target": "/f", "content": {"base64": "/w=="}},
                    {"type": "bind", "source": "/a", "target": "/b"},
                ],
            },
        ),
    ],
)
def test_only_what_differs_is_written(spec: Spec, plain: dict[str, Any]) -> None:
    assert spec.to_dict() == plain
    SCHEMA.validate(plain)


# (plain data, the field an error names, words of its wish, whether a JSON Schema can see it too)
REFUSED: list[tuple[Any, str, str, bool]] = [
    ({"comand": ["a"]}, "comand", "did you mean 'command'?", True),
    ({"limits": {"memroy": "1M"}}, "limits.memroy", "did you mean 'memory'?", True),
    ({"limits": {"memory": 0}}, "limits.memory", "256K", True),
    ({"limits": {"pids": "3"}}, "limits.pids", "number of processes", True),
    ({"limits": {"pids": True}}, "limits.pids", "", True),
    ({"limits": 3}, "limits", "Limits", True),
    ({"limits": {"memory": "1M", "memory_high": "2M"}}, "limits.memory_high", "", False),
    ({"command": "ls -l"}, "command", "give a list", True),
    ({"command": []}, "command", "", True),
    ({"mounts": {"type": "tmpfs"}}, "mounts", "list", True),
    ({"mounts": [{"target": "/t"}]}, "mounts[0].type", "bind", True),
    ({"mounts": [{"type": "tmpfss", "target": "/t"}]}, "mounts[0].type", "did you mean 'tmpfs'?", True),
    ({"mounts": [{"type": "bind", "source": "/a"}]}, "mounts[0].target", "required", True),
    ({"mounts": [{"type": "tmpfs", "target": "/a"}, {"type": "bind", "source": "/a", "target": "b"}]}, "mounts[1].target", "absolute", True),
    ({"mounts": [{"type": "bind", "source": "/a", "target": "/b", "readonly": "yes"}]}, "mounts[0].readonly", "", True),
    ({"mounts": [{"type": "bind", "source": "/a", "target": "/b", "uid_map": [{"inside": 0, "outside": 0}]}]}, "mounts[0].uid_map[0].count", "required", True),
    ({"mounts": [{"type": "overlay", "lower": ["/a"]}]}, "mounts[0].target", "", False),
    ({"mounts": [{"type": "overlay", "lower": ["/a", 3], "target": "/t"}]}, "mounts[0].lower[1]", "", True),
    ({"mounts": [{"type": "file", "target": "/f", "content": {"base64": "*"}}]}, "mounts[0].content.base64", "base64", True),
    ({"mounts": [{"type": "file", "target": "/f", "content": {"hex": "00"}}]}, "mounts[0].content", "base64", True),
    ({"mounts": ["none"]}, "mounts[0]", "", True),
    ({"uid_map": [{"inside": 0, "outside": 0, "count": 1}, {"inside": 0, "outside": 5, "count": 2**33}]}, "uid_map[1].count", "", True),
    ({"uid_map": [{"inside": 5, "outside": 0, "count": 2**32 - 1}]}, "uid_map[0].count", "2**32", False),
    ({"rootfs": "/srv"}, "rootfs", "Directory", True),
    ({"rootfs": {"type": "directory", "path": ""}}, "rootfs.path", "", True),
    ({"rootfs": {"type": "bind", "source": "/a", "target": "/b"}}, "rootfs.type", "hostview, directory, overlay", True),
    ({"namespaces": {"user": "yes"}}, "namespaces.user", "", True),
    ({"namespaces": None}, "namespaces", "", True),
    ({"security": {"landlock": {"read": ["usr"]}}}, "security.landlock.read[0]", "", True),
    ({"security": {"seccomp": {"allow": ["a"], "deny": ["a"]}}}, "security.seccomp.deny", "", False),
    ({"security": {"seccomp": {"defaultActoin": "x"}}}, "security.seccomp.defaultActoin", "", True),
    ({"network": {}}, "network", "", True),
    ({3: 4}, "Spec[3]", "no such field", False),
    ([], "Spec", "Spec", True),
    (None, "Spec", "", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "field", "wish", "seen"), REFUSED, ids=[f"{n}-{row[1]}" for n, row in enumerate(REFUSED)]
)
def test_an_error_tells_the_whole_path(data: Any, field: str, wish: str, seen: bool) -> None:
    refused(lambda: Spec.from_dict(data), field, wish)
    if seen:
        assert not SCHEMA.is_valid(data)


@pytest.mark.parametrize(
    ("name", "text", "field", "wish"),
    [
        ("a.yaml", "command: [a]", "Spec", ".toml or .json"),
        ("a", "{}", "Spec", ".toml or .json"),
        ("a.toml", "command = [", "Spec", "no valid TOML"),
        ("a.toml", "a = 1\na = 2", "Spec", "no valid TOML"),
        ("a.json", "{", "Spec", "no valid JSON"),
        ("a.json", b"\xff", "Spec", "no valid JSON"),
        ("a.json", "", "Spec", "no valid JSON"),
        ("a.json", "[" * 100_000, "Spec", "no valid JSON"),
        ("a.json", '{"limits": {"cpus": NaN}}', "Spec", "NaN"),
        ("a.json", '{"limits": {"cpus": 1e999}}', "limits.cpus", ""),
        ("a.json", '{"name": "a", "name": "b"}', "name", "twice"),
        ("a.json", '{"limits": {"pids": ' + "9" * 5000 + "}}", "Spec", "no valid JSON"),
        ("a.json", '{"command": ["a\\u0000"]}', "command[0]", "NUL"),
        ("a.toml", "cwd = 2020-01-01", "cwd", ""),
        ("a.json", b" " * ((32 << 20) + 1), "Spec", "MiB"),
    ],
)
def test_a_file_that_cannot_be_meant_is_a_spec_error(
    tmp_path: Path, name: str, text: str | bytes, field: str, wish: str
) -> None:
    path = _write(tmp_path, name, text)
    error = refused(lambda: Spec.from_file(path), field, wish)
    assert str(error).isprintable()


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Spec.from_file(tmp_path / "none.toml")


def test_a_hostile_key_is_shown_escaped() -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_dict({"\x1b[2J": 1})
    assert str(caught.value).isprintable()


def test_the_schema_knows_every_field() -> None:
    import attrs

    import creche.spec as room

    schema = json_schema()
    definitions = schema["$defs"] | {"Spec": schema}
    for name in room.__all__:
        cls = getattr(room, name)
        if isinstance(cls, type) and attrs.has(cls) and name != "UserRef":
            told = set(definitions[name]["properties"]) - {"type"}
            assert told == {item.name for item in attrs.fields(cls)}, name
