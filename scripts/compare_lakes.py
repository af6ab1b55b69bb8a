"""Compare two lakes table by table; exit 1 where they differ. The same as `lepton-etl tables compare`."""

from __future__ import annotations

import sys

from lepton_etl.cli.main import main

if __name__ == "__main__":
    main(["tables", "compare", *sys.argv[1:]])
