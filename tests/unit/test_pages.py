"""What pages say of the code is there: paths, functions, links; and the picture fits the imports."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bench").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
        *(ROOT / "conf").rglob("*.md"),
    ]
)
FOLDERS = ("lepton_etl", "pipelines", "jobs", "scripts", "bench", "conf", "tests")
NAMED = re.compile(r"(?<![\w/.-])(?:lepton_etl|pipelines|jobs|scripts|bench|tests|conf)/[\w./-]*\w")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ANSWER = re.compile(r"^\| [^|]+ \| `(?P<file>[\w/.]+)` \| `(?P<function>\w+)` \|$", re.MULTILINE)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("house")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = {name for name in NAMED.findall(text) if not (ROOT / name).exists()}
    for target in LINK.findall(text):
        path = target.partition("#")[0]
        if (
            path
            and "://" not in path
            and not path.startswith("mailto:")
            and not (page.parent / path).exists()
        ):
            missing.add(target)
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_a_page_meets_a_heading(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if anchor and "://" not in path and (not path or path.endswith(".md")):
            other = (page.parent / path) if path else page
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            # GitHub's anchors: lower case, spaces as hyphens, other signs dropped.
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_pages_of_the_code_cite_pages_that_are_here() -> None:
    """A docstring that names a page names one of this repository."""
    cited = re.compile(r"(?<![\w/.-])(?:\.\./)?(?:docs|shared)/[\w./-]+\.(?:md|svg)")
    missing = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".csv", ".yaml", ".conf", ".md", ".j2") and path.is_file():
                names = cited.findall(path.read_text(encoding="utf-8", errors="replace"))
                lost = [name for name in names if not (ROOT / name).is_file()]
                if lost:
                    missing[str(path.relative_to(ROOT))] = lost
    assert missing == {}


def test_contributing_names_files_and_functions_that_exist() -> None:
    answers = ANSWER.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(answers) == 8
    for file, function in answers:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert function in defined, f"{file} has no {function}"


def test_decisions_are_numbered_without_holes_and_in_one_form() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, start=1):
        assert page.name.startswith(f"{number:04d}-"), page.name
        title, blank, status, *_ = page.read_text(encoding="utf-8").splitlines()
        assert title.startswith(f"# {number:04d} "), title
        assert blank == ""
        assert re.match(r"Status: (proposed|accepted|replaced by \[?\d{4}), \d{4}-\d\d-\d\d\.", status), (
            status
        )


def test_the_page_of_the_architecture_fits_the_imports(house: ModuleType) -> None:
    assert house.stale(ROOT) == [], "run make house"


def test_nothing_public_is_reached_by_tests_alone(house: ModuleType) -> None:
    pytest.importorskip("vulture")
    unreached, idle_reasons = house.unreached(ROOT)
    assert unreached == []
    assert idle_reasons == []


def small_house(root: Path, house: ModuleType, **modules: str) -> object:
    for package in ("lepton_etl", "lepton_etl/days", "lepton_etl/energy", "pipelines"):
        (root / package).mkdir(parents=True, exist_ok=True)
        (root / package / "__init__.py").write_text("", encoding="utf-8")
    for name, text in modules.items():
        (root / f"{name.replace('__', '/')}.py").write_text(text, encoding="utf-8")
    return house.House(root)


def test_arrows_point_to_what_is_imported_in_either_form(tmp_path: Path, house: ModuleType) -> None:
    small = small_house(
        tmp_path,
        house,
        lepton_etl__days__utc="DAY = 1\n",
        lepton_etl__energy__sums="def f():\n    from lepton_etl.days import utc\n    return utc.DAY\n",
        pipelines__gold="from lepton_etl.days.utc import DAY\nfrom lepton_etl.energy.sums import f\n",
    )
    assert small.arrows == {"days": set(), "energy": {"days"}, "pipelines": {"days", "energy"}}
    assert house.floors(small.arrows) == [["pipelines"], ["energy"], ["days"]]
    # pipelines -> days follows from pipelines -> energy -> days.
    assert house.needed_arrows(small.arrows) == [("energy", "days"), ("pipelines", "energy")]
    assert small.with_one_importer() == ["lepton_etl.energy.sums"]


def test_rooms_that_import_each_other_share_a_floor(house: ModuleType) -> None:
    arrows = {"a": {"b"}, "b": {"a", "c"}, "c": set(), "top": {"a"}}
    assert house.floors(arrows) == [["top"], ["a", "b"], ["c"]]


def test_figures_of_the_page_are_replaced_between_their_marks(house: ModuleType) -> None:
    figures = house.Figures.of(house.House(ROOT))
    page = (ROOT / house.PAGE).read_text(encoding="utf-8")
    emptied = re.sub(r"^\| rooms \| \d+ \|$", "| rooms | 1 |", page, count=1, flags=re.MULTILINE)
    assert f"| rooms | {figures.rooms} |" in house.with_figures(emptied, figures)
    with pytest.raises(SystemExit, match="has no line"):
        house.with_figures("no marks", figures)
