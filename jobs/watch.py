"""spark-submit --properties-file conf/spark-defaults.conf jobs/watch.py --config conf/local.yaml

Keeps gold/device_now within two minutes of the logs until it is stopped. Further: [--until-idle].
"""

import sys

from lepton_etl.cli.main import run

if __name__ == "__main__":
    run(["watch", *sys.argv[1:]])
