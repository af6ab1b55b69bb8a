"""Texts as logged without people: what names a person is taken out before a text is kept.

A line of job accounting names people anywhere, and a broken one says not where: of it the shape alone is kept (letters
as `a`, digits as `9`, marks as they stand), which shows fields, stamps and what is torn. Lines of other logs keep their
words but for what labels call a user, and what users name: pods, jobs, folders, command lines, remarks.
"""

from __future__ import annotations

from typing import Final

import polars as pl

_LETTERS: Final = r"\p{L}+"
_DIGITS: Final = r"\p{N}+"
# user="ann", "username": "ann", uid=1001; of exporters' labels, JSON and logfmt alike. usage_user=12 is a percentage.
_OF_USER: Final = (
    r"(?i)((?:\b|_)(?:user(?:_?name)?|login|owner)[\"']?\s*[=:]\s*[\"']?)[^\"'\s,;|{}()\d][^\"'\s,;|{}()]*"
)
_UID: Final = r"(?i)((?:\b|_)(?:uid|user_?id)[\"']?\s*[=:]\s*[\"']?)\d+"
_POD: Final = r"(?i)((?:\b|_)pod(?:_?name)?[\"']?\s*[=:]\s*[\"']?)[^\"'\s,;|{}()]+"
# Text of a user's own, which goes on to its closing quote, without one to the end: cmdline="python /home/ann/train.py".
_FREE: Final = (
    r"(?i)((?:\b|_)(?:comment|extra|job_?name|cmd(?:_?line)?|command(?:_?line)?|arg[sv]|cwd|work_?dir(?:ectory)?)"
    r"[\"']?\s*[=:]\s*)(?:\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\"'\s].*)"
)
_FOLDER: Final = r"(?i)(/(?:home\d*|users|scratch\d*)/)[^/\s\"',;|:]+"
# Reason=broken fan [ann@2026-03-01T10:00:00]: who drained a node.
_AT: Final = r"(\[)[^\s\[\]@]+@"
HIDDEN: Final = "***"


def kept_texts(texts: pl.Series, *, of_jobs: bool) -> pl.Series:
    """Return what is kept of records as logged; `of_jobs`: the text is, or may be, a scheduler's."""
    return shapes(texts) if of_jobs else without_users(texts)


def shapes(texts: pl.Series) -> pl.Series:
    """Return the shape of each text: runs of letters as `a`, of digits as `9`."""
    return texts.str.replace_all(_LETTERS, "a").str.replace_all(_DIGITS, "9")


def shape(text: str) -> str:
    """Return the shape of one text."""
    return str(shapes(pl.Series([text]))[0])


def without_users(texts: pl.Series) -> pl.Series:
    """Return texts with `***` for what labels call a user, what users name or write, and who signed a remark."""
    for pattern in (_FREE, _FOLDER, _POD, _OF_USER, _UID, _AT):
        texts = texts.str.replace_all(pattern, f"${{1}}{HIDDEN}")
    return texts
