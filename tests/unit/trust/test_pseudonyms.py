"""Pseudonyms of people: the same in all tasks of a batch, nothing of a name in what leaves a task or a computer."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.config.sections import PrivacySettings
from lepton_etl.errors import ConfigurationError
from lepton_etl.ingest.decoded import JOB_SCHEMA, Decoded, Origin, as_table, reject_table
from lepton_etl.ingest.personal import kept_texts, shape
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.privacy import PSEUDONYM
from lepton_etl.trust.people import SECRET, People
from lepton_etl.trust.pseudonyms import PERSON, TENANT, Hiding, Name, Pseudonyms, forms
from tests.decoding import decode, settings_of

ANN: Name = (PERSON, "ann")
SACCT = b"""JobIDRaw|User|Account|Partition|State|Submit|Start|End|NodeList|AllocCPUS|Restarts
1|ann|physics|gpu|COMPLETED|2025-06-03T00:00:00|2025-06-03T00:00:00|2025-06-03T01:00:00|n1|4|0
2|bob|bob|gpu|COMPLETED|2025-06-03T00:00:00|2025-06-03T00:00:00|2025-06-03T01:00:00|n1|4|0
3|cyd|physics|gpu|COMPLETED|yesterday|2025-06-03T00:00:00|2025-06-03T01:00:00|n1|4|0
"""
POD = b"""properties.cluster,properties.namespace,properties.pod,properties.node,start,end,cpuCores
k8s,physics,train-0,n1,2025-06-03T00:00:00Z,2025-06-03T01:00:00Z,2
"""
POD_USER = PrivacySettings().pod_user
ORIGIN = Origin("s1", "jobs", "landing/jobs.txt", None, "UTC")


def decoded(text: bytes, format_: str) -> Decoded:
    return decode(text, ORIGIN, settings_of({"format": format_}))


_once = cache(decoded)


def with_column(format_: str, text: bytes, column: str, value: str) -> Decoded:
    """What a text decodes to, with this value in each row of a column."""
    jobs = pl.DataFrame(_once(text, format_).jobs).with_columns(pl.lit(value).alias(column))
    return replace(_once(text, format_), jobs=as_table(jobs, JOB_SCHEMA))


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(Lake(tmp_path / "lake"), tmp_path / "key")


def test_two_tasks_of_a_batch_agree_and_two_batches_do_not() -> None:
    batch = Pseudonyms.of({}, tenants=False)
    task = pickle.loads(pickle.dumps(batch))  # noqa: S301  # as an engine carries it
    assert batch.drawn(ANN) == task.drawn(ANN) != Pseudonyms.of({}, tenants=False).drawn(ANN)
    assert PSEUDONYM.fullmatch(batch.drawn(ANN))
    known = Pseudonyms.of({ANN: "u-aaaaaaaaaaaaaaaa"}, tenants=False)
    assert (known.found(ANN), known.found((TENANT, "ann"))) == ("u-aaaaaaaaaaaaaaaa", None)
    assert b"ann" not in pickle.dumps(known)


def test_users_and_tenants_called_as_users_are_hidden_and_other_tenants_named() -> None:
    hiding = Hiding(Pseudonyms.of({}, tenants=False))
    hidden = hiding(decoded(SACCT, "slurm"), of_jobs=True)
    jobs = pl.DataFrame(hidden.jobs).sort("job_id")
    ann, bob = (hiding.introduced[PERSON, name] for name in ("ann", "bob"))
    assert jobs["user_name"].to_list() == [ann, bob]
    assert jobs["account"].to_list() == jobs["tenant_id"].to_list() == ["physics", bob]
    text = repr(hidden.jobs.to_pylist()) + repr(hidden.rejects.to_pylist()) + (hiding.sealed() or "")
    assert not [name for name in ("ann", "bob", "cyd") if name in text]
    hidden.check()


def test_tenants_get_pseudonyms_where_asked_and_so_do_their_pods() -> None:
    hiding = Hiding(Pseudonyms.of({}, tenants=True))
    hidden = hiding(decoded(SACCT, "slurm"), of_jobs=True)
    assert "physics" not in repr(hidden.jobs.to_pylist())
    pod = pl.DataFrame(hiding(decoded(POD, "opencost"), of_jobs=True).jobs).row(0, named=True)
    assert pod["tenant_id"] == hiding.introduced[TENANT, "physics"]
    assert pod["job_id"] == f"{pod['tenant_id']}/train-0"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("test_user", "test-5fuser"),  # as a pod of kubespawner 4 is called
        ("Ann.Smith", "ann-2esmith"),
        ("Ann.Smith", "ann-smith"),
        ("ann@x.org", "ann-x-org---367a1e74"),
        ("jörg", "j-c3-b6rg"),
    ],
)
def test_a_name_is_found_as_labels_and_the_spawner_write_it(name: str, written: str) -> None:
    assert written in forms(name)


NAMES = st.from_regex(r"[a-z][a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,2}", fullmatch=True)
WORDS = st.lists(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), max_size=3)


@settings(max_examples=60, deadline=None)
@given(NAMES, WORDS, WORDS, st.sampled_from(["-", "."]), st.booleans(), st.integers(0, 4))
def test_a_known_person_is_in_no_name_of_a_pod_however_it_is_written(
    name: str, before: list[str], after: list[str], between: str, earlier: bool, number: int
) -> None:
    form = sorted(forms(name))[number % len(forms(name))]
    pod = between.join([*before, form, *after])
    if earlier:
        hiding = Hiding(
            Pseudonyms.of({(PERSON, name): "u-aaaaaaaaaaaaaaaa"}, tenants=False, pod_user=POD_USER)
        )
    else:
        hiding = Hiding(Pseudonyms.of({}, tenants=False, pod_user=POD_USER))
        hiding(with_column("slurm", SACCT, "user_name", name), of_jobs=True)
    hidden = hiding(with_column("opencost", POD, "job_id", f"physics/{pod}"), of_jobs=True)
    [job_id] = hidden.jobs["job_id"].to_pylist()
    assert job_id.startswith("physics/") and PSEUDONYM.search(job_id)
    rest = PSEUDONYM.sub("", job_id.removeprefix("physics/"))
    # What is left are the other words.
    assert set(re.findall(r"\w+", rest)) <= {*before, *after}
    # Who runs an exported command finds the pod.
    names = {pseudonym: known for (_, known), pseudonym in hiding.introduced.items()}
    assert PSEUDONYM.sub(lambda one: names.get(one[0], name), job_id) == f"physics/{pod}"


def test_a_pod_of_jupyterhub_names_somebody_whom_no_scheduler_knows() -> None:
    hiding = Hiding(Pseudonyms.of({}, tenants=False, pod_user=POD_USER))
    text = POD.replace(b"train-0", b"jupyter-dora-2esmith--gpu")
    [job_id] = pl.DataFrame(hiding(decoded(text, "opencost"), of_jobs=True).jobs)["job_id"]
    assert job_id == f"physics/jupyter-{hiding.introduced[PERSON, 'dora-2esmith--gpu']}"


def test_a_word_of_a_pod_that_names_nobody_stays() -> None:
    """People called by a number, a letter, or a part of the word are not meant."""
    people = {(PERSON, name): "u-aaaaaaaaaaaaaaaa" for name in ("0", "t", "rain", "train-1")}
    hiding = Hiding(Pseudonyms.of(people, tenants=False, pod_user=POD_USER))
    [job_id] = pl.DataFrame(hiding(decoded(POD, "opencost"), of_jobs=True).jobs)["job_id"]
    assert job_id == "physics/train-0"


def test_a_line_of_a_device_names_no_person_whom_the_lake_knows() -> None:
    hiding = Hiding(Pseudonyms.of({ANN: "u-aaaaaaaaaaaaaaaa"}, tenants=False))
    texts = ["Sys Power of ann-s node | 200", "Sys Power of annex | 200"]
    rejects = reject_table(
        [pl.DataFrame({"source_position": [1, 2], "reason": "x", "raw_text": texts})], None
    )
    hidden = hiding(replace(Decoded.merge([]), rejects=rejects, records=2), of_jobs=False).rejects
    assert hidden["raw_text"].to_pylist() == ["Sys Power of u-aaaaaaaaaaaaaaaa-s node | 200", texts[1]]


def test_names_go_back_sealed_and_only_their_batch_opens_them() -> None:
    batch = Pseudonyms.of({}, tenants=False)
    sealed = batch.sealed({ANN: batch.drawn(ANN)})
    assert batch.opened([sealed]) == {ANN: batch.drawn(ANN)}
    with pytest.raises(ValueError, match="another key"):
        Pseudonyms.of({}, tenants=False).opened([sealed])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('node_power{user="ann",gpu="0"} x', 'node_power{user="***",gpu="0"} x'),
        ("Owner=ann(1001) State=IDLE", "Owner=***(1001) State=IDLE"),
        ("Reason=fan [ann@2025-06-03]", "Reason=fan [***2025-06-03]"),
        ("Sys Power | 200 Watts", "Sys Power | 200 Watts"),
        ("cpu usage_user=12,x=1", "cpu usage_user=12,x=1"),
        ('{"uid": 1001, "w": 5}', '{"uid": ***, "w": 5}'),
        ('gpu_power{exported_pod="ann-0",gpu="1"} x', 'gpu_power{exported_pod="***",gpu="1"} x'),
        ('proc_w{cmdline="python /x/ann.py",n="1"} x', 'proc_w{cmdline=***,n="1"} x'),
        ("Comment=for ann and bob", "Comment=***"),
        ("cannot open /home/ann/power.csv", "cannot open /home/***/power.csv"),
    ],
)
def test_a_line_of_a_device_keeps_all_but_users(text: str, kept: str) -> None:
    assert kept_texts(pl.Series([text]), of_jobs=False)[0] == kept


def test_of_a_line_of_accounting_the_shape_is_kept() -> None:
    assert shape("12|j.müller|Phys1|2025-06-03T00:00\x00") == "9|a.a|a9|9-9-9a9:9\x00"


def test_the_map_opens_with_its_key_alone(people: People, tmp_path: Path) -> None:
    pseudonym = people.pseudonym("ann")
    assert people.names() == {ANN: pseudonym}
    assert people.pseudonym("ann") == pseudonym
    assert people.named([{"advice": f"cap {pseudonym} in gpu", "n": 1}]) == [
        {"advice": "cap ann in gpu", "n": 1}
    ]
    marie = people.pseudonym("ann-marie")
    assert (
        people.hidden("ann, joann and ann-marie of ann") == f"{pseudonym}, joann and {marie} of {pseudonym}"
    )
    sealed = (tmp_path / "lake/_people/map.sealed").read_bytes()
    assert b"ann" not in sealed
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="not its key"):
        people.names()
    (tmp_path / "key").write_text("A" * 43 + "=")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigurationError, match="does not open"):
        people.check()


def test_a_key_that_others_may_read_is_refused(people: People, tmp_path: Path) -> None:
    people.pseudonym("ann")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="others may read"):
        people.check()


def test_rotation_seals_the_map_by_another_key(people: People, tmp_path: Path) -> None:
    pseudonym = people.pseudonym("ann")
    before = (tmp_path / "key").read_text(), (tmp_path / "lake/_people/map.sealed").read_bytes()
    assert people.rotate() == tmp_path / "key"
    assert people.names() == {ANN: pseudonym}
    assert (tmp_path / "key").read_text() != before[0]
    (tmp_path / "lake/_people/map.sealed").write_bytes(before[1])
    with pytest.raises(ConfigurationError, match="does not open"):
        people.names()


def test_a_rotation_that_was_killed_before_its_end_leaves_the_map_open(
    people: People, tmp_path: Path
) -> None:
    pseudonym = people.pseudonym("ann")
    old = (tmp_path / "key").read_bytes()
    people.rotate()
    (tmp_path / "key").rename(tmp_path / "key.new")
    (tmp_path / "key").write_bytes(old)
    (tmp_path / "key").chmod(0o600)
    assert people.names() == {ANN: pseudonym}


def test_the_environment_goes_before_the_file(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "B" * 43 + "=")
    people.pseudonym("ann")
    assert not (tmp_path / "key").exists()
    with pytest.raises(ConfigurationError, match="no new one is given"):
        people.rotate()
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(ConfigurationError, match="not a key"):
        people.check()


def test_who_is_forgotten_has_no_pseudonym_that_leads_anywhere(people: People) -> None:
    pseudonym = people.pseudonym("ann")
    people.pseudonym("bob")
    of_pod = people.pseudonym("ann--gpu")
    assert people.forget("ann") == [pseudonym, of_pod]
    assert people.forget("ann") == []
    assert list(people.names()) == [(PERSON, "bob")]
    assert people.pseudonym("ann") != pseudonym


def test_a_name_that_came_by_two_ways_keeps_both_pseudonyms(people: People) -> None:
    first = people.pseudonym("ann")
    people.add({ANN: "u-aaaaaaaaaaaaaaaa"})
    assert people.names() == {ANN: first}
    assert people.name_of() == {first: "ann", "u-aaaaaaaaaaaaaaaa": "ann"}


def test_a_lake_without_a_place_for_a_key_is_refused_where_a_source_may_name_people(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no key to keep their names by"):
        People(Lake(tmp_path / "lake"), None, expected=True).check()
    People(Lake(tmp_path / "lake"), None).check()
