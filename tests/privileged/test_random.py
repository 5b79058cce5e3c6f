"""Specs put together by chance and really started: each runs, or says in a typed error which field and what to do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from privileged.look import run

from creche import (
    Bind,
    DevPts,
    Directory,
    File,
    HostView,
    Landlock,
    Mqueue,
    Namespaces,
    Overlay,
    Proc,
    Security,
    SpawnError,
    Spec,
    SpecError,
    Symlink,
    Sysfs,
    Tmpfs,
    UnsupportedError,
)
from needs import needs

pytestmark = needs("userns", "native", "busybox", "overlay")
TARGETS = ["/srv", "/srv/a", "/tmp/x", "/data/y/z", "/etc/foo", "/dev/foo", "/opt/q", "/proc/q", "/dev/shm/x", "/tmp", "/dev", "/"]


def chosen(choose: random.Random, folder: Path, image: Path, number: int) -> dict[str, Any]:
    """The fields of a Spec, most of which can be had."""
    layers = [folder / f"{number}-{name}" for name in ("upper", "work")]
    for layer in layers:
        layer.mkdir()
    one, two = folder / "one", folder / "two"

    def maybe(share: float) -> bool:
        return choose.random() < share

    def mount() -> Any:
        target = choose.choice(TARGETS[:-1])
        return choose.choice(
            [
                Bind(choose.choice([one, two]), target, readonly=maybe(0.5)), Bind(one / "f", target, readonly=maybe(0.5)), Tmpfs(target, size="1M", copy_up=maybe(0.2)),
                File(target + "/f", b"x"), Symlink("/x", target + "/l"), Overlay([one, two], target=target, readonly=maybe(0.3)), Mqueue(target),
                DevPts(choose.choice(["/dev/pts", target])), Proc(choose.choice(["/proc", target])), Sysfs(choose.choice(["/sys", target])),
            ]
        )  # fmt: skip

    fields: dict[str, Any] = {
        "rootfs": choose.choice([HostView(), HostView(), Directory(image), Directory(image, readonly=True), Overlay([image]), Overlay([image], *layers), None]),
        "mounts": [mount() for _ in range(choose.randrange(4))],
        "init": maybe(0.7),
        "tty": maybe(0.2),
        "namespaces": Namespaces(pid=maybe(0.85), network=maybe(0.8), ipc=maybe(0.8), uts=maybe(0.8), cgroup=maybe(0.8), time=maybe(0.3)),
    }
    if maybe(0.3):
        fields["user"] = choose.choice([5, "ann", "7:8", "root", "nobody"])
    if maybe(0.2):
        fields["cwd"] = choose.choice(["/srv", "/tmp", "/nope"])
    if maybe(0.3):
        fields["security"] = choose.choice(
            [
                Security(seccomp=None), Security(seccomp="strict"), Security(capabilities=["CAP_CHOWN"]), Security(masked_paths=["/srv"], readonly_paths=["/tmp"]),
                Security(landlock=Landlock(read=["/"], execute=["/"], best_effort=True)),
            ]
        )  # fmt: skip
    return fields


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30))])
def test_it_runs_or_says_why_not(image: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    tmp_path.chmod(0o755)
    ran = 0
    for number in range(40):
        try:
            spec = Spec(["true"], **chosen(choose, tmp_path, image, number))
        except SpecError:
            continue
        try:
            result = run(spec, timeout=30)
        except SpawnError as error:
            assert error.field and error.errno and error.hint, f"{error} of {spec}"
        except UnsupportedError as error:
            assert error.hint, f"{error} of {spec}"
        except SpecError as error:
            assert error.field and error.wish
        else:
            assert result.exit.ok, f"{result.exit.explain()} of {spec}"
            ran += 1
    assert ran >= 5
