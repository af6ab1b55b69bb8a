"""Read a page of the report: its figures with the places in the lake that they name, and the text around them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})


def text_of(html: str) -> str:
    """The page without the marks of figures, which say where each stands and not what it says."""
    return re.sub(r"</?data[^>]*>", "", html)


@dataclass
class Figure:
    """A figure: what the reader sees, its exact value, and where it says that it stands."""

    text: str
    value: str
    column: str
    how: str
    table: str
    where: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    section: str = ""

    @property
    def place(self) -> str:
        where = f"#{self.section}: {self.table} {self.where} {self.column} ({self.how})"
        return f"{where} = {self.value!r}, shown {self.text!r}"


class Page(HTMLParser):
    """`figures` are all of them; `rest` is all other text outside scripts, as (section, tags around it, text)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: list[Figure] = []
        self.rest: list[tuple[str, tuple[str, ...], str]] = []
        self.specs: dict[str, dict[str, Any]] = {}
        self._open: list[tuple[str, dict[str, str]]] = []
        self._figure: Figure | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append((tag, said))
        if tag == "data":
            where = self._around("data-where")
            self._figure = Figure(
                "", said["value"], said.get("data-column", ""), said.get("data-how", "value"),
                self._around("data-table"), json.loads(where) if where else {}, self._around("data-reason"),
                self._section(),
            )  # fmt: skip
            self.figures.append(self._figure)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass
        if tag == "data":
            self._figure = None

    def handle_data(self, data: str) -> None:
        tags = tuple(name for name, _ in self._open)
        if "script" in tags or "style" in tags:
            name = self._open[-1][1].get("id", "")
            if name.startswith("spec-"):
                self.specs[name.removeprefix("spec-")] = json.loads(data)
        elif self._figure is not None:
            self._figure.text += data
        elif data.strip():
            self.rest.append((self._section(), tags, data))

    def _around(self, name: str) -> str:
        return next((said[name] for _, said in reversed(self._open) if name in said), "")

    def _section(self) -> str:
        """The innermost section or note that has a name."""
        named = (
            said["id"] for tag, said in reversed(self._open) if tag in ("section", "p") and said.get("id")
        )
        return next(named, "head")
