"""Generated parts of documentation pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def write(page: str, name: str, text: str) -> None:
    """Replace what stands between `<!-- measured: name -->` and `<!-- end measured: name -->` in docs/page.

    Raises: ValueError when the page has no such place.
    """
    path = DOCS / page
    before = path.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end measured: {name} -->)", re.DOTALL)
    after, count = place.subn(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", before)
    if count != 1:
        raise ValueError(f"{path}: expected one place named {name}, found {count}")
    path.write_text(after, encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
