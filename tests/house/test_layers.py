"""The walk goes one way: no room imports from one below it, and pure rooms reach for nothing outside themselves."""

from __future__ import annotations

import ast

import pytest
from house.house import FORKS, LAYERS, PURE, PURE_BUT, ROW, imports, modules, tree

ROOMS = [module for module in modules() if module]  # the package itself gathers the names of all rooms

IMPURE = {
    "anyio",
    "asyncio",
    "ctypes",
    "fcntl",
    "mmap",
    "select",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
}
IMPURE |= {"threading", "time", "trio", "pathlib"}
PURE_OF_OS = {"fsdecode", "fsencode", "fspath", "PathLike", "path", "strerror"}
PURE_OF_PATH = {"isabs", "join", "normpath", "basename", "dirname", "split", "sep", "commonpath", "relpath"}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_module_has_its_place_in_the_plan() -> None:
    """A new module belongs in a row of LAYERS, which is the place to say what it may know."""
    assert {room(module) for module in ROOMS} <= ROW.keys()


@pytest.mark.parametrize("module", ROOMS)
def test_no_room_imports_from_one_below_it(module: str) -> None:
    for line, name in imports(module):
        if name.startswith("creche."):
            other = name.split(".")[1]
            if other not in ROW:  # a public name: only the command line is built upon those
                assert room(module) == "cli", (
                    f"{module}:{line} imports {name} from the package, not from its room"
                )
                continue
            assert ROW[other] <= ROW[room(module)], (
                f"{module}:{line} imports {name}, which is below it: {LAYERS}"
            )


@pytest.mark.parametrize(
    "module", [module for module in ROOMS if room(module) in PURE and module not in PURE_BUT]
)
def test_a_pure_room_touches_nothing(module: str) -> None:
    for line, name in imports(module):
        reached = {name, name.split(".")[0]} & IMPURE
        assert not reached, f"{module}:{line} imports {name}"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec"}, (
                f"{module}:{node.lineno} {node.func.id}()"
            )
        if not isinstance(node, ast.Attribute):
            continue
        match node.value:
            case ast.Name("os"):
                assert node.attr in PURE_OF_OS, f"{module}:{node.lineno} os.{node.attr}"
            case ast.Attribute(ast.Name("os"), "path"):
                assert node.attr in PURE_OF_PATH, f"{module}:{node.lineno} os.path.{node.attr}"


@pytest.mark.parametrize("module", [module for module in ROOMS if module not in FORKS])
def test_no_other_program_and_no_signal_handler_starts_anything(module: str) -> None:
    """The spawn path has no fork, no helper process and no SIGCHLD handler; nobody else's children are reaped."""
    for line, name in imports(module):
        assert name.split(".")[0] not in {"subprocess", "multiprocessing"}, f"{module}:{line} imports {name}"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            assert called not in {
                "os.fork",
                "os.forkpty",
                "os.posix_spawn",
                "os.waitpid",
                "os.wait",
                "os.system",
            }, f"{module}:{node.lineno} {called}"
            assert node.attr not in {"SIGCHLD", "set_wakeup_fd"}, f"{module}:{node.lineno} {called}"
