"""Logs: structured, one line an event, on the standard error stream.

Rule 1: no text of a query and no utterance at ``info`` or above.  Rule 2: an API key
is never logged, only its name.  Rule 3: the logs of libraries go the same way.  Rule 4: an
exception is logged without the values of variables, in bounded length, and rendered off the
event loop; what looks like a secret in its message is blanked.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import traceback
from collections import deque
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

FRAMES_MAX: Final = 30
"""Frames of a traceback that are kept, from the innermost."""
EXCEPTION_LINE_CHARACTERS_MAX: Final = 500
EXCEPTION_CHARACTERS_MAX: Final = 16_384
RENDERINGS_MAX: Final = 64
"""Exceptions that wait to be rendered; further ones are logged by their type alone."""
BLANK: Final = "***"
_SECRETS: Final = (
    # Name and password in a URL, up to the last @ of its authority.
    (re.compile(r"(?<=://)[^\s/\"']*@"), f"{BLANK}@"),
    (re.compile(r"\bsr_[A-Za-z0-9_-]{16,}"), f"sr_{BLANK}"),
    (re.compile(r"\b(bearer|basic) +[A-Za-z0-9+/=_.~-]{8,}", re.IGNORECASE), rf"\1 {BLANK}"),
    (
        re.compile(
            r"(authorization|x-api-key|cookie|sr_session|password|passwd|secret)"
            r"(\\?[\"']?\s*[:=]\s*(?:b?\\?[\"'])?|\\?[\"']\s*,\s*b?\\?[\"'])[^\s\"',;\\)]+",
            re.IGNORECASE,
        ),
        rf"\1\2{BLANK}",
    ),
)

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
    formatter = _Formatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            render_exception,
            *_renderers(style, out),
        ],
    )
    root = logging.getLogger()
    handler = LogHandler(out)
    handler.setFormatter(formatter)
    root.handlers = [handler]
    root.setLevel(_LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, _LEVELS[level]))
    logging.captureWarnings(True)


def _renderers(style: str, stream: TextIO) -> list[Processor]:
    if style == "json":
        return [
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    colors = bool(getattr(stream, "isatty", lambda: False)())
    return [structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=24)]


# --- exceptions --------------------------------------------------------------------------


def render_exception(logger: Any, name: str, event: EventDict) -> EventDict:
    """Render the exception of an event, in the same way for every format."""
    hidden = event.pop("hidden", None)
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        text = describe(error)
        event["exception"] = text.replace(hidden, BLANK) if hidden else text
    return event


def describe(error: BaseException) -> str:
    """A traceback without the values of variables, in bounded length."""
    lines = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX).format()
    short = [each[:EXCEPTION_LINE_CHARACTERS_MAX] for part in lines for each in part.splitlines()]
    text = "\n".join(short)
    if len(text) <= EXCEPTION_CHARACTERS_MAX:
        return text
    half = EXCEPTION_CHARACTERS_MAX // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def blank_secrets(text: str) -> str:
    """Blank what looks like a key, a password or a URL with one."""
    for pattern, blank in _SECRETS:
        text = pattern.sub(blank, text)
    return text


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders a record as one line, or as several for an exception in text."""

    def format(self, record: logging.LogRecord) -> str:
        return blank_secrets(super().format(record))


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes records to a stream; those with an exception by a thread of its own.

    To render a traceback, files of source code are read.  On the event loop that would
    delay every request, and an error that clients can cause would delay it all the time.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: deque[logging.LogRecord] = deque()
        self.is_rendering = False  # changed on the event loop only

    def handle(self, record: logging.LogRecord) -> bool:
        loop = _running_loop()
        if loop is None or not _has_exception(record):
            return super().handle(record)
        if len(self._waiting) >= RENDERINGS_MAX:
            return super().handle(_without_exception(record))
        if isinstance(record.msg, dict) and record.msg["exc_info"] is True:
            # The exception that is being handled is known to this thread only.
            record.msg = {**record.msg, "exc_info": sys.exc_info()}
        self._waiting.append(record)
        if not self.is_rendering:
            self._start_rendering(loop)
        return True

    def close(self) -> None:
        self._render_waiting()
        super().close()

    def _start_rendering(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            rendering = loop.run_in_executor(None, self._render_waiting)
        except RuntimeError:  # the loop is ending
            self._render_waiting()
            return
        self.is_rendering = True
        rendering.add_done_callback(lambda _: self._end_rendering(loop))

    def _end_rendering(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_rendering = False
        if self._waiting:
            self._start_rendering(loop)

    def _render_waiting(self) -> None:
        while self._waiting:
            record = self._waiting.popleft()
            try:
                # Without the lock of the handler: other lines must not wait for this one.
                line = self.format(record) + self.terminator
                self.acquire()
                try:
                    self.stream.write(line)
                    self.stream.flush()
                finally:
                    self.release()
            except Exception:
                self.handleError(record)


def _has_exception(record: logging.LogRecord) -> bool:
    event = record.msg
    return bool(event.get("exc_info") if isinstance(event, dict) else record.exc_info)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _without_exception(record: logging.LogRecord) -> logging.LogRecord:
    """The record with the type of its exception only."""
    found: Any = record.exc_info
    if isinstance(record.msg, dict):
        event = dict(record.msg)
        found = event.pop("exc_info", None) or found
        record.msg = event
        error = found[1] if isinstance(found, tuple) else found
        event["exception"] = type(error).__name__
    record.exc_info = None
    return record
