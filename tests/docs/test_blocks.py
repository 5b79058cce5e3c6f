"""Every Python block of the README and the documents runs, in order, and prints what stands below it."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

import needs

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", *(TOP / "docs").glob("*.md"), *(TOP / "examples").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
REMARK = re.compile(r"<!-- (skip|needs): (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One piece of Python on a page: where, what, what it must print, and a remark just above it."""

    line: int
    code: str
    output: str | None
    skip: str | None
    needs: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    found = list(FENCE.finditer(text))
    result = []
    for index, match in enumerate(found):
        if match[1] != "python":
            continue
        remark = REMARK.search(text[: match.start()])
        after = found[index + 1] if index + 1 < len(found) else None
        shown = after is not None and after[1] == "output" and after.start() == match.end() + 1
        result.append(
            Block(
                line=text.count("\n", 0, match.start(2)),
                code=match[2],
                output=after[2] if after is not None and shown else None,
                skip=remark[2] if remark and remark[1] == "skip" else None,
                needs=tuple(remark[2].split()) if remark and remark[1] == "needs" else (),
            )
        )
    return result


WITH_BLOCKS = [page for page in PAGES if blocks(page.read_text())]


def matches(shown: str, printed: str) -> bool:
    """Whether it printed what is shown; … stands for anything on one line."""
    pattern = ".*".join(map(re.escape, shown.split("…")))
    return re.fullmatch(pattern, printed) is not None


async def play(block: Block, page: Path, names: dict[str, object]) -> str:
    """Run one block in the names of those before it; what it printed."""
    source = "\n" * block.line + block.code
    compiled = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        waiting = eval(compiled, names)
        if inspect.isawaitable(waiting):
            await waiting
    return printed.getvalue()


@needs.needs("native", "userns", "overlay")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(TOP)))
def test_the_blocks_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    wanting: list[str] = []

    async def main() -> None:
        for block in blocks(page.read_text()):
            if block.skip:
                continue
            missing = [name for name in block.needs if needs.missing(name)]
            if missing:  # the imports are for those that follow; the rest waits for a place that has it
                wanting.extend(missing)
                tree = ast.parse(block.code)
                imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
                exec(compile(ast.Module(imports, []), str(page), "exec"), names)
                continue
            printed = await play(block, page, names)
            if block.output is not None:
                where = f"{page.relative_to(TOP)}:{block.line}"
                assert matches(block.output, printed), f"{where} prints {printed!r}, not {block.output!r}"

    anyio.run(main)
    if wanting:
        pytest.skip("needs " + "; ".join(f"{name}: {needs.missing(name)}" for name in dict.fromkeys(wanting)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name} links to {target}"


def test_a_block_that_lies_is_found(tmp_path: Path) -> None:
    """The control of this file: another output, a block that raises, a remark that asks for something."""
    page = tmp_path / "page.md"
    page.write_text("<!-- needs: limits -->\n```python\nprint(await thing())\n```\n```output\n1\n```\n")
    (block,) = blocks(page.read_text())
    assert block.needs == ("limits",) and block.output == "1\n"

    async def thing() -> int:
        return 2

    printed = anyio.run(play, block, page, {"thing": thing})
    assert printed == "2\n" and not matches(block.output, printed)
    assert matches("a … c\n", "a b c\n") and not matches("a … c\n", "a b\nc\n")
    (raising,) = blocks("```python\nraise KeyError\n```\n")
    with pytest.raises(KeyError):
        anyio.run(play, raising, page, {})


def test_skips_have_reasons_and_needs_are_known() -> None:
    for page in PAGES:
        for block in blocks(page.read_text()):
            assert block.skip is None or len(block.skip.split()) > 3, (
                f"{page.name}:{block.line} does not say why"
            )
            needs.needs(*block.needs)
