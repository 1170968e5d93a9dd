"""Exceptions in the log: no secrets, no values of variables, bounded, off the event loop."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from http_node import exceptions_logged, http_node
from synaptoroute.router import AdaptiveRouter
from synaptoroute.web import logs
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute.web.logs import (
    EXCEPTION_CHARACTERS_MAX,
    RENDERINGS_MAX,
    LogHandler,
    blank_secrets,
    configure_logs,
    describe,
    server_log,
)

pytestmark = pytest.mark.unit

Style = Literal["json", "text"]
STYLES: tuple[Style, ...] = ("json", "text")
PASSWORD = "hunter2hunter2"


@contextmanager
def logged(style: Style) -> Iterator[tuple[io.StringIO, LogHandler]]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    configure_logs("debug", style, stream)
    handler = root.handlers[0]
    assert isinstance(handler, LogHandler)
    try:
        yield stream, handler
    finally:
        root.handlers, root.level = handlers, level
        logging.captureWarnings(False)
        structlog.reset_defaults()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("is_direct", [False, True])
async def test_a_500_leaves_no_secret_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: Style, is_direct: bool
) -> None:
    """Not the key in a header, nor the one in the body, nor Redis' password in an error."""
    key, other = make_key(), make_key()
    path = tmp_path / "keys"
    path.write_text(key_line(key, ["admin"], "ops") + "\n")
    path.chmod(0o600)

    def fail(self: AdaptiveRouter, text: str, **_: Any) -> None:
        url, header = f"redis://default:{PASSWORD}@redis:6379/0", f"Authorization: Bearer {key}"
        try:
            raise ConnectionError(f"Error 111 connecting to {url} for {header}")
        except ConnectionError as error:
            raise ValueError(f"cannot use {text!r} of {[(b'x-api-key', key.encode())]}") from error

    monkeypatch.setattr(AdaptiveRouter, "begin_query", fail)
    with logged(style) as (stream, _):
        async with http_node(tmp_path, api_keys_file=path) as node:
            answer = await node.http.post(
                "/v1/query" if is_direct else "/v1/query?x",
                json={"text": other},
                headers={"authorization": f"Bearer {key}", "cookie": f"sr_session={PASSWORD}"},
            )
        await exceptions_logged()
        text = stream.getvalue()

    assert 500 == answer.status_code
    assert answer.json()["incident"] in text
    assert "ValueError" in text
    assert "ConnectionError" in text
    assert "begin_query" in text
    for secret in (key, other, PASSWORD):
        assert secret not in text
        assert secret not in answer.text
    if style == "json":
        assert all(json.loads(line) for line in text.splitlines())


@pytest.mark.parametrize("style", STYLES)
def test_key_of_any_form_is_blanked_where_its_request_fails(style: Style) -> None:
    with logged(style) as (stream, _):
        server_log().error("request_failed", hidden="my own key", exc_info=ValueError("my own key"))

    assert "my own key" not in stream.getvalue()
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize("style", STYLES)
def test_values_of_variables_are_not_logged(style: Style) -> None:
    def fail(headers: dict[str, str]) -> None:
        raise ZeroDivisionError

    value = "v" * 30
    with logged(style) as (stream, _):
        for log in (server_log(), logging.getLogger("a.library")):
            try:
                fail({"a": value})
            except ZeroDivisionError:
                log.exception("failed")

    assert 2 == stream.getvalue().count("raise ZeroDivisionError")
    assert value not in stream.getvalue()


def test_exception_is_rendered_in_bounded_length() -> None:
    def recurse(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 10_000_000)
        recurse(depth - 1)

    try:
        recurse(500)
    except ValueError as error:
        text = describe(error)

    assert len(text) < EXCEPTION_CHARACTERS_MAX
    assert "ValueError: xxx" in text
    assert text.count("in recurse") < 60


async def test_exception_is_rendered_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, the loop goes on, and other lines are written meanwhile."""
    gate = threading.Event()
    threads: list[int] = []

    def slow(error: BaseException) -> str:
        threads.append(threading.get_ident())
        gate.wait(10)
        return "rendered"

    monkeypatch.setattr(logs, "describe", slow)
    with logged("json") as (stream, _):
        began_at = time.monotonic()
        try:
            raise ValueError
        except ValueError:
            server_log().exception("first")
        server_log().info("second")
        assert time.monotonic() - began_at < 5
        assert ["second"] == [
            json.loads(line)["message"] for line in stream.getvalue().splitlines()
        ]
        while not threads:
            await asyncio.sleep(0.01)
        for _ in range(RENDERINGS_MAX + 10):
            server_log().error("more", exc_info=KeyError("k"))
        gate.set()
        await exceptions_logged()
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert threading.get_ident() not in threads
    # One is being rendered while the others wait.
    assert RENDERINGS_MAX + 1 == sum(line.get("exception") == "rendered" for line in lines)
    assert 10 == sum(line.get("exception") == "KeyError" for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://u:p%2Fw@host:1/0", "redis://***@host:1/0"),
        ("rediss://:p@ss@host", "rediss://***@host"),
        ("http://host:1/a@b", "http://host:1/a@b"),
        ("Authorization: Bearer abcdefghij", "Authorization: *** ***"),
        ("[(b'x-api-key', b'abc'), (b'host', b'n')]", "[(b'x-api-key', b'***'), (b'host', b'n')]"),
        ('{"password": "abc", "a": 1}', '{"password": "***", "a": 1}'),
        ("redis_password=abc", "redis_password=***"),
        ("a basic rule, and a secret", "a basic rule, and a secret"),
        ("sr_0123456789abcdefXYZ-_ sr_op_id", "sr_*** sr_op_id"),
    ],
)
def test_what_looks_like_a_secret_is_blanked(text: str, expected: str) -> None:
    assert expected == blank_secrets(text)


def test_secrets_are_found_in_linear_time() -> None:
    for text in ("://" * 50_000, "x" * 200_000, "password" * 20_000, "bearer " * 20_000):
        blank_secrets(text)
