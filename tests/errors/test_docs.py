"""docs/errors.md shows each cause as it is told, word by word.

`CRECHE_WRITE_GOLDEN=1 pytest tests/errors/test_docs.py`, as root and then as an ordinary user, writes them anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from errors.causes import CAUSES, ROOT, _elsewhere
from errors.test_causes import folder
from privileged.look import run

from needs import needs

__all__ = ["folder"]

pytestmark = needs("userns", "native")
DOCS = Path(__file__).parent.parent.parent / "docs" / "errors.md"
BEGIN, END = "<!-- causes -->\n", "<!-- end of causes -->\n"
PART = re.compile(r"\*\*(.+)\*\* \(`(.+)`\)\n\n```text\n(.+)\n```\n")


def documented() -> dict[str, tuple[str, str]]:
    """What the page says: the cause in words, the class, the text."""
    text = DOCS.read_text()
    part = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    return {what: (kind, said) for what, kind, said in PART.findall(part)}


def test_every_cause_is_on_the_page() -> None:
    assert list(documented()) == [cause.what for cause in CAUSES.values()]


#: An ordinary user's text differs in ids alone, so each is compared where it was written: root's where root meets it.
HERE = [name for name, cause in CAUSES.items() if ROOT is ("user" not in cause.needs)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(*CAUSES[name].needs)) for name in HERE])
def test_a_cause_is_told_as_the_page_says(folder: Path, name: str) -> None:
    cause = CAUSES[name]
    with pytest.raises(cause.error) as caught:
        run(cause.command, **cause.given(folder))
    said = str(caught.value).replace(str(folder), "/srv").replace(_elsewhere(folder), "/dev/shm/work")
    entry = f"{cause.error.__name__}", said
    if os.environ.get("CRECHE_WRITE_GOLDEN"):
        pages = documented() | {cause.what: entry}
        body = "\n".join(f"**{c.what}** (`{pages[c.what][0]}`)\n\n```text\n{pages[c.what][1]}\n```\n" for c in CAUSES.values() if c.what in pages)
        text = DOCS.read_text()
        DOCS.write_text(text[: text.index(BEGIN)] + BEGIN + "\n" + body + "\n" + text[text.index(END) :])
    assert documented()[cause.what] == entry
