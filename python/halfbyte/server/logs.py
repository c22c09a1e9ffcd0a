"""The server's log: a line for each request, as text or JSON, without a word of what was said."""

from __future__ import annotations

import json
import logging
import time


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        facts = {"message": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if self._as_json:
            return json.dumps({"time": moment, "level": record.levelname.lower(), **facts}, default=str)
        text = " ".join(f"{key}={_shown(value)}" for key, value in facts.items() if key not in ("message", "traceback"))
        lines = [f"{moment} {record.levelname.lower()} {facts['message']} {text}".rstrip(), facts.get("traceback", "")]
        return "\n".join(line for line in lines if line)


def _shown(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(" \"'") else json.dumps(text)


def set_up(log_format: str, level: str = "INFO") -> None:
    """Sends the log of halfbyte and uvicorn to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(as_json=log_format == "json"))
    for name, least in (("halfbyte", level), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False
