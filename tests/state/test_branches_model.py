"""Any tree of branches, of which some are kept, leaves the files and the history that the kept commands alone would have left."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creche import Container, Overlay, Spec
from needs import needs

pytestmark = [needs("userns", "overlay", "kernel>=6.7"), pytest.mark.slow]

#: What a guest does, as it is told; and what it then sees.
GUEST = r"""
import json, os, shutil, sys
for verb, path, value in json.load(sys.stdin):
    if verb == "write": open(path, "x").write(value)
    elif verb == "append": open(path, "a").write(value)
    elif verb == "delete": shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif verb == "mkdir": os.mkdir(path)
    elif verb == "rename": os.rename(path, value)
    elif verb == "link": os.link(path, value)
    elif verb == "symlink": os.symlink(value, path)
    elif verb == "fifo": os.mkfifo(path)
    elif verb == "chmod": os.chmod(path, value)
    elif verb == "attribute": os.setxattr(path, "user.key", value.encode())
"""
SEE = r"""
import json, os, stat
found = {}
for top in ("/app", "/etc"):
    for folder, folders, files in os.walk(top):
        for path in (os.path.join(folder, name) for name in folders + files):
            mode = os.lstat(path).st_mode; kind = stat.S_IFMT(mode)
            what = os.readlink(path) if kind == stat.S_IFLNK else open(path).read() if kind == stat.S_IFREG else ""
            key = os.getxattr(path, "user.key").decode() if kind == stat.S_IFREG and "user.key" in os.listxattr(path) else None
            found[path] = [{stat.S_IFLNK: "link", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "fifo"}[kind], what, None if kind == stat.S_IFLNK else stat.S_IMODE(mode), key]
print(json.dumps(found))
"""
TOPS = ("/app", "/etc")
PATHS = ("/app/a", "/app/b", "/app/d", "/app/d/a", "/app/d/e", "/app/d/e/a", "/etc/one", "/etc/two", "/etc/sub", "/etc/sub/inner", "/etc/new")

verbs = st.tuples(
    st.sampled_from(("write", "write", "append", "delete", "delete", "mkdir", "mkdir", "rename", "link", "symlink", "fifo", "chmod", "attribute")),
    st.sampled_from(PATHS), st.sampled_from(PATHS), st.integers(0, 99),
)  # fmt: skip
commands = st.tuples(st.just("command"), st.lists(verbs, min_size=1, max_size=6))
undos = st.tuples(st.just("undo"), st.none())


def attempts(blocks: Any) -> Any:
    return st.tuples(st.just("branches"), st.tuples(st.lists(blocks, min_size=1, max_size=3), st.one_of(st.none(), st.integers(0, 2))))


blocks = st.recursive(st.lists(st.one_of(commands, undos), max_size=3), lambda inner: st.lists(st.one_of(commands, undos, attempts(inner)), max_size=4), max_leaves=6)


class Model:
    """Names, and what they are: (kind, content, mode, attribute); and that at each moment of a history."""

    def __init__(self, files: dict[str, list[Any]]) -> None:
        self.files = files
        self.linked: set[str] = set()  # names that share a file: what is written to one of them after a copy up is not the other's (overlayfs.rst)
        self.moments = [copy.deepcopy(files)]
        self.names = [set(self.linked)]
        self.position = 0

    def branch(self) -> Model:
        other = Model(copy.deepcopy(self.files))
        other.linked, other.names = set(self.linked), [set(self.linked)]
        return other

    def _is_folder(self, path: str) -> bool:
        return path in TOPS or self.files.get(path, ["none"])[0] == "folder"

    def take(self, verb: str, path: str, other: str, number: int) -> list[Any] | None:
        """Carry it out, and say what the guest is to do; None where it can't be done."""
        files = self.files
        here, folder = files.get(path), self._is_folder(path.rpartition("/")[0])
        if verb in ("write", "mkdir", "symlink", "fifo"):
            if here is not None or not folder:
                return None
            value = f"content {number}"
            files[path] = {"write": ["file", value, 0o644, None], "mkdir": ["folder", "", 0o755, None], "symlink": ["link", value, None, None], "fifo": ["fifo", "", 0o644, None]}[verb]
            return [verb, path, value]
        if here is None:
            return None
        if verb == "delete":
            for name in [name for name in files if name == path or name.startswith(path + "/")]:
                del files[name]
                self.linked.discard(name)
            return [verb, path, None]
        if verb in ("rename", "link"):
            if here[0] != "file" or path == other or not self._is_folder(other.rpartition("/")[0]):
                return None
            if files.get(other, ["none"])[0] == "folder" or (other in files and verb == "link") or (path in self.linked and other in self.linked):
                return None  # the last: a rename between two names of one file does nothing (rename(2))
            files[other] = list(here)
            if verb == "rename":
                del files[path]
                self.linked = self.linked - {other} | ({other} if path in self.linked else set()) - {path}
                self.linked.discard(path)
            else:
                self.linked |= {path, other}
            return [verb, path, other]
        if here[0] != "file" or path in self.linked:
            return None
        value = {"append": f" and {number}", "chmod": 0o600 + number % 8, "attribute": f"value {number}"}[verb]
        at = {"append": 1, "chmod": 2, "attribute": 3}[verb]
        here[at] = here[at] + value if verb == "append" else value
        return [verb, path, value]

    def done(self) -> None:
        """A command has ended."""
        del self.moments[self.position + 1 :], self.names[self.position + 1 :]
        self.moments.append(copy.deepcopy(self.files))
        self.names.append(set(self.linked))
        self.position += 1

    def at(self, n: int) -> None:
        self.position, self.files, self.linked = n, copy.deepcopy(self.moments[n]), set(self.names[n])

    def kept(self, other: Model) -> None:
        del self.moments[self.position + 1 :], self.names[self.position + 1 :]
        self.moments += other.moments[1 : other.position + 1]
        self.names += other.names[1 : other.position + 1]
        self.at(self.position + other.position)


async def see(box: Container) -> Any:
    # Looked at from a branch: what a command of its own sees would be one more in the history.
    async with box.branches(1) as branches:
        return json.loads((await branches[0].run(["python3", "-c", SEE], check=True)).stdout)


async def carry_out(box: Container, model: Model, block: list[Any]) -> None:
    for kind, what in block:
        if kind == "command":
            told = [done for verb in what if (done := model.take(*verb)) is not None]
            result = await box.run(["python3", "-c", GUEST], input=json.dumps(told).encode())
            assert result.exit.ok, (told, result.stderr)
            model.done()
        elif kind == "undo":
            if model.position:
                await box.undo()
                model.at(model.position - 1)
        else:
            inner, kept = what
            async with box.branches(len(inner)) as branches:
                models = [model.branch() for _ in inner]
                for branch, one, below in zip(branches, models, inner, strict=True):
                    await carry_out(branch, one, below)
                if kept is not None and kept < len(inner):
                    await branches.keep(kept)
                    model.kept(models[kept])
        assert (box.position, len(box.history)) == (model.position, len(model.moments) - 1)


async def compare(spec: Spec, block: list[Any]) -> None:
    async with Container(spec) as box:
        first = await see(box)
        model = Model(first)
        model.linked, model.names = {"/etc/two", "/etc/twin"}, [{"/etc/two", "/etc/twin"}]
        await carry_out(box, model, block)
        assert await see(box) == model.files
        changes = await box.changes()
        now, before = set(model.files), set(model.moments[0])
        assert {change.path for change in changes if change.kind == "added" and change.path.startswith(TOPS)} == now - before
        assert {change.path for change in changes if change.kind == "deleted"} == {path for path in before - now if model._is_folder(path.rpartition("/")[0])}
        for n in range(len(model.moments)):
            await box.at(n)
            assert await see(box) == model.moments[n], n


@settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(block=blocks)
def test_a_tree_of_branches_is_as_what_was_kept_of_it(spec: Spec, image: Path, monkeypatch: pytest.MonkeyPatch, block: list[Any]) -> None:
    monkeypatch.setattr("creche.state.grouping.SIZE", 2)  # so that there are groups of layers, too
    anyio.run(compare, attrs.evolve(spec, rootfs=Overlay([image], history=True)), block)
