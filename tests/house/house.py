"""The plan of the house as data: its rooms in order, and what a room may not hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parent.parent.parent
SOURCE = TOP / "src" / "creche"
NATIVE = TOP / "native"

# From the first to the last step of the walk. A room imports from its own row and the rows above, never from below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("values", "errors", "units", "results"),
    ("spec",),
    ("_raw", "_surroundings", "machine", "diagnose", "hostview", "kernelfs"),
    ("plan",),
    ("_native",),  # the list of Steps is written in C: the codecs ask it
    ("wire",),
    ("cgroups",),
    ("ranges", "claims", "scratch", "spawn"),
    ("streams", "shielded", "watch", "intake", "channel", "timer"),
    ("lifecycle",),
    (
        "plumbing",
        "files",
        "trees",
        "commands",
        "spending",
        "limited",
        "calls",
        "state",
        "audit",
        "place",
        "starting",
        "sharing",
        "givenback",
        "abandoned",
        "planning",
        "communicate",
        "process",
        "container",
        "running",
        "remove",
        "warm",
        "pool",
    ),
    ("supervisor",),
    ("jobs",),
    ("trial", "doctor"),
    ("cli",),
)
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}

# Rooms of pure data and pure functions: what they are given is all they know.
PURE = ("values", "errors", "units", "results", "spec", "plan", "wire", "lifecycle")
PURE_BUT = ("spec.load",)  # the one place there that opens a file
FORKS = (
    "trial",  # the doctor's: it tries in a child what it can't know otherwise, and reaps that child alone
    "warm.template",  # which is no part of this program: it runs in a container's own Python
)


def modules() -> list[str]:
    """The dotted names of all modules, without the leading `creche.`; the package itself is ``."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found.append(".".join(part for part in parts if part != "__init__"))
    return found


def tree(module: str) -> ast.Module:
    path = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a module, also of those inside functions and type checks."""
    package = (SOURCE.joinpath(*module.split(".")) if module else SOURCE).is_dir()
    own = ["creche", *module.split(".")] if module else ["creche"]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = own[: len(own) - node.level + package] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if stem == "creche":  # from creche import spawn, SpecError
                for name in node.names:
                    yield node.lineno, f"creche.{name.name}"
            else:
                yield node.lineno, stem
