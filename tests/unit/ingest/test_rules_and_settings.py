"""Rule tables and specs refuse what cannot work, and say what is wrong."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lepton_etl.errors import ConfigurationError
from lepton_etl.ingest.delimited import Delimited
from lepton_etl.ingest.ipmitool import Ipmitool
from lepton_etl.ingest.prometheus import Prometheus
from lepton_etl.ingest.sensors import RULES_FOLDER, RuleTable, load_rules
from tests.decoding import settings_of

METER: dict[str, Any] = {
    "format": "delimited",
    "time": {"column": "time"},
    "device_id": {"column": "meter_id"},
    "readings": [{"column": "power_kw", "quantity": "facility_power", "unit": "kW"}],
}


def rule(**changes: Any) -> dict[str, Any]:
    return {"match": "Fan(?P<n>\\d+)", "quantity": "fan_speed", "device": "fan{n}", "unit": "RPM"} | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"quantity": "fan_happiness"}, "not in the field dictionary"),
        ({"unit": "W"}, "cannot be brought to"),
        ({"unit": "frobs"}, "cannot be brought to"),
        ({"device": "fan"}, "two devices would be one"),
        ({"match": "Fan("}, "no regular expression"),
        ({"statistic": "mode"}, "statistic"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_rule_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        RuleTable.model_validate({"rules": [rule(**changes)]})


def test_the_first_rule_wins_and_names_must_fit_whole() -> None:
    table = RuleTable.model_validate({"rules": [rule(match="Fan1", device="node"), rule()]})
    first, second = table.find("Fan1"), table.find("Fan2")
    assert first is not None
    assert first.devices == ("node",)
    assert second is not None
    assert second.devices == ("fan2",)
    assert table.find("Fan2 Tach") is None


def test_a_rule_file_that_is_wrong_names_itself_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - {match: A, quantity: node_power, unit: V}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"rules\.yaml") as caught:
        load_rules(path)
    assert "rules.0" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        load_rules(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in RULES_FOLDER.glob("*.yaml")))
def test_every_rule_file_of_the_house_loads(name: str) -> None:
    assert load_rules(RULES_FOLDER / name).rules


def test_specs_travel_to_executors() -> None:
    for spec in (Ipmitool(), Prometheus(), settings_of(METER)):
        assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301
    assert Ipmitool.model_validate_json(Ipmitool().model_dump_json()) == Ipmitool()


def test_the_settings_may_name_a_rule_file() -> None:
    assert Ipmitool(sensors=str(RULES_FOLDER / "ipmitool.yaml")) == Ipmitool()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"delimiter": "||"}, "delimiter"),
        ({"delimiter": '"'}, "delimiter"),
        ({"footers": ["(?=x)"]}, "look-around"),
        ({"time": {"column": "time", "format": "%H:%M"}}, "does not give back the day"),
        ({"time": {"column": "time", "format": "%Y-%m-%d %H:%M %Z"}}, "does not give back the day"),
        ({"time": {"column": "time", "format": "%Q"}}, "does not give back the day"),
        ({"timezone": "Mars/Olympus"}, "not an IANA time zone"),
        ({"device_id": {"column": "a", "value": "b"}}, "either column or value"),
        ({"device_id": {}}, "either column or value"),
        ({"time": {"column": "time", "format": "%s", "epoch": "s"}}, "give one of"),
        ({"node_id": {"column": "power_kw"}}, "mapped twice"),
        ({"readings": []}, "readings"),
        ({"readings": [{"column": "x", "quantity": "facility_power", "unit": "degC"}]}, "cannot be brought"),
        ({"readings": [{"column": "x", "quantity": "facility_pow", "unit": "W"}]}, "field dictionary"),
        (
            {"readings": [{"column": "x", "quantity": "facility_power", "unit": "W", "statistic": "mean"}]},
            "window_s belongs",
        ),
        (
            {"readings": [{"column": "x", "quantity": "facility_power", "unit": "W", "window_s": 60}]},
            "window_s belongs",
        ),
        ({"separator": ";"}, "separator"),
    ],
)
def test_a_wrong_delimited_source_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Delimited.model_validate(METER | change)
