"""Warm pools with a root of their own: forks have the image's layers, each with writes of its own, and the template loads nothing of a guest's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from pool.test_warm_defences import LOOK, look
from state.conftest import make_root

from creche import Bind, Container, Directory, Overlay, Pool, PythonWarm, Spec, Tmpfs
from creche.remove import remove_tree
from creche.state.layers import Change
from creche.warm.forked import Forked
from needs import needs

pytestmark = needs("userns", "kernel>=6.6")
USR = Bind("/usr", "/usr", readonly=True)
KINDS = ("an overlay", "an overlay of two", "an overlay that is read-only", "a directory", "an overlay beside the root")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """Two folders: one that can be a root, with a module in it, and one that is laid over it."""
    tmp_path.chmod(0o755)
    base, over = make_root(tmp_path / "base"), tmp_path / "over"
    (base / "app" / "shop.py").write_text("PRICE = 5\n")
    (over / "app").mkdir(parents=True)
    (over / "app" / "more").write_text("more")
    yield tmp_path
    anyio.run(remove_tree, tmp_path)


def spec_of(kind: str, image: Path) -> Spec:
    base, over = image / "base", image / "over"
    env = {"PATH": "/usr/bin", "PYTHONPATH": "/app", "LANG": "C.UTF-8"}
    if kind == "an overlay beside the root":
        return Spec(mounts=[Overlay([over, base], target="/image")], env={**env, "PYTHONPATH": "/image/app"})
    root = {
        "an overlay": Overlay([base]), "an overlay of two": Overlay([over, base]), "an overlay that is read-only": Overlay([base], readonly=True),
        "a directory": Directory(base, readonly=True),
    }[kind]  # fmt: skip
    return Spec(rootfs=root, mounts=[USR], env=env)


TRY = """
import os, shop, sys
app = os.path.dirname(shop.__file__)
before = sorted(name for name in os.listdir(app) if name != "__pycache__")
try:
    open(app + "/mine", "w").write("mine")
    os.unlink(app + "/shop.py")
    wrote = True
except OSError as error:
    wrote = error.strerror
print(shop.PRICE, before, wrote, os.stat(app).st_uid, os.path.exists("/dev/.creche"))
"""


@pytest.mark.parametrize("kind", KINDS)
async def test_each_fork_has_the_image_as_it_is_and_writes_of_its_own(kind: str, image: Path) -> None:
    shown = ["more", "shop.py"] if "two" in kind or "beside" in kind else ["shop.py"]
    wrote = "Read-only file system" if "read-only" in kind or kind == "a directory" else "True"
    async with Pool(spec_of(kind, image), size=1, warm=PythonWarm(imports=["shop"])) as pool:
        for _ in range(2):  # the second finds nothing of the first's
            result = await pool.run(["python3", "-c", TRY], timeout=20)
            assert result.stdout.decode() == f"5 {shown} {wrote} 0 False\n", result.stderr
        assert pool._template is not None and pool._template._box is not None
        # the control: where the template is, the layers can be seen
        assert (await pool._template._box.run(["ls", "/dev/.creche"])).stdout.split()[0] == b"0"
    assert sorted(os.listdir(image / "base" / "app")) == ["shop.py"] and os.listdir(image / "over" / "app") == ["more"]


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_confined_as_a_command_that_is_executed(kind: str, image: Path) -> None:
    spec = spec_of(kind, image)
    async with Pool(spec, size=1, warm=PythonWarm()) as pool:
        async with pool.acquire() as box:
            assert isinstance(box, Forked)
            forked, executed = await look(box)
    assert executed.pop("filters") == forked.pop("filters") + 1
    assert forked == executed
    assert not [line for line in forked["mounts"] if ".creche" in line]
    async with Container(spec) as plain:
        there = json.loads((await plain.run(["python3", "-c", LOOK], timeout=20)).stdout)
    for differs in ("filters", "namespaces", "mounts", "root"):
        there.pop(differs)
        forked.pop(differs, None)
    assert forked == there


async def test_what_a_fork_changed_is_told(image: Path) -> None:
    program = "import os; os.unlink('/app/shop.py'); open('/etc/new', 'w'); os.mkdir('/app/sub')"
    async with Pool(spec_of("an overlay of two", image), size=1, warm=PythonWarm()) as pool:
        async with pool.acquire() as box:
            assert isinstance(box, Forked) and await box.changes() == []
            assert (await box.run_warm(["python3", "-c", program])).ok
            assert await box.changes() == [Change("/app/shop.py", "deleted", "file"), Change("/app/sub", "added", "directory"), Change("/etc/new", "added", "file")]
            await box.commit(image / "layer")
    assert sorted(os.listdir(image / "layer")) == ["app", "etc"]


@pytest.mark.parametrize("place", ["working directory", "home"])
async def test_the_template_imports_nothing_that_guests_wrote(place: str, tmp_path: Path) -> None:
    """A module that a guest leaves where it may write is not loaded by the next template, which is everybody's."""
    tmp_path.chmod(0o777)
    ask = "import sys; print(sys.version_info[0], sys.version_info[1])"
    async with Container(Spec()) as box:
        version = ".".join((await box.run(["python3", "-c", ask])).stdout.decode().split())
    lies = tmp_path if place == "working directory" else tmp_path / ".local" / "lib" / f"python{version}" / "site-packages"
    lies.mkdir(parents=True, exist_ok=True)
    (lies / "bisect.py").write_text("print('a guest was here')")
    at_home = {"PATH": "/usr/bin", "HOME": "/work"}
    spec = Spec(mounts=[Bind(tmp_path, "/work"), Tmpfs("/scratch")], cwd="/work", env={"PATH": "/usr/bin"} if place == "working directory" else at_home)
    program = ["python3", "-c", "import bisect, os; print(bisect.__name__, os.getcwd())"]
    if place == "home":  # what lies there comes after the standard library: it is a module that this has not
        (lies / "bisect.py").rename(lies / "creche_guest.py")
        program[2] = program[2].replace("bisect", "creche_guest")
    async with Container(spec) as box:  # the control: whoever starts Python there loads it
        assert (await box.run(program)).stdout.startswith(b"a guest was here")
    async with Pool(spec, size=1, warm=PythonWarm(imports=["bisect"])) as pool:
        assert (await pool.run(["python3", "-c", "import bisect, os; print(hasattr(bisect, 'insort'), os.getcwd())"])).stdout == b"True /work\n"
        if place == "home":
            assert b"ModuleNotFoundError" in (await pool.run(program)).stderr
