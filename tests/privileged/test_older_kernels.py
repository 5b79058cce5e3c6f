"""The ways of older kernels, taken on this one by a Machine that claims to be old: overlays by mount(2), upper layers on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from privileged.look import ROOT, run, sh

import creche
from creche import Directory, IdMap, Overlay, Security, SpawnError, Tmpfs, UnsupportedError
from creche.machine import Machine, probe
from needs import needs

pytestmark = needs("userns", "native", "busybox", "overlay")


@pytest.fixture(autouse=True, params=[(6, 1, 0), (5, 14, 0), (6, 6, 0)], ids=str)
def old(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    kernel: tuple[int, int, int] = request.param

    def older(**asked: Any) -> Machine:
        return attrs.evolve(probe(**asked), kernel=kernel, release=".".join(map(str, kernel)))

    monkeypatch.setattr("creche.starting.probe", older)
    return kernel


def test_the_default_view() -> None:
    assert sh("echo here; ls / | wc -l").startswith("here")


def test_a_directory_and_its_mounts(image: Path) -> None:
    assert sh("echo x > /srv/f; cat /srv/f; ls /t", rootfs=Directory(image), mounts=[Tmpfs("/t")]) == "x"


def test_a_throw_away_upper_leaves_nothing(image: Path) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    assert sh("ls /srv; echo x > /srv/x; cat /srv/x; rm /etc/passwd; ls /etc", rootfs=Overlay([image])) == "x\ngroup"
    assert set(os.listdir(tempfile.gettempdir())) == before
    assert os.listdir(image / "srv") == [] and (image / "etc/passwd").exists()


@(needs() if ROOT else needs("subids", "newuidmap"))
def test_what_other_users_left_in_a_throw_away_upper_is_gone_too(image: Path) -> None:
    before = set(os.listdir("/var/tmp")) | set(os.listdir(tempfile.gettempdir()))
    machine = probe()
    maps: dict[str, Any] = {} if ROOT else {
        "uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, machine.subuid[0][0], 99)], "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, machine.subgid[0][0], 99)],
    }  # fmt: skip
    sh("mkdir /srv/d; touch /srv/d/f; chmod 700 /srv/d; chown -R 7:8 /srv/d", rootfs=Overlay([image]), security=Security(capabilities=["CAP_CHOWN"]), **maps)
    assert set(os.listdir("/var/tmp")) | set(os.listdir(tempfile.gettempdir())) == before


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "a b", "ä€", "new\nline", "-o"])
def test_layers_of_any_name(tmp_path: Path, name: str) -> None:
    for layer in ("one", "two", "upper", "work"):
        (tmp_path / name / layer).mkdir(parents=True)
    (tmp_path / name / "one/both").write_text("one")
    (tmp_path / name / "two/both").write_text("two")
    (tmp_path / name / "two/only").write_text("only")
    folder = tmp_path / name
    overlay = Overlay([folder / "one", folder / "two"], folder / "upper", folder / "work", target="/o")
    assert sh("cat /o/both /o/only; echo new > /o/new; rm /o/only; ls /o", mounts=[overlay]) == "oneonlyboth\nnew"
    assert (folder / "upper/new").read_text() == "new\n"
    assert sh("ls /o", mounts=[overlay]) == "both\nnew"


def test_read_only_and_several(tmp_path: Path, image: Path) -> None:
    for layer in ("one", "two"):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / layer).touch()
    mounts = [Overlay([tmp_path / "one", tmp_path / "two"], target="/a", readonly=True), Overlay([tmp_path / "one"], target="/b")]
    result = run("ls /a /b; touch /a/x; touch /b/x && ls /b", rootfs=Overlay([image], readonly=True), mounts=mounts)
    assert result.stdout == b"/a:\none\ntwo\n\n/b:\none\none\nx\n" and b"Read-only" in result.stderr


def test_copy_up(image: Path, old: tuple[int, int, int]) -> None:
    (image / "srv/a").write_text("from the image")
    given: dict[str, Any] = {"rootfs": Directory(image), "mounts": [Tmpfs("/srv", copy_up=True)]}
    if old < (6, 6, 0):
        with pytest.raises(UnsupportedError, match=r"6\.6") as caught:
            run(["/bin/true"], **given)
        assert caught.value.hint
        return
    assert sh("cat /srv/a; echo b > /srv/b; ls /srv", **given) == "from the imagea\nb"
    assert not (image / "srv/b").exists()


def test_more_lowers_than_fit_a_page_are_refused_with_a_reason(tmp_path: Path) -> None:
    lowers = [tmp_path / f"{index:03}" for index in range(300)]
    for lower in lowers:
        lower.mkdir()
    assert sh("ls /o", mounts=[Overlay(lowers[:150], target="/o")]) == ""
    with pytest.raises(SpawnError, match=r"6\.7") as caught:
        run(["true"], mounts=[Overlay(lowers, target="/o")])
    assert caught.value.field == "mounts[0]" and isinstance(caught.value, creche.SpawnError)
