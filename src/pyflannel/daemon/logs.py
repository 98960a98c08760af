"""Logs that a tired operator can read, or a machine: one line per event, on standard error.

Names and texts that come from other nodes end up in messages: control characters are shown, not sent to the terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

PREFIX = "pyflannel."
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if code not in (9, 10)}
_COLOURS = {"W": "\x1b[33m", "E": "\x1b[31m", "C": "\x1b[31m"}  # yellow, red
_NOISY = ("uvicorn", "h2", "hpack", "asyncio", "grpclib")  # libraries: from warnings on


class TextForm(logging.Formatter):
    """`2026-11-23 14:02:11.042 W store.keyed: …`: local time, level's letter, who says it. Colours only if *colour*."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        letter = record.levelname[0]
        message = record.getMessage().translate(_CONTROLS).replace("\n", "\n    ")
        line = f"{clock}.{int(record.msecs):03d} {letter} {record.name.removeprefix(PREFIX)}: {message}"
        if self._colour and letter in _COLOURS:
            line = f"{_COLOURS[letter]}{line}\x1b[0m"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonForm(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, area, message, and trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "area": record.name.removeprefix(PREFIX),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up(form: str, verbosity: int, stream: TextIO | None = None) -> None:
    """Log to *stream* (standard error) as "text" or "json"; details from *verbosity* 1 on."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    colour = stream.isatty() and "NO_COLOR" not in os.environ
    handler.setFormatter(JsonForm() if form == "json" else TextForm(colour))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("pyflannel").setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
