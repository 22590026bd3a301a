"""One log format for both services, on standard error: lines for people, or one JSON object a line on request."""

import logging
import sys
import time

import msgspec

_LINE = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"
_STAMP = "%Y-%m-%dT%H:%M:%S"


class _JsonLines(logging.Formatter):
    """A record as one JSON object: at, level, logger, message and, where there is one, exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": f"{self.formatTime(record, _STAMP)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def configure(json: bool) -> None:
    """Send everything from level INFO up to standard error, replacing what was configured before. Times are UTC."""
    formatter = _JsonLines() if json else logging.Formatter(_LINE, _STAMP)
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # a line for every scrape says nothing
