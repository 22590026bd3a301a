"""Both services log in one format, which a machine can read on request."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from skerry import logging_setup


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_names_time_level_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    logging_setup.configure(json=False)
    logging.getLogger("coordinator.stream").warning("device %s: %d bytes", "pi-1", 7)
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING coordinator\.stream: device pi-1: 7 bytes\n", line
    )


def test_json_carries_the_exception_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logging_setup.configure(json=True)
    try:
        raise ValueError("broken\npipe")
    except ValueError:
        logging.getLogger("edge_agent").exception("gave up")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    record = json.loads(lines[0])
    assert (record["level"], record["logger"], record["message"]) == ("error", "edge_agent", "gave up")
    assert record["at"].endswith("Z")
    assert "ValueError: broken" in record["exception"]


def test_debug_and_accesses_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logging_setup.configure(json=False)
    logging.getLogger("coordinator").debug("detail")
    logging.getLogger("aiohttp.access").info("GET /metrics")
    assert capsys.readouterr().err == ""
