"""HTML as strings, escaped where text enters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from demur.monitor.evaluate.estimate import Estimate


class Html(str):
    """Markup that is finished; any other string is text and gets escaped."""

    __slots__ = ()


class Cell(NamedTuple):
    """A table cell: what it shows, its CSS class, and what hovering tells."""

    content: str
    kind: str = ""
    title: str = ""


def text(value: str) -> Html:
    """Text as markup: &, <, > and both quotes escaped."""
    return value if isinstance(value, Html) else Html(escape(value, quote=True))


def element(tag: str, *content: str, **attributes: str) -> Html:
    """One element; `kind` is its class, other underscores become hyphens. Content that is no Html is escaped."""
    names = {"kind": "class"} | {name: name.replace("_", "-") for name in attributes if name != "kind"}
    given = "".join(f' {names[name]}="{text(value)}"' for name, value in attributes.items() if value)
    return Html(f"<{tag}{given}>{''.join(text(part) for part in content)}</{tag}>")


def section(anchor: str, heading: str, lead: str, *content: str) -> Html:
    """A part of the page; nothing when all its content is empty."""
    if not any(content):
        return Html("")
    return element("section", element("h2", heading), element("p", lead, kind="lead"), *content, id=anchor)


def table(heads: Sequence[str | Cell], rows: Iterable[Sequence[str | Cell]], kind: str = "") -> Html:
    """A table in a box that scrolls sideways; the first cell of a row is its head. Nothing without rows."""
    lines = [element("tr", *(_cell(c, "th" if not i else "td") for i, c in enumerate(row))) for row in rows]
    if not lines:
        return Html("")
    head = element("thead", element("tr", *(_cell(h, "th") for h in heads)))
    return element("div", element("table", head, element("tbody", *lines), kind=kind), kind="scroll")


def _cell(cell: str | Cell, tag: str) -> Html:
    found = cell if isinstance(cell, Cell) else Cell(cell)
    return element(tag, found.content, kind=found.kind, title=found.title)


def heads(*names: str) -> list[Cell]:
    """Heads of columns of numbers."""
    return [Cell(name, "n") for name in names]


def number(estimate: Estimate, spec: str = ".3f", kind: str = "") -> Cell:
    """A value; hovering tells its interval."""
    interval = span(estimate, spec)
    return Cell(format(estimate, spec), f"n {kind}".strip(), f"interval {interval}" if interval else "")


def span(estimate: Estimate, spec: str = ".3f") -> str:
    """Its interval, or nothing."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:{spec}} to {estimate.high:{spec}}"


def heat(estimate: Estimate, low: float, high: float, spec: str = ".3f") -> Cell:
    """A value on a background that grows from `low` (bad) to `high` (good); NaN is a dash."""
    if estimate.value != estimate.value:
        return Cell("–", "n")
    place = min(1.0, max(0.0, (estimate.value - low) / (high - low)))
    return number(estimate, spec, f"heat h{round(10 * place)}")
