"""Measure the house from its own imports, and draw it: `make house`; `--check` says when docs/architecture.md is stale.

Prints rooms, files, lines, short modules, modules with one importer, public functions that nothing but tests and
benchmarks reaches, and the files that a reading passes. Writes docs/architecture.svg and the figures of the page.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("lepton_etl", "pipelines", "jobs")
LIBRARY: Final = "lepton_etl"
SHORT_LINES: Final = 60
REASONS: Final = Path("scripts") / "house_reasons.txt"
PAGE: Final = Path("docs") / "architecture.md"
PICTURE: Final = Path("docs") / "architecture.svg"
_BEGIN: Final = "<!-- figures of `make house` -->"
_END: Final = "<!-- end of the figures -->"

# The way of a reading: from a line of ipmitool through the stages to a row of gold/cluster_day. Declarations hold no
# row; other formats and the rooms of other tables are other ways.
READING_FROM: Final = (
    "lepton_etl.ingest.ipmitool", "pipelines.bronze", "pipelines.silver", "pipelines.gold",
)  # fmt: skip
READING_ROOMS: Final = ("ingest", "lake", "intervals", "energy", "facility", "pipelines")
READING_STAGES: Final = ("bronze", "silver", "gold", "stage", "engine")
# Of facility only what a cluster-day needs: the overhead model and the set points make other tables.
READING_FACILITY: Final = ("pue", "hours", "meter_hours", "grid_weather")


@dataclass(frozen=True)
class House:
    """The modules below a folder with what each imports; names are dotted, a package is its `__init__`."""

    root: Path

    @cached_property
    def paths(self) -> dict[str, Path]:
        found = {}
        for package in PACKAGES:
            for path in sorted((self.root / package).rglob("*.py")):
                parts = path.relative_to(self.root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    @cached_property
    def lines(self) -> dict[str, int]:
        return {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in self.paths.items()}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Which modules each one imports, wherever in its text, for types too."""
        return {name: set(self._imported(name)) - {name} for name in self.paths}

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        back: dict[str, set[str]] = defaultdict(set)
        for name, imported in self.imports.items():
            for other in imported:
                back[other].add(name)
        return back

    def _imported(self, name: str) -> Iterator[str]:
        for node in ast.walk(ast.parse(self.paths[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (one.name for one in node.names if one.name in self.paths)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for one in node.names:
                    # `from package import module` means the module, `from module import name` the module before.
                    inner = f"{node.module}.{one.name}"
                    if inner in self.paths or node.module in self.paths:
                        yield inner if inner in self.paths else node.module

    def is_package(self, name: str) -> bool:
        return self.paths[name].name == "__init__.py"

    @cached_property
    def modules(self) -> list[str]:
        """Modules that hold code: packages are left out, whose text is a docstring."""
        return [name for name in self.paths if not self.is_package(name)]

    @cached_property
    def library(self) -> list[str]:
        """All files of the library without the simulator, packages too."""
        return [
            name
            for name in self.paths
            if name.split(".")[0] == LIBRARY and not name.startswith(f"{LIBRARY}.simulator")
        ]

    @cached_property
    def rooms(self) -> dict[str, list[str]]:
        """Room -> its modules; a module at the top of the library is a room of its own."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.modules:
            found[room_of(name)].append(name)
        return dict(found)

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """Room -> the rooms that it imports."""
        found: dict[str, set[str]] = {room: set() for room in self.rooms}
        for name, imported in self.imports.items():
            targets = {room_of(other) for other in imported} & self.rooms.keys()
            if room_of(name) in found:
                found[room_of(name)] |= targets - {room_of(name)}
        return found

    def short_modules(self) -> list[str]:
        return [name for name in self.library if not self.is_package(name) and self.lines[name] < SHORT_LINES]

    def with_one_importer(self) -> list[str]:
        return [name for name in self.library if not self.is_package(name) and len(self.importers[name]) == 1]

    def way_of_a_reading(self) -> list[str]:
        """The files that an ipmitool reading passes on its way to gold/cluster_day."""
        passed: set[str] = set()
        left: list[str] = [name for name in READING_FROM if name in self.paths]
        while left:
            name = left.pop()
            passed.add(name)
            left += [other for other in self.imports[name] - passed if self._on_the_way(other)]
        return sorted(passed)

    def _on_the_way(self, name: str) -> bool:
        room, last = room_of(name), name.rpartition(".")[2]
        if self.is_package(name) or room not in READING_ROOMS:
            return False
        if room == "pipelines":
            return last in READING_STAGES
        if room == "facility":
            return last in READING_FACILITY
        return room != "ingest" or not self._is_other_format(name)

    def _is_other_format(self, name: str) -> bool:
        """Whether a module of ingest reads a format: it says which files look like it, or decodes them."""
        tree = ast.parse(self.paths[name].read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        registered = any(
            isinstance(mark, ast.Name) and mark.id == "log_format"
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            for mark in node.decorator_list
        )
        return registered or bool(defined & {"looks_like", "read", "Decoder"})


def room_of(name: str) -> str:
    parts = name.split(".")
    if parts[0] != LIBRARY:
        return parts[0]
    return parts[1] if len(parts) > 1 else LIBRARY


def floors(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms by floor, the top floor (which no room imports) first, each right below the lowest that imports it.

    Rooms that import each other share a floor.
    """
    reach = {room: _reach(arrows, room) for room in arrows}
    level: dict[str, int] = {}

    def level_of(room: str) -> int:
        if room not in level:
            circle = {other for other in reach[room] if room in reach[other]} | {room}
            above = {other for other in arrows if arrows[other] & circle} - circle
            level.update(dict.fromkeys(circle, 1 + max(map(level_of, sorted(above)), default=-1)))
        return level[room]

    for room in sorted(arrows):
        level_of(room)
    return [sorted(room for room in level if level[room] == at) for at in range(max(level.values()) + 1)]


def needed_arrows(arrows: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way implies: enough to draw who stands on whom."""
    reach = {room: _reach(arrows, room) for room in arrows}
    return sorted(
        (room, under)
        for room in arrows
        for under in arrows[room]
        if not any(
            under in reach[other] for other in arrows[room] if other != under and room not in reach[other]
        )
    )


def _reach(arrows: Mapping[str, Collection[str]], room: str) -> set[str]:
    found: set[str] = set()
    left = [room]
    while left:
        for other in arrows[left.pop()]:
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def picture(house: House) -> str:
    """The rooms as boxes on their floors, as SVG. It holds no figures, so it changes only when the imports do."""
    width, box_h, floor_h, left = 1240, 34, 74, 12
    levels = floors(house.arrows)
    drawn = needed_arrows(house.arrows)
    centre: dict[str, tuple[float, float]] = {}
    boxes = []

    def below_its_importers(room: str) -> float:
        """The middle of the rooms that import it, so that arrows cross little."""
        above = [centre[other][0] for other, under in drawn if under == room and other in centre]
        return sum(above) / (len(above) or 1)

    for row, unordered in enumerate(levels):
        rooms = sorted(unordered, key=below_its_importers)
        wide = [8.2 * len(room) + 22 for room in rooms]
        space = (width - 2 * left - sum(wide)) / (len(rooms) + 1)
        x, y = left + space, 14 + row * floor_h
        for room, box_w in zip(rooms, wide, strict=True):
            centre[room] = (x + box_w / 2, y)
            boxes.append(
                f'<rect x="{x:.0f}" y="{y}" width="{box_w:.0f}" height="{box_h}" rx="5"/>'
                f'<text x="{x + box_w / 2:.0f}" y="{y + 22}">{escape(room)}</text>'
            )
            x += box_w + space
    lines = []
    for room, under in drawn:
        (x1, y1), (x2, y2) = centre[room], centre[under]
        start, end = y1 + box_h, y2 - 4
        bend = (end - start) / 2
        if y2 > y1:
            lines.append(
                f'<path d="M{x1:.0f} {start} C{x1:.0f} {start + bend:.0f} {x2:.0f} {end - bend:.0f} '
                f'{x2:.0f} {end}"/>'
            )
    height = 14 + floor_h * len(levels) - (floor_h - box_h) + 14
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'font-family="sans-serif" font-size="14">',
            "<title>Rooms of lepton_etl; an arrow points to a room that is imported</title>",
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            '<g fill="none" stroke="#999" stroke-width="1.2" marker-end="url(#a)">',
            *lines,
            "</g>",
            '<g fill="#eef3fa" stroke="#4a6a94">',
            *(box.partition("<text")[0] for box in boxes),
            "</g>",
            '<g fill="#1b2a3d" text-anchor="middle">',
            *("<text" + box.partition("<text")[2] for box in boxes),
            "</g>",
            "</svg>",
            "",
        ]
    )


@dataclass(frozen=True)
class Figures:
    """What `make house` measures."""

    rooms: int
    floors: int
    arrows: int
    files: int
    lines: int
    library_files: int
    library_lines: int
    short: int
    one_importer: int
    pipelines: int
    reading: int

    @classmethod
    def of(cls, house: House) -> Figures:
        return cls(
            rooms=len(house.rooms),
            floors=len(floors(house.arrows)),
            arrows=sum(map(len, house.arrows.values())),
            files=len([name for name in house.paths if name.split(".")[0] == LIBRARY]),
            lines=sum(lines for name, lines in house.lines.items() if name.split(".")[0] == LIBRARY),
            library_files=len(house.library),
            library_lines=sum(house.lines[name] for name in house.library),
            short=len(house.short_modules()),
            one_importer=len(house.with_one_importer()),
            pipelines=len(house.rooms.get("pipelines", ())),
            reading=len(house.way_of_a_reading()),
        )

    def named(self) -> list[tuple[str, int]]:
        return [
            ("rooms", self.rooms),
            ("floors", self.floors),
            ("arrows between rooms", self.arrows),
            ("files of the library", self.files),
            ("lines of the library", self.lines),
            ("files without the simulator", self.library_files),
            ("lines without the simulator", self.library_lines),
            (f"modules under {SHORT_LINES} lines, without the simulator", self.short),
            ("modules with one importer, without the simulator", self.one_importer),
            ("modules of pipelines", self.pipelines),
            ("files that a reading passes", self.reading),
        ]


def unreached(root: Path) -> tuple[list[str], list[str]]:
    """Public functions, methods and classes that neither library, stage, job nor script reaches, without those that
    scripts/house_reasons.txt explains; and its lines that explain nothing any more.

    By name, as vulture sees it: a name that is used anywhere counts as used everywhere.
    """
    from vulture import Vulture

    seer = Vulture(
        ignore_decorators=["@*.command", "@*.callback", "@field_validator", "@model_validator", "@log_format"]
    )
    seer.scavenge([str(root / package) for package in (*PACKAGES, "scripts")])
    reasons = read_reasons(root)
    found: dict[str, str] = {}
    for item in seer.get_unused_code():
        if item.typ in ("function", "method", "class", "property") and not item.name.startswith("_"):
            path = Path(item.filename).relative_to(root)
            if path.parts[0] in PACKAGES:
                found.setdefault(item.name, f"{path}:{item.first_lineno} {item.name}")
    return (
        sorted(place for name, place in found.items() if name not in reasons),
        sorted(name for name in reasons if name not in found),
    )


def read_reasons(root: Path) -> dict[str, str]:
    """Name -> why it stays although nothing here calls it."""
    reasons = {}
    for line in (root / REASONS).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, reason = line.partition(" ")
            if not reason.strip():
                raise SystemExit(f"{REASONS}: {name} has no reason")
            reasons[name] = reason.strip()
    return reasons


def figures_of_page(figures: Figures) -> str:
    """The table of the page, with lines to the nearest hundred."""
    rows = [
        f"| {name} | {round(value, -2) if 'lines of' in name or name.startswith('lines') else value:,} |"
        for name, value in figures.named()
    ]
    return "\n".join([_BEGIN, "", "| now | |", "| --- | --- |", *rows, "", _END])


def with_figures(page: str, figures: Figures) -> str:
    between = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if not between.search(page):
        raise SystemExit(f"{PAGE} has no line {_BEGIN}")
    return between.sub(lambda _: figures_of_page(figures), page)


def stale(root: Path) -> list[str]:
    """What of the page the imports contradict: the picture, and each figure that is off by more than a twentieth."""
    house = House(root)
    found = []
    if not (root / PICTURE).is_file() or (root / PICTURE).read_text(encoding="utf-8") != picture(house):
        found.append(f"{PICTURE} shows other imports")
    page = (root / PAGE).read_text(encoding="utf-8")
    described = {
        name.strip()
        for row in re.findall(r"^\| ([a-z_, ]+) \|", page, re.MULTILINE)
        for name in row.split(",")
    }
    for room in sorted(house.rooms.keys() - described - set(PACKAGES)):
        found.append(f"{PAGE} does not say what stands in {room}")
    for name, value in Figures.of(house).named():
        said = re.search(rf"^\| {re.escape(name)} \| ([\d,]+) \|$", page, re.MULTILINE)
        if said is None or abs(int(said[1].replace(",", "")) - value) > max(2, value / 20):
            found.append(f"{PAGE} says {said[1] if said else 'nothing'} of {name}, which are {value:,}")
    return found


def _print(title: str, names: Iterable[str], *, long: bool) -> None:
    names = list(names)
    print(f"{title}: {len(names)}")
    if long:
        for name in names:
            print(f"  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is stale")
    parser.add_argument("--long", action="store_true", help="name the modules behind each count")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="another checkout to measure; writes nothing there"
    )
    options = parser.parse_args()
    root: Path = options.root.resolve()
    house = House(root)
    figures = Figures.of(house)
    for name, value in figures.named():
        print(f"{name}: {value:,}")
    if options.long:
        for floor in floors(house.arrows):
            print("floor: " + ", ".join(f"{room} ({len(house.rooms[room])})" for room in floor))
        _print("short modules", house.short_modules(), long=True)
        _print("modules with one importer", house.with_one_importer(), long=True)
        _print("files that a reading passes", house.way_of_a_reading(), long=True)
    if root != ROOT:
        return 0
    dead, idle_reasons = unreached(root)
    _print("public names that nothing but tests and benchmarks reaches", dead, long=True)
    _print(f"lines of {REASONS} that explain nothing", idle_reasons, long=bool(idle_reasons))
    if options.check:
        wrong = stale(root)
        for line in wrong:
            print(f"stale: {line}; run make house")
        return int(bool(wrong or dead or idle_reasons))
    (root / PICTURE).write_text(picture(house), encoding="utf-8")
    page = root / PAGE
    page.write_text(with_figures(page.read_text(encoding="utf-8"), figures), encoding="utf-8")
    print(f"wrote {PICTURE} and the figures of {PAGE}")
    return int(bool(dead or idle_reasons))


if __name__ == "__main__":
    sys.exit(main())
