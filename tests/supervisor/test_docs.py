"""The programs in the documents of supervision and jobs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from creche.supervisor import Http
from creche.supervisor.project import load
from needs import needs

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("supervision", "jobs")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    )
]


def test_there_are_programs() -> None:
    assert len(BLOCKS) >= 10


def test_the_project_of_the_documents_is_one(tmp_path: Path) -> None:
    text = (DOCS / "workers.md").read_text()
    path = tmp_path / "creche.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    (tmp_path / "web.env").write_text("NAME=value\n")
    told = load(path)
    assert [child.name for child in told.children] == ["db", "web"]
    assert told.children[1].readiness == Http(8000, path="/health") and "web" in told.sockets


@needs("userns")
@pytest.mark.parametrize("block", BLOCKS)
async def test_a_program_of_the_documents_runs(block: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "a block of the documents", "exec"), names)
    with anyio.fail_after(30):
        await names["main"]()  # type: ignore[operator]
