"""Decision 0022 lists every place that puts a number where there is none: the list is held to the code."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "decisions" / "0022-unknown-is-null.md"
ROW = re.compile(r"^\| `([\w/.]+)` \| (\d+) \| \S", re.MULTILINE)
# Where figures are made; what other rooms fill was read once, and is listed by its kind.
FIGURES = (
    *(f"lepton_etl/{room}" for room in (
        "attribution", "billing", "carbon", "energy", "facility", "indicators", "intervals", "ledger"
    )),
    "pipelines",
)  # fmt: skip
FILLING = ("fill_null", "fillna", "otherwise", "coalesce")


def test_every_place_that_fills_with_a_number_is_listed() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    listed = {path: int(count) for path, count in rows if path.startswith(FIGURES)}
    found: Counter[str] = Counter()
    for room in FIGURES:
        for file in sorted((ROOT / room).rglob("*.py")):
            places = list(fills(ast.parse(file.read_text(encoding="utf-8"))))
            if places:
                name = str(file.relative_to(ROOT))
                # A file of its own, else its folder.
                found[name if name in listed else str(Path(name).parent)] += len(places)
    assert dict(found) == listed, (
        "say in the table of 0022 what the place fills and why, and correct the count"
    )


def test_what_counts_as_a_fill() -> None:
    numbers = "a.fill_null(0.0); nan_to_num(a); a or 0; d.get(k, 0); max(a, default=-1)"
    others = (
        "a.fill_null(False); a.fill_null('none'); a or None; d.get(k); w.otherwise('c'); coalesce('a', 'b')"
    )
    assert len(list(fills(ast.parse(f"{numbers}; w.otherwise(pl.lit(0.0)); 1 if a else 0")))) == 7
    assert not list(fills(ast.parse(f"{others}; a if b else c")))


def fills(tree: ast.AST) -> Iterator[int]:
    """Lines that put a constant number in the place of what is absent or otherwise."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                defaults = [one.value for one in node.keywords if one.arg == "default"]
                if (
                    (name in FILLING and any(is_number(one) for one in node.args))
                    or name == "nan_to_num"
                    or (name == "get" and len(node.args) == 2 and is_number(node.args[1]))
                    or (name in ("max", "min") and any(is_number(one) for one in defaults))
                ):
                    yield node.lineno
            case ast.BoolOp(op=ast.Or(), values=[*_, last]) if is_number(last):
                yield node.lineno
            case ast.IfExp(orelse=last) if is_number(last):
                yield node.lineno


def is_number(node: ast.AST) -> bool:
    """Whether it is a number, -1 and pl.lit(0.0) too."""
    match node:
        case ast.UnaryOp(operand=inner) | ast.Call(func=ast.Attribute(attr="lit"), args=[inner, *_]):
            return is_number(inner)
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float()):
            return True
    return False
