"""Binds with id maps of their own: owners as seen inside, and what is written as it lies outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from privileged.look import run, sh

from creche import Bind, IdMap, Namespaces, Security, SpawnError, Spec, SpecError, UnsupportedError
from creche.machine import Machine
from creche.plan import steps as st
from creche.plan.compile import Context, compile
from creche.plan.ids import through
from needs import needs

pytestmark = needs("userns", "native")
root = needs("root", "idmapped")
MINE = [IdMap(0, 1000, 1), IdMap(1, 5000, 10), IdMap(20, 30, 1)]


def bind(source: Path, maps: list[IdMap] = MINE, **fields: object) -> Bind:
    return Bind(source, "/m", uid_map=maps, gid_map=maps, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    os.chown(tmp_path, 1000, 1000)  # to what belongs to an id that is not mapped nobody may write
    for owner in (0, 30, 1000, 5000, 5009, 5010):
        (tmp_path / f"of{owner}").write_text("x")
        os.chown(tmp_path / f"of{owner}", owner, owner)
        (tmp_path / f"of{owner}").chmod(0o600)
    return tmp_path


SEEN = "stat -c '%n %u:%g' /m/of*"
OWNERS = "/m/of0 65534:65534\n/m/of1000 0:0\n/m/of30 20:20\n/m/of5000 1:1\n/m/of5009 10:10\n/m/of5010 65534:65534"


@root
@pytest.mark.parametrize("fields", [{}, {"uid_map": [IdMap(0, 700_000, 15), IdMap(15, 800_000, 10)], "gid_map": [IdMap(0, 900_000, 100)]}, {"init": False}])
def test_owners_are_seen_by_the_maps(folder: Path, fields: dict[str, object]) -> None:
    assert sh(SEEN, mounts=[bind(folder)], **fields) == OWNERS


@root
def test_control_without_them_files_keep_their_owners_or_are_nobodys(folder: Path) -> None:
    assert "/m/of1000 1000:1000" in sh(SEEN, mounts=[Bind(folder, "/m")])
    assert "/m/of1000 65534:65534" in sh(SEEN, mounts=[Bind(folder, "/m", idmap=False)])


@root
@pytest.mark.parametrize("user", [0, 1, 10, 20])
def test_what_is_written_is_owned_outside_by_the_maps(folder: Path, user: int) -> None:
    stored = {0: 1000, 1: 5000, 10: 5009, 20: 30}[user]
    assert sh(f"cat /m/of{stored}; echo new > /m/new; stat -c %u /m/new", user=user, mounts=[bind(folder)]) == f"x{user}"
    assert ((folder / "new").stat().st_uid, (folder / "new").stat().st_gid) == (stored, stored)


@root
def test_somebody_without_an_id_there_makes_nothing(folder: Path) -> None:
    result = run("echo new > /m/new", user=500, mounts=[bind(folder)])
    assert result.exit.code and b"too large" in result.stderr  # EOVERFLOW
    assert not (folder / "new").exists()
    assert run("cat /m/of0 /m/of5010", mounts=[bind(folder)]).stdout == b""  # and root inside reads no file of the host's root


@root
def test_read_only_ones_too_and_for_what_is_mounted_below(folder: Path) -> None:
    got = sh(f"{SEEN}; echo x > /m/new || echo refused", mounts=[bind(folder, readonly=True)])
    assert got == f"{OWNERS}\nrefused"


@root
def test_without_a_user_namespace_too(folder: Path) -> None:
    fields = {"namespaces": Namespaces(user=False), "security": Security(privileged=True)}
    assert sh(SEEN.replace("65534", "0"), mounts=[bind(folder)], **fields) == OWNERS
    sh("echo new > /m/new", mounts=[bind(folder)], **fields)
    assert (folder / "new").stat().st_uid == 1000


@root
def test_many_of_them_leave_nothing_behind(folder: Path) -> None:
    """Each is mapped by a namespace with one process, which shares our memory: what is left of them the leak fixture finds."""
    mounts = [attrs.evolve(bind(folder), target=f"/m{number}") for number in range(30)]
    assert sh("ls -d /m* | wc -l", mounts=mounts) == "30"


@root
def test_a_container_that_is_used_again_has_maps_of_its_own_range(folder: Path) -> None:
    """Each container of root's has another range of ids: a Plan that is remembered must not carry another's maps."""
    for _ in range(3):
        assert sh(SEEN, mounts=[bind(folder)]) == OWNERS


LIMITED = """
import anyio, creche, sys
open("/proc/sys/user/max_user_namespaces", "w").write("1")
try:
    anyio.run(lambda: creche.run(["true"], mounts=[creche.Bind(sys.argv[1], "/m", uid_map=[creche.IdMap(0, 0, 1)], gid_map=[creche.IdMap(0, 0, 1)])]))
except creche.SpawnError as error:
    print(error.field, error)
"""


@root
def test_no_user_namespace_for_it_is_an_error_with_the_remedy(folder: Path) -> None:
    """In a user namespace of the test's own, where one more may be made: the container's."""
    done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mounts[0].source") and "user.max_user_namespaces" in done.stdout, done


# ---- the Plan ----


ROOTS = Machine.example_root()


def step_of(bind: Bind, machine: Machine = ROOTS, **fields: object) -> st.Step:
    plan = compile(Spec(["true"], mounts=[bind], **fields), machine, Context(base=1 << 30))
    (step,) = [step for step in plan.parent if isinstance(step, st.Idmap)]
    return step


def test_the_maps_go_through_the_containers() -> None:
    step = step_of(bind(Path("/srv")))
    assert step.text2 == step.text3 == b"1000 1073741824 1\n5000 1073741825 10\n30 1073741844 1\n"


def test_a_range_is_cut_where_the_containers_is() -> None:
    container = (IdMap(0, 100, 5), IdMap(5, 1000, 5))
    assert through((IdMap(3, 50, 4),), container, "x.uid_map") == (IdMap(50, 103, 2), IdMap(52, 1000, 2))
    assert through((IdMap(3, 50, 4),), None, "x.uid_map") == (IdMap(50, 3, 4),)


def test_ids_that_the_container_has_not_are_refused() -> None:
    with pytest.raises(SpecError, match="id 65536 is not mapped") as caught:
        step_of(bind(Path("/srv"), [IdMap(65_000, 0, 1000)]))
    assert caught.value.field == "mounts[0].uid_map"


def test_more_lines_than_the_kernel_takes_are_refused() -> None:
    many = [IdMap(n, 2 * n, 1) for n in range(330)]
    with pytest.raises(SpecError, match="fewer and larger"):
        step_of(bind(Path("/srv"), many))


def test_who_may_not_is_told() -> None:
    with pytest.raises(UnsupportedError, match="root's power") as caught:
        step_of(bind(Path("/srv")), Machine.example())
    assert caught.value.hint and "Spec.uid_map" in caught.value.hint
    with pytest.raises(UnsupportedError, match="joined"):
        step_of(bind(Path("/srv")), namespaces=Namespaces(user="/proc/7/ns/user"))


@needs("root")
def test_a_file_system_that_can_not_is_told() -> None:
    with pytest.raises(SpawnError, match="leave its uid_map and gid_map out"):
        run(["true"], mounts=[bind(Path("/proc/bus"))])
