"""Write conf/settings.schema.json, the JSON schema of a settings file; editors check and complete by it."""

import json
import sys
from pathlib import Path

from lepton_etl.config.settings import Settings

TARGET = Path(__file__).resolve().parents[1] / "conf" / "settings.schema.json"


def schema() -> str:
    """The schema as committed: sorted, so that it changes only where the settings do."""
    found = Settings.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(schema(), encoding="utf-8")
    sys.stdout.write(f"wrote {TARGET.name}\n")
