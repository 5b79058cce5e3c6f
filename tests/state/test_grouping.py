"""Older layers in groups show what they show one by one; where the kernel would not stack so many, there are none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs
import pytest
from state.conftest import sh
from state.test_changes import see

from creche import Container, IdMap, Overlay, Security, SpawnError, Spec
from creche.state.grouping import Groups, may_be_stacked
from creche.wire import control
from needs import needs

pytestmark = needs("userns", "overlay", "kernel>=6.7")
#: Of each eight commands some take back what those before them did.
WRITES = (
    "mkdir -p /d/{n}; echo {n} > /d/{n}/file; ln /d/{n}/file /d/{n}/same; ln -s {n} /d/link{n}; mkfifo /d/{n}/pipe",
    "echo {n} >> /etc/one; chmod 4711 /etc/two; touch -d 2001-02-03 /d",
    "rm -rf /etc/sub; python3 -c 'import os; os.setxattr(\"/d\", \"user.n\", b\"{n}\"); os.setxattr(\"/etc/one\", \"user.key\", b\"{n}\")'",
    "mkdir /etc/sub; echo {n} > /etc/sub/{n}; truncate -s 1G /sparse{n}; echo end >> /sparse{n}",
    "rm /etc/twin; mv /d/link* /etc/sub; mkdir -p /opaque; echo > /opaque/{n}",
    "rm -r /opaque; mkdir -m 0 /shut{n}",
    "mkdir /opaque; ln /etc/one /opaque/one; rm -r /d/*; echo twin > /etc/twin",
)


@pytest.mark.slow
async def test_a_root_over_groups_looks_as_one_over_all_layers(spec: Spec, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    security = Security(capabilities=["CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"])
    spec = attrs.evolve(spec, rootfs=Overlay([image], history=True), security=security)
    found: dict[int, list[tuple[list[str], list[object]]]] = {}
    for size in (3, 1000):
        monkeypatch.setattr("creche.state.grouping.SIZE", size)
        async with Container(spec) as box:
            for n in range(21):
                await sh(box, WRITES[n % len(WRITES)].format(n=n))
            changes = [await box.changes(), *[await box.diff(n + 1) for n in range(21)]]
            assert bool(box._groups._places) is (size == 3)
            found[size] = []
            for n in (21, 4, 13, 6, 18, 0):
                await box.at(n)
                async with box.branches(1) as branches:  # to look from: a command of its own would be one more
                    found[size].append((timeless(await see(branches[0])), [*changes]))
                await branches[0].wait()
    assert found[3] == found[1000]
    assert found[3][0] != found[3][1]


def timeless(lines: list[str]) -> list[str]:
    """Without the times of what was written this moment: two containers did it."""
    return [" ".join(word for word in line.split() if not (word.isdecimal() and len(word) == 19) or word.startswith("98")) for line in lines]


async def places(box: Container) -> list[str]:
    folder = await box._ask_file("o", os.O_RDONLY | os.O_DIRECTORY, verb=control.FILE_LAYER)
    names = os.listdir(folder)
    os.close(folder)
    return sorted(name for name in names if name.startswith("g"))


async def test_groups_of_what_was_undone_are_gone(spec: Spec, image: Path) -> None:
    async with Container(attrs.evolve(spec, rootfs=Overlay([image], history=True))) as box:
        for n in range(26):
            await sh(box, f"echo > /{n}")
        assert len(await places(box)) == len(box._groups._places) == 3
        await box.at(9)
        await box.at(25)
        assert len(await places(box)) == 3
        await box.at(9)
        await sh(box, "echo > /other")
        assert len(await places(box)) == len(box._groups._places) == 1
        assert {"8", "other"} <= set(await box.listdir("/"))
        assert "9" not in await box.listdir("/")
        await box.reset()
        assert (await places(box), box._groups._places) == ([], {})
        for n in range(10):
            await sh(box, f"echo > /{n}")
        assert len(await places(box)) == 1


def test_which_layers_are_grouped() -> None:
    names = tuple(f"o/u{n}" for n in range(20))
    groups = Groups()
    assert groups.below(names) == (None, names)
    assert groups.due(names[:7], ["/"]) == ()
    groups._may = True
    assert groups.due(names[:9], ["/"]) == names[:8]
    groups.add(names[:8], "o/g1")
    assert groups.due(names[:9], ["/"]) == ()
    assert groups.below(names) == ("o/g1", names[8:])
    assert groups.below(("other", *names)) == (None, ("other", *names))
    assert groups.due(names, ["/"]) == names[:16]
    groups.add(names[:16], "o/g2")
    assert groups.below(names[:15]) == ("o/g1", names[8:15])
    assert groups.take_stale(set(names[:16])) == []
    assert groups.take_stale(set(names[:12])) == ["o/g2"]
    assert groups.below(names) == ("o/g1", names[8:])
    groups._may = False
    assert groups.due(names, ["/"]) == ()


def test_what_lies_on_another_file_system_is_not_stacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Path("/proc/self/mountinfo").read_text()
    assert not may_be_stacked([str(tmp_path / "nothing")])
    for kind, may in (("ext4", True), ("tmpfs", True), ("btrfs", True), ("overlay", False), ("fuse.sshfs", False), ("fuse", False)):
        told = "\n".join(line.partition(" - ")[0] + f" - {kind} none rw" for line in lines.splitlines())
        monkeypatch.setattr("creche._surroundings.text", lambda path, told=told: told if path.endswith("mountinfo") else Path(path).read_text())
        assert may_be_stacked([str(tmp_path)]) is may, kind


@needs("root")
async def test_over_layers_that_lie_on_an_overlay_there_are_no_groups(spec: Spec, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container of Docker's. The control: with groups the kernel refuses."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={image},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    try:
        ids = [IdMap(0, 0, 65536)]  # an overlay can't be idmapped
        spec = attrs.evolve(spec, rootfs=Overlay([tmp_path / "merged"], history=True), uid_map=ids, gid_map=ids)
        async with Container(spec) as box:
            for n in range(18):
                await sh(box, f"echo > /{n}")
            assert box._groups._places == {}
            await box.at(9)
            assert {"8"} == {"8", "9"} & set(await box.listdir("/"))
        monkeypatch.setattr("creche.state.grouping.may_be_stacked", lambda _: True)
        async with Container(spec) as other:
            with pytest.raises(SpawnError):
                for n in range(18):
                    await sh(other, f"echo > /{n}")
    finally:
        subprocess.run(["umount", tmp_path / "merged"], check=True)
