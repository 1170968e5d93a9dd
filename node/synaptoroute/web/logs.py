"""Logs: structured, one line an event, on the standard error stream.

Rule 1: no text of a query and no utterance at ``info`` or above.  Rule 2: an API key
is never logged, only its name.  Rule 3: the logs of libraries go the same way.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import Processor

LOGGER_NAME: Final = "synaptoroute.server"
LOGGER: Final = logging.getLogger(LOGGER_NAME)
"""Says which levels are kept."""
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# Libraries whose ordinary lines repeat those of the project; their warnings are kept.
_CHATTY: Final = ("asyncio", "httpcore", "httpx", "uvicorn")

ServerLog = structlog.stdlib.BoundLogger


def server_log() -> ServerLog:
    log: ServerLog = structlog.stdlib.get_logger(LOGGER_NAME)
    return log


def configure_logs(
    level: Literal["debug", "info", "warning", "error"],
    style: Literal["json", "text"],
    stream: TextIO | None = None,
) -> None:
    """Send every log of the process to one stream in one style; called once, by ``serve``."""
    out = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(style, out),
        ],
    )
    root = logging.getLogger()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[level]))
    logging.captureWarnings(True)


def _renderers(style: str, stream: TextIO) -> list[Processor]:
    if style == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    colors = bool(getattr(stream, "isatty", lambda: False)())
    return [structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=24)]
