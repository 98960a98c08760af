"""Logs that a tired operator can read, or a machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        area = record.name.removeprefix("pyflannel.")
        text = f"{clock}.{int(record.msecs):03d} {record.levelname[0]} {area}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "area": record.name.removeprefix("pyflannel."),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up(form: Literal["text", "json"], verbosity: int) -> None:
    """Log to standard error; details from verbosity 1 on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("pyflannel").setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    for noisy in ("uvicorn", "h2", "hpack", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
