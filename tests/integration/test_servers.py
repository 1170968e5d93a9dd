"""The server processes that other tests stand on do what those tests assume."""

from __future__ import annotations

import pytest

from servers import Server, ServerFailed

pytestmark = pytest.mark.integration


def test_server_answers_on_its_own_port(server: Server) -> None:
    """A started server is ready for commands at once."""
    assert server.call("SET", "key", "value") == "+OK\r\n"


def test_two_servers_share_nothing(start_server) -> None:
    """Each has its own port and its own keys."""
    first, second = start_server("valkey"), start_server("valkey")
    first.call("SET", "key", "value")

    assert first.port != second.port
    assert second.call("GET", "key") == "$-1\r\n"


def test_append_only_file_survives_a_kill(start_server) -> None:
    """A restart on the same folder and port finds what was on disk."""
    server = start_server("valkey", appendonly="yes", appendfsync="always")
    url = server.url
    server.call("SET", "key", "value")
    server.kill()
    server.start()

    assert url == server.url
    assert server.call("GET", "key") == "$5\r\nvalue\r\n"


def test_without_append_only_file_a_kill_loses_everything(start_server) -> None:
    """The default keeps nothing, which is what tests of a lost log rely on."""
    server = start_server("valkey")
    server.call("SET", "key", "value")
    server.kill()
    server.start()

    assert server.call("GET", "key") == "$-1\r\n"


def test_paused_server_accepts_and_does_not_answer(start_server) -> None:
    """A frozen server looks like a partition, not like a refusal."""
    server = start_server("valkey")
    server.pause()

    with pytest.raises(TimeoutError):
        server.call("PING")

    server.resume()

    assert server.call("PING") == "+PONG\r\n"


def test_wrong_setting_fails_with_the_servers_own_words(start_server) -> None:
    """A server that cannot start does not hang the test."""
    with pytest.raises(ServerFailed):
        start_server("valkey", maxmemory_policy="nonsense")
