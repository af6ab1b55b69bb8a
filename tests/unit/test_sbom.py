"""The bill of materials: valid CycloneDX, and nothing of the lock, of the checked jars or of Spark's own left out."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def written() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "scripts"))
        sbom = importlib.import_module("sbom")
        text: str = sbom.as_json(sbom.bill())
        return text


@pytest.fixture
def components(written: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(written)["components"]
    return found


def test_it_is_cyclonedx_by_the_schema(written: str) -> None:
    validate = JsonStrictValidator(SchemaVersion.V1_6).validate_str
    assert validate(written) is None
    assert validate(written.replace('"type": "library"', '"type": "book"')) is not None


def test_every_pin_of_the_lock_stands_in_it_with_all_its_hashes(components: list[dict[str, Any]]) -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^ ;\\]+)", lock, re.MULTILINE | re.IGNORECASE)
    assert len(pins) > 100
    urls = {one["purl"]: one for one in components if "purl" in one}
    assert {f"pkg:pypi/{name.lower()}@{version}" for name, version in pins} <= urls.keys()
    hashes = {digest["content"] for one in urls.values() for digest in one["hashes"]}
    assert set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock)) <= hashes


def test_every_jar_stands_in_it_with_its_checksum(components: list[dict[str, Any]]) -> None:
    by_hash = {one["hashes"][0]["content"]: one for one in components if len(one.get("hashes", [])) == 1}
    for line in (PROJECT / "conf" / "jars.sha256").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        found = by_hash[digest]
        assert f"{found['group']}_{found['name']}-{found['version']}.jar" == name
    cores = [one for one in components if one["name"] == "log4j-core"]
    assert [one["bom-ref"] for one in cores] == [f"pyspark/jars/log4j-core-{cores[0]['version']}.jar"]
    assert all(one.get("hashes") for one in components)
