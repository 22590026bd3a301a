"""A part of pytest for the whole suite: a test whose output holds a secret fails, whatever else it does.

What a test, its services and the commands that it runs say on standard output, standard error and to the log is looked
through for private keys and join tokens, both of which many tests make. What a command is asked for (`token create`)
goes to whoever asked, not there.
"""

import re
from collections.abc import Generator

import pytest

SECRETS = {
    "a private key": re.compile(r"BEGIN (?:[A-Z]+ )?PRIVATE KEY"),
    "a join token": re.compile(r"skerry1-[A-Za-z0-9_-]{84}"),
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a report fail whose output, or whose traceback, holds a secret."""
    report = yield
    said = "\n".join([report.longreprtext, *(text for _, text in report.sections)])
    found = [name for name, pattern in SECRETS.items() if pattern.search(said)]
    if found:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: its output holds {' and '.join(found)}: see what prints or logs it"
        report.sections = []  # not to be shown once more
    return report
