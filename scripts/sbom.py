"""Write what a run is made of as a CycloneDX bill of materials: `make sbom` -> var/sbom.cdx.json.

Packages stand as requirements.lock pins them, each with the SHA-256 of its files; jars as conf/jars.sha256 lists them,
and those that the installed pyspark brings (log4j among them), with the SHA-256 of the file. Nothing asks the network:
a scanner reads the file, such as `osv-scanner --sbom var/sbom.cdx.json` or `grype sbom:var/sbom.cdx.json`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import pyspark
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from locked_packages import USER_LOCK
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
JARS = ROOT / "conf" / "jars.sha256"
SPARK_JARS = Path(pyspark.__file__).parent / "jars"
WRITTEN = ROOT / "var" / "sbom.cdx.json"
_JAR = re.compile(r"(?:(?P<group>[a-z0-9.-]+)_)?(?P<name>.+?)-(?P<version>\d[^/]*)\.jar")


def main() -> int:
    """Write the file and print where it is and what it holds."""
    bom = bill()
    WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    WRITTEN.write_text(as_json(bom), encoding="utf-8")
    print(f"{WRITTEN.relative_to(ROOT)}: {len(bom.components)} components")
    return 0


def bill() -> Bom:
    """Return the bill of the user's lock and of the jars."""
    bom = Bom()
    bom.metadata.component = Component(name="lepton_etl", type=ComponentType.APPLICATION)
    made_of = [*packages((ROOT / USER_LOCK).read_text(encoding="utf-8")), *jars(), *spark_jars()]
    bom.components.update(made_of)
    bom.register_dependency(bom.metadata.component, made_of)
    return bom


def as_json(bom: Bom) -> str:
    """Return the bill as CycloneDX 1.6."""
    return JsonV1Dot6(bom).output_as_string(indent=1)


def packages(lock: str) -> Iterator[Component]:
    """Return the packages of a lock's text; one that is pinned apart for older Pythons stands in each version."""
    for entry in lock.replace("\\\n", " ").splitlines():
        if not entry or entry.startswith(("#", "-", " ")):
            continue
        asked = Requirement(entry.split(" --hash=")[0])
        (pin,) = asked.specifier
        yield _component(
            PackageURL("pypi", None, canonicalize_name(asked.name), pin.version),
            re.findall(r"--hash=sha256:([0-9a-f]{64})", entry),
        )


def jars() -> Iterator[Component]:
    """Return the jars that set-up fetches from Maven Central, by their listed checksums."""
    for digest, name in (line.split() for line in JARS.read_text(encoding="utf-8").splitlines()):
        found = _JAR.fullmatch(name)
        assert found is not None and found["group"] is not None, name
        yield _component(PackageURL("maven", found["group"], found["name"], found["version"]), [digest])


def spark_jars() -> Iterator[Component]:
    """Return the jars inside pyspark; their names do not say the group, so these have no package URL."""
    for jar in sorted(SPARK_JARS.glob("*.jar")):
        found = re.fullmatch(r"(.+)-(\d.*)", jar.stem)
        name, version = found.groups() if found else (jar.stem, "")
        yield Component(
            name=name, version=version or None, type=ComponentType.LIBRARY, bom_ref=f"pyspark/jars/{jar.name}",
            hashes=_hashes([sha256(jar.read_bytes()).hexdigest()]),
        )  # fmt: skip


def _component(url: PackageURL, digests: Iterable[str]) -> Component:
    return Component(
        name=url.name, group=url.namespace, version=url.version, type=ComponentType.LIBRARY, purl=url,
        bom_ref=url.to_string(), hashes=_hashes(digests),
    )  # fmt: skip


def _hashes(digests: Iterable[str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in digests]


if __name__ == "__main__":
    sys.exit(main())
