"""A small image to lay overlays on: /usr and its links come from the host, the rest is the test's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from creche import Bind, Container, Overlay, Spec

LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


async def sh(box: Container, program: str) -> bytes:
    """What it writes; it must end well."""
    result = await box.run(["sh", "-ec", program])
    assert result.exit.ok, result.stderr
    return result.stdout


def make_root(folder: Path) -> Path:
    """A folder that can be a root, with the host's /usr bound into it."""
    for name in ("usr", "etc", "proc", "dev", "tmp", "app"):
        (folder / name).mkdir(parents=True)
    for name in LINKS:
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(os.readlink(f"/{name}"))
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """A folder that can be a root, with a few files in /etc. The caller's own, whoever that is."""
    folder = make_root(tmp_path / "image")
    (folder / "etc" / "one").write_text("1\n")
    (folder / "etc" / "two").write_text("2\n")
    os.link(folder / "etc" / "two", folder / "etc" / "twin")
    (folder / "etc" / "link").symlink_to("one")
    (folder / "etc" / "sub").mkdir()
    (folder / "etc" / "sub" / "inner").write_text("inner\n")
    yield folder
    for top, names, _ in os.walk(tmp_path):
        for name in names:
            inner = os.path.join(top, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)  # or pytest could not remove what a guest shut


@pytest.fixture
def spec(image: Path) -> Spec:
    """A place with that image as its root, whose writes are thrown away."""
    return Spec(rootfs=Overlay([image]), mounts=[Bind("/usr", "/usr", readonly=True)])
