"""spark-submit --properties-file conf/spark-defaults.conf jobs/recommend.py --config conf/local.yaml --date 2025-06-03

The stage recommend alone; what it needs must have been made before. Further: [--until 2025-06-05].
"""

import sys

from lepton_etl.cli import main

if __name__ == "__main__":
    main(["nightly", "--stage", "recommend", *sys.argv[1:]])
