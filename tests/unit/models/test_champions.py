"""Promotions in the audit chain, on a real MLflow store: told before they are done, finished after kills."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_etl.config.sections import AuditSettings
from lepton_etl.errors import ModelError
from lepton_etl.lake.tables import Lake
from lepton_etl.models.features import FEATURES
from lepton_etl.models.fit import Trained
from lepton_etl.models.registry import CHAMPION_ALIAS, Move, Registry
from lepton_etl.models.stored import folder_sha256
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.trust import AUDIT
from lepton_etl.trust.chain import Event, record
from lepton_etl.trust.champions import Champions
from lepton_etl.trust.seal import head_of, head_place
from lepton_etl.trust.verify import Verified, verify

RUN_ID = "20250603T000000-beef"


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


class Site:
    """A lake whose run trains on, and the registry beside it."""

    def __init__(self, folder: Path, store: Registry, trained: Trained) -> None:
        self.folder, self.trained = folder, trained
        # A model of its own: the store is that of all tests here.
        self.name = f"m-{folder.name.replace('_', '-')[-40:]}"
        self.lake = Lake(folder / "lake", {"run_id": RUN_ID, "stage": "train"})
        if not self.lake.exists(RUN):
            self.lake.write_rows(RUN, [{"run_id": RUN_ID, "state": "running"}])
        self.registry = Registry(store.tracking_uri, store.artifact_location)
        self.champions = Champions(self.lake, AuditSettings(), RUN_ID, self.registry)
        self.registry.announce = self.champions.announce

    def register(self, trained: Trained | None = None) -> str:
        tags = {
            "delta_versions": json.dumps({"silver/interval": 4, "silver/node": None}),
            "code_version": "1",
        }
        return self.registry.register(self.name, trained or self.trained, FEATURES["node"], {}, tags).version

    def champion(self) -> str | None:
        found = self.registry.champion(self.name)
        return None if found is None else found.version

    def move_by_hand(self, version: str) -> None:
        self.registry._connected().set_registered_model_alias(self.name, CHAMPION_ALIAS, version)

    def files(self, version: str) -> Path:
        client = self.registry._connected()
        source = client.get_model_version_download_uri(self.name, version)
        if source.startswith("models:/"):
            source = client.get_logged_model(source.removeprefix("models:/")).artifact_location
        return Path(source.removeprefix("file://"))

    def again(self) -> Site:
        """The same, by another process."""
        return Site(self.folder, self.registry, self.trained)

    def found(self) -> list[str]:
        return [str(one) for one in verify(self.lake, registry=self.registry, own_models=[self.name])]

    def events(self, kind: str = "promotion") -> list[dict[str, object]]:
        rows = self.lake.read(AUDIT).sort("seq").filter(event_kind=kind)
        return [{"seq": row["seq"], **json.loads(row["event_detail"])} for row in rows.to_dicts()]

    def night(self) -> tuple[str, ...]:
        """What the stage train does first."""
        return self.champions.settle([self.name])


@pytest.fixture
def site(tmp_path: Path, registry: Registry, plain: Trained) -> Site:
    return Site(tmp_path, registry, plain)


def test_a_promotion_is_an_event_with_the_digest_of_its_files(site: Site) -> None:
    """Each with the champion before and what it learnt from; refused ones are none, and nothing is found."""
    assert (site.register(), site.register(), site.register(site.trained.refused("made up"))) == (
        "1",
        "2",
        "3",
    )
    first, second = site.events()
    assert (first["version"], first["champion_before"], first["decision"]) == (1, None, "promoted")
    assert (second["version"], second["champion_before"]) == (2, 1)
    assert second["sha256"] == folder_sha256(site.files("2"))
    rows = site.lake.read(AUDIT).filter(event_kind="promotion")
    assert set(rows["event_inputs"]) == {'{"silver/interval":4}'}
    assert set(rows["subject"]) == {f"model/{site.name}"}
    seen = Verified()
    assert list(verify(site.lake, registry=site.registry, own_models=[site.name], seen=seen)) == []
    assert seen.models == 2
    assert site.night() == ()


def test_a_roll_back_is_an_event_too(site: Site) -> None:
    site.register()
    site.register()
    site.registry.roll_back(site.name, "1", "errors doubled")
    last = site.events()[-1]
    assert (last["version"], last["champion_before"], last["decision"]) == (1, 2, "rolled back")
    assert (site.champion(), site.found(), site.night()) == ("1", [], ())
    left = site.registry.version(site.name, "2")
    assert left is not None and left.tags["promotion"] == "rolled back"


def test_a_changed_file_of_a_model_is_named(site: Site) -> None:
    """Of the champion and of the one before it, whatever the registry's own tag says."""
    site.register()
    site.register()
    for event, version in enumerate(("1", "2"), 1):
        for changed in sorted(site.files(version).iterdir()):
            kept = changed.read_bytes()
            changed.write_bytes(kept + b" ")
            site.registry._connected().set_model_version_tag(
                site.name, version, "model_sha256", folder_sha256(changed.parent)
            )
            differ = "its files differ: their SHA-256 is another"
            assert site.found() == [f"model/{site.name} version {version}: {differ} (event {event})"]
            changed.write_bytes(kept)
    assert site.found() == []


def test_files_that_are_gone_are_named(site: Site) -> None:
    site.register()
    for file in sorted(site.files("1").iterdir()):
        file.unlink()
    (found,) = site.found()
    assert found.startswith(f"model/{site.name} version 1: ") and found.endswith("(event 1)")


def test_an_alias_moved_by_hand_is_named_until_it_is_acknowledged(site: Site) -> None:
    """By verify at once, by the next night as an event; what moves it later is another matter."""
    site.register()
    site.register()
    site.move_by_hand("1")
    assert site.found() == [f"model/{site.name}: version 1 is champion, the event says version 2 (event 2)"]
    (note,) = site.night()
    assert note == (
        f"{site.name}: version 1 is champion, moved by no run -> lepton-etl audit acknowledge --event 3"
    )
    assert site.champion() == "1", "who moved it may have had his reasons"
    assert site.found() == [f"model/{site.name}: its champion was made by no run (event 3)"]
    reason = {"event": 3, "reason": "a trial"}
    record(site.lake, AuditSettings(), RUN_ID, Event("acknowledgement", "event 3", detail=reason))
    assert (site.found(), site.night()) == ([], ())
    site.register()
    assert (site.events()[-1]["champion_before"], site.found()) == (1, [])


def test_an_alias_taken_away_and_one_that_was_never_told_are_named(site: Site) -> None:
    silent = site.again().registry
    silent.announce = lambda _: ""
    silent.register(site.name, site.trained, FEATURES["node"], {}, {})
    record(site.lake, AuditSettings(), RUN_ID)
    assert site.found() == [f"model/{site.name}: version 1 is champion, and no event tells of it"]
    assert site.night() == ()
    assert [one["version"] for one in site.events("adoption") if "version" in one] == [1]
    assert site.found() == [], "what stood there before is taken as it stands, once"
    silent.register("other", site.trained, FEATURES["node"], {}, {})
    (note,) = site.champions.settle([site.name, "other"])
    assert note.startswith("other: version 1 is champion, moved by no run")
    site.registry._connected().delete_registered_model_alias(site.name, CHAMPION_ALIAS)
    assert f"model/{site.name}: nothing is champion, the event says version 1 (event 2)" in site.found()
    assert site.night()[0].startswith(f"{site.name}: nothing is champion, moved by no run")


def _before_the_event(site: Site) -> None:
    def kill(_: Move) -> str:
        raise Killed

    site.registry.announce = kill


def _after_the_event(site: Site) -> None:
    def kill(move: Move) -> str:
        site.champions.announce(move)
        raise Killed

    site.registry.announce = kill


def _after_the_alias(site: Site) -> None:
    client = site.registry._connected()
    move = client.set_registered_model_alias

    def kill(*given: str) -> None:
        move(*given)
        raise Killed

    client.set_registered_model_alias = kill  # type: ignore[method-assign]


@pytest.fixture(params=[_before_the_event, _after_the_event, _after_the_alias], ids=lambda one: one.__name__)
def kill(request: pytest.FixtureRequest) -> Iterator[Callable[[Site], None]]:
    yield request.param


@pytest.mark.parametrize("is_first", [True, False])
def test_a_promotion_that_was_killed_is_finished_by_the_next_night(
    site: Site, kill: Callable[[Site], None], is_first: bool
) -> None:
    """Killed before its event nothing has moved; killed later the event stands, and verify tells what is open."""
    if not is_first:
        site.register()
    before, wanted = site.champion(), "1" if is_first else "2"
    kill(site)
    with pytest.raises(Killed):
        site.register()
    events = site.events()
    if kill is _before_the_event:
        assert (site.champion(), len(events)) == (before, 0 if is_first else 1)
        assert site.found() == ([] if not is_first else ["ops/audit: there is no audit chain"])
    else:
        assert events[-1]["version"] == int(wanted)
        is_open = kill is _after_the_event
        assert site.champion() == (before if is_open else wanted)
        assert len(site.found()) == is_open
    again = site.again()
    (note,) = again.night()
    assert note.startswith(f"{site.name} version {wanted} is champion")
    assert (again.champion(), again.found(), again.night()) == (wanted, [], ())
    assert [one["version"] for one in again.events()] == ([1] if is_first else [1, 2])
    version = again.registry.version(site.name, wanted)
    assert version is not None and version.tags["promotion"] == "promoted"


def test_a_roll_back_that_was_killed_is_finished_by_the_next_night(
    site: Site, kill: Callable[[Site], None]
) -> None:
    site.register()
    site.register()
    kill(site)
    with pytest.raises(Killed):
        site.registry.roll_back(site.name, "1", "errors doubled")
    again = site.again()
    again.night()
    assert again.champion() == ("2" if kill is _before_the_event else "1")
    assert (again.found(), again.night()) == ([], ())
    left = again.registry.version(site.name, "2")
    assert left is not None
    assert left.tags["promotion"] == ("promoted" if kill is _before_the_event else "rolled back")


def test_a_model_that_was_changed_before_its_promotion_is_not_promoted(site: Site) -> None:
    site.register()
    _before_the_event(site)
    with pytest.raises(Killed):
        site.register()
    changed = site.files("2") / "model.skops"
    changed.write_bytes(changed.read_bytes() + b"x")
    again = site.again()
    with pytest.raises(ModelError, match="not those that were registered"):
        again.night()
    assert (again.champion(), len(again.events())) == ("1", 1)


def test_a_head_that_was_lost_knows_the_champions_again(site: Site) -> None:
    """No head is no reason to take up an alias as it stands."""
    site.register()
    site.register()
    head = Path(head_place(site.lake.root).uri)
    head.unlink()
    site.move_by_hand("1")
    (note,) = site.night()
    assert "version 1 is champion, moved by no run" in note
    known = head_of(site.lake.root).known.models
    head.unlink()
    record(site.lake, AuditSettings(), RUN_ID, Event("close", "2025-05"))
    assert head_of(site.lake.root).known.models == known
    assert site.night() == ()
