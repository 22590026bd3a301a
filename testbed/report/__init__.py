"""What a run leaves for people and scripts, `report.html` and `summary.json`, and what it shows while it runs.

Importing this is cheap; matplotlib and rich are loaded when they are used.
"""

from pathlib import Path

from testbed.report import page, summary
from testbed.run_record import RunRecord


def write(record: RunRecord, folder: Path) -> None:
    """Write `summary.json` and `report.html` into `folder`, which must exist."""
    numbers = summary.summarise(record)
    summary.write(numbers, folder)
    page.write(record, numbers, folder)
