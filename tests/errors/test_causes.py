"""Each cause of a failed start as a typed error: the Spec's field, the path or value, what the kernel said, what to do."""

from __future__ import annotations

import errno as e
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from errors.causes import CAUSES, _elsewhere
from privileged.look import busybox_root, run

import creche
from creche import Container, File, Namespaces, Overlay, SpawnError, Spec, SpecError, UnsupportedError
from needs import needs

pytestmark = needs("userns", "native")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    if shutil.which("busybox"):
        busybox_root(tmp_path / "image")
    yield tmp_path
    shutil.rmtree(_elsewhere(tmp_path))


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(*cause.needs)) for name, cause in CAUSES.items()])
def test_a_cause_is_told(folder: Path, name: str) -> None:
    cause = CAUSES[name]
    with pytest.raises(cause.error) as caught:
        run(cause.command, **cause.given(folder))
    error, text = caught.value, str(caught.value)
    assert type(error) is cause.error
    if isinstance(error, (SpawnError, SpecError)):
        assert error.field == cause.field, text
    if cause.errno is not None:
        assert isinstance(error, SpawnError)
        expected = cause.errno if isinstance(cause.errno, tuple) else (cause.errno,)
        assert error.errno in expected, text
        assert os.strerror(error.errno) in text and e.errorcode[error.errno] in text
    for words in cause.says:
        assert words in text
    if isinstance(error, (SpawnError, UnsupportedError)):
        assert error.hint and text.endswith(error.hint)
    assert "\n" not in text and len(text) < 700
    assert str(pickle.loads(pickle.dumps(error))) == text


@needs("overlay")
def test_upper_and_work_apart_under_the_default_map(folder: Path) -> None:
    """Root's layers are idmapped, for which one tree that has both is opened: its words are the same sense."""
    for name in ("lower", "upper"):
        (folder / name).mkdir()
    with pytest.raises(SpawnError) as caught:
        run(["true"], mounts=[Overlay([folder / "lower"], folder / "upper", _elsewhere(folder), target="/o")])
    text = str(caught.value)
    assert "upper and work must lie on one" in text and (_elsewhere(folder) in text or str(folder / "upper") in text)


def test_an_interpreter_with_a_carriage_return_is_told(folder: Path) -> None:
    with pytest.raises(SpawnError, match="carriage return"):
        run(["/prog"], mounts=[File("/prog", b"#!/bin/sh\r\necho\r\n", mode=0o755)])


async def test_a_namespace_of_another_user_namespace_than_the_joined_one_is_told() -> None:
    """Its time namespace is ours: over that the joined one has no power."""
    async with Container(Spec(["sleep", "1000"])) as box:
        there = f"/proc/{box.pid}/ns"
        with pytest.raises(SpawnError, match="another user namespace than") as caught:
            await creche.run(["true"], namespaces=Namespaces(user=f"{there}/user", time=f"{there}/time"))
    assert caught.value.field == "namespaces.time"


@needs("user", "overlay")
def test_a_layer_in_which_others_are_mounted_is_told_with_their_places(folder: Path) -> None:
    """Which those are is the machine's affair: no row of the page. Control: a folder of it in which nothing is."""
    with pytest.raises(SpawnError) as caught:
        run(["true"], mounts=[Overlay(["/"], target="/o")])
    text = str(caught.value)
    assert (caught.value.field, caught.value.errno) == ("mounts[0].lower[0]", e.EINVAL)
    assert "others are mounted in this one (/" in text and "start as root" in text and "unbindable" not in text
    run(["true"], mounts=[Overlay([folder], target="/o")])


def test_there_are_enough_of_them() -> None:
    assert len(CAUSES) >= 25
