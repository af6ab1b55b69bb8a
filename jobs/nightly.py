"""spark-submit --properties-file conf/spark-defaults.conf jobs/nightly.py --config conf/local.yaml --date 2025-06-03

Further: [--until 2025-06-05] [--stage bronze|silver|gate|gold|train|score|report]. Exit codes: docs/operations.md.
"""

import sys

from lepton_etl.cli.main import run

if __name__ == "__main__":
    run(["nightly", *sys.argv[1:]])
