"""Tell whether a page still shows what is published, and mark one that does not.

A page carries the digests of the tables' files that its days were made of (ops/night), so nothing but its head has to
be read. The mark says which run made the figures anew, and leads to the pages that show them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from hashlib import sha256
from typing import Final

from markupsafe import Markup

from lepton_etl.days import Days
from lepton_etl.report.figures import stamp

# Day -> table -> digest of the day's files.
Digests = Mapping[date, Mapping[str, str]]

# Where the digests stand in a page, from its beginning.
HEAD_BYTES: Final = 65_536
_MADE_OF: Final = re.compile(r'<meta name="made-of" content="([^"]*)">')
_BODY: Final = "<body>\n"
_MARK: Final = re.compile(r'<div class="warn" id="superseded".*?</div>\n', re.DOTALL)


def folder_of(days: Days) -> str:
    """Name the folder of a page: 2025-06-03, or 2025-06-03_2025-06-05."""
    return str(days.start) if days.count == 1 else f"{days.start}_{days.end}"


def days_of(folder: str) -> Days | None:
    """The days of a page by its folder's name; None of a folder that holds no page."""
    try:
        first, _, last = folder.partition("_")
        days = Days.of(date.fromisoformat(first), date.fromisoformat(last) if last else None)
    except ValueError:
        return None
    return days if folder_of(days) == folder else None


def written(digests: Digests) -> str:
    """One digest a day, as a page carries them."""
    return json.dumps({str(day): _digest(of) for day, of in sorted(digests.items())})


def _digest(of_tables: Mapping[str, str]) -> str:
    return sha256(json.dumps(dict(of_tables), sort_keys=True).encode()).hexdigest()[:16]


def changed_days(head: str, published: Digests) -> list[date]:
    """Those of the published days of which the page of this head shows something else.

    A page that does not say what it was made of, of an older release, is taken for another.
    """
    found = _MADE_OF.search(head)
    made_of = json.loads(html.unescape(found[1])) if found else {}
    return sorted(day for day, digests in published.items() if made_of.get(str(day)) != _digest(digests))


def marked(
    page: str, changed: Iterable[date], run_id: str, time: datetime, current: Iterable[date] = ()
) -> str:
    """The page with one mark at its top, in place of an earlier one: which figures were made anew, and by which run.

    `current` are the changed days whose own pages can be linked to; the page of a single day is none of them.
    """
    links = Markup(", ").join(
        Markup('<a href="../{0}/index.html"><time>{0}</time></a>').format(day) for day in sorted(set(current))
    )
    where = Markup(" What holds now: {}.").format(links) if links else Markup("")
    mark = Markup(
        '<div class="warn" id="superseded" role="note" data-superseded-by="{run}"><strong>Superseded.</strong> '
        "The figures of <time>{days}</time> were made anew by run <code>{run}</code> on <time>{time}</time>; "
        "this page shows those before.{where} <code>lepton-etl report</code> makes it again.</div>\n"
    ).format(run=run_id, days=", ".join(map(str, changed)), time=stamp(time), where=where)
    before, body, after = _MARK.sub("", page, count=1).partition(_BODY)
    return f"{before}{body}{mark}{after}"
