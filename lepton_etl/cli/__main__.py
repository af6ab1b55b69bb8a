"""`python -m lepton_etl.cli` is the command `lepton-etl`."""

from lepton_etl.cli.main import run

if __name__ == "__main__":
    run()
