"""Make the Data Docs of Great Expectations open whole without a network.

As rendered, each page asks eight hosts for scripts and styles, and the front page shows its tables by a script alone.
Here what calls a host is taken out, one stylesheet beside the pages stands in for Bootstrap's, and the front page is
plain HTML: every verdict, worst first, with links to the pages.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lepton_etl.quality.rules import CheckOutcome

_STYLE: Final = "static/styles/offline.css"
# Whole elements that ask another host for something, and the scripts that need what is not loaded then.
_CALLS: Final = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*href=[\"']?(?:https?:)?//[^>]*>|<img\b[^>]*src=[\"']?(?:https?:)?//[^>]*>"
    r"|<iframe\b.*?</iframe>|<footer\b.*?</footer>",
    re.DOTALL | re.IGNORECASE,
)
_ADDRESS: Final = re.compile(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)", re.IGNORECASE)
_LINK_OUT: Final = re.compile(r"(<a\b[^>]*?)\s+href=[\"'](?:https?:)?//[^\"']*[\"']", re.IGNORECASE)
_CSS: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem 2rem; color: #1b1b1f; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { border-bottom: 1px solid #d7d9e0; padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: #f3f4f8; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
a { color: #14508c; } code, pre { font-family: ui-monospace, monospace; white-space: pre-wrap; }
nav, ol.breadcrumb { list-style: none; padding: 0; } ol.breadcrumb li { display: inline; margin-right: .5rem; }
.fail { color: #a4001d; font-weight: 600; } .warn { color: #8a5200; font-weight: 600; } .held { color: #1d6b33; }
td, th { overflow-wrap: anywhere; } th, td:first-child { overflow-wrap: normal; white-space: nowrap; }
.fa-check-circle::before { content: "met"; color: #1d6b33; } .fa-times::before { content: "not met"; color: #a4001d; }
.fa-exclamation-triangle::before { content: "raised"; color: #a4001d; }
.collapse, .tab-pane { display: block; } button, .modal, .navbar, form, .btn { display: none; }
@media (prefers-color-scheme: dark) {
  body { background: #16171c; color: #e6e6ea; } th { background: #23252d; } th, td { border-color: #3a3c46; }
  a { color: #8ab8ff; } .fail { color: #ff8a9b; } .warn { color: #f0b35c; } .held { color: #7fd39a; }
}
"""


def take_offline(folder: Path, outcomes: Iterable[CheckOutcome], title: str) -> None:
    """Rewrite the pages below `folder` so that none asks a host for anything, and write their front page."""
    for sheet in folder.rglob("*.css"):
        sheet.write_text(_ADDRESS.sub("none", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / _STYLE).write_text(_CSS, encoding="utf-8")
    for page in sorted(folder.rglob("*.html")):
        up = "../" * (len(page.relative_to(folder).parts) - 1)
        text = _LINK_OUT.sub(r"\1", _ADDRESS.sub("none", _CALLS.sub("", page.read_text(encoding="utf-8"))))
        style = f'<link rel="stylesheet" href="{up}{_STYLE}">'
        page.write_text(text.replace("</head>", f"{style}</head>", 1), encoding="utf-8")
    (folder / "index.html").write_text(_front_page(folder, list(outcomes), title), encoding="utf-8")


def _front_page(folder: Path, outcomes: list[CheckOutcome], title: str) -> str:
    worst_first = sorted(outcomes, key=lambda one: (one.passed, one.severity == "warn", one.table, one.check))
    rows = "\n".join(_row(one) for one in worst_first)
    pages = sorted(page for page in folder.rglob("*.html") if page.name != "index.html")
    links = "\n".join(
        f'<li><a href="{html.escape(page.relative_to(folder).as_posix())}">{html.escape(_name(page, folder))}</a></li>'
        for page in pages
    )
    failed = sum(not one.passed for one in outcomes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<title>{html.escape(title)}</title><link rel="stylesheet" href="{_STYLE}"></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{len(outcomes)} checks, {failed} not met.</p>"
        "<table><thead><tr><th>Verdict</th><th>Table</th><th>Column</th><th>Check</th><th>Observed</th>"
        f"<th>Expected</th><th>For example</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<h2>Pages of Great Expectations</h2><ul>{links}</ul></body></html>\n"
    )


def _row(one: CheckOutcome) -> str:
    kind = "held" if one.passed else one.severity
    word = {"held": "met", "fail": "not met: stops the night", "warn": "not met: a warning"}[kind]
    cells = (one.table, one.column or "", one.check, one.observed, one.expected, "; ".join(one.examples))
    return (
        f'<tr><td class="{kind}">{word}</td>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )


def _name(page: Path, folder: Path) -> str:
    """`expectations silver/interval`, or `validations silver/interval`: the run's stamps say nothing to a person."""
    kind, *parts = page.relative_to(folder).with_suffix("").parts
    return f"{kind} {'/'.join(parts[:2])}"
