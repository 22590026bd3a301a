"""`python -m tests.simulation.fault_runs`: see `campaign`."""

import sys

from tests.simulation.fault_runs.campaign import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
