"""The decisions of a client: addresses, waits, deadlines, versions and outcomes of writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synaptoroute.client.core import (
    Attempt,
    Call,
    Reply,
    Request,
    RetryPolicy,
    Session,
    parse_retry_after,
    parse_version,
)
from synaptoroute.client.errors import (
    ApiError,
    CallTimeout,
    ConnectionFailed,
    NotFound,
    Overloaded,
    Unavailable,
    UnexpectedAnswer,
)

pytestmark = pytest.mark.unit

A, B, C = "http://a", "http://b", "http://c"


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def session(*urls: str, clock: Clock | None = None, **options: Any) -> Session:
    """A session that begins with the first address and waits as long as it may."""
    draws = iter([0.0])
    return Session(
        urls or (A,),
        headers={},
        policy=options.pop("policy", RetryPolicy()),
        clock=clock or Clock(),
        draw=lambda low, high: next(draws, high),
        **options,
    )


def read(**options: Any) -> Request[Any]:
    return Request("GET", "/v1/routes/x", Reply.json, is_versioned=True, **options)


def write(**options: Any) -> Request[Any]:
    return Request("PUT", "/v1/routes/x", Reply.json, is_write=True, **options)


def refuse(call: Call, status: int, code: str, retry_after: str = "", **fields: Any) -> Any:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return call.answered(
        status, headers, json.dumps({"code": code, "detail": "x", **fields}).encode()
    )


def next_after_pause(call: Call, clock: Clock) -> Attempt:
    attempt = call.next()
    clock.now += attempt.pause_seconds
    return attempt


def test_lost_connection_is_followed_by_the_next_address_at_once() -> None:
    call = session(A, B, C).begin(read())
    assert call.next().url == A
    call.lost("reset", was_sent=True)
    second = call.next()

    assert (second.url, second.pause_seconds) == (B, 0.0)


def test_unhealthy_address_rests_and_is_asked_again_later() -> None:
    clock = Clock()
    own = session(A, B, clock=clock)
    call = own.begin(read())
    call.next()
    call.lost("refused", was_sent=False)
    call.next()
    call.answered(200, {}, b"{}")

    asked = []
    for _ in range(4):
        each = own.begin(read())
        asked.append(each.next().url)
        each.answered(200, {}, b"{}")
    assert asked == [B] * 4

    clock.now += RetryPolicy().rest_seconds
    assert {own.begin(read()).next().url for _ in range(2)} == {A, B}


def test_rest_doubles_up_to_its_limit() -> None:
    clock = Clock()
    policy = RetryPolicy(rest_seconds=1.0, rest_seconds_max=4.0)
    own = session(A, B, clock=clock, policy=policy)
    rests = []
    for _ in range(4):
        own.fails(0)
        rests.append(own._addresses[0].rests_until - clock.now)

    assert rests == [1.0, 2.0, 4.0, 4.0]


def test_resting_addresses_are_asked_when_no_other_is_left() -> None:
    clock = Clock()
    own = session(A, B, clock=clock)
    own.fails(0)
    own.fails(1)

    assert own.begin(read()).next().pause_seconds == 0.0


def test_retry_after_keeps_the_address_from_every_call() -> None:
    clock = Clock()
    own = session(A, clock=clock)
    call = own.begin(read())
    call.next()
    assert refuse(call, 429, "overloaded", "2") is None

    assert call.next().pause_seconds == 2.0
    assert own.begin(read()).next().pause_seconds == 2.0


def test_long_retry_after_fails_calls_at_once_and_is_limited() -> None:
    """A proxy that asks for a day is asked again after a minute."""
    clock = Clock()
    own = session(A, clock=clock)
    call = own.begin(read())
    call.next()
    refuse(call, 503, "not_ready", "86400")
    with pytest.raises(Unavailable):
        call.next()
    with pytest.raises(CallTimeout) as caught:
        own.begin(read()).next()
    assert caught.value.retry_after_seconds == 60.0

    clock.now += 60.0
    assert own.begin(read()).next().pause_seconds == 0.0


def test_refusal_of_one_write_does_not_keep_queries_away() -> None:
    own = session(A)
    call = own.begin(write())
    call.next()
    assert refuse(call, 503, "sequencer_unavailable", "2", outcome="not_taken") is None

    assert own.begin(read()).next().pause_seconds == 0.0
    assert call.next().pause_seconds == 2.0


def test_waits_double_each_round_up_to_their_limit() -> None:
    clock = Clock()
    policy = RetryPolicy(attempts_max=7, first_wait_seconds=1.0, wait_seconds_max=4.0)
    call = session(A, clock=clock, policy=policy, call_seconds=100).begin(read())
    pauses = []
    for _ in range(7):
        pauses.append(next_after_pause(call, clock).pause_seconds)
        call.lost("reset", was_sent=True)
    with pytest.raises(ConnectionFailed):
        call.next()

    assert pauses == [0.0, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]


def test_all_waits_together_are_limited() -> None:
    clock = Clock()
    call = session(A, clock=clock, call_seconds=1_000).begin(read())
    call.next()
    refuse(call, 429, "overloaded", "31")
    with pytest.raises(Overloaded) as caught:
        call.next()

    assert caught.value.retry_after_seconds == 31.0


def test_call_ends_with_its_deadline() -> None:
    clock = Clock()
    call = session(A, clock=clock).begin(read(), 3.0)
    assert call.next().read_seconds == 3.0
    clock.now += 2.5
    call.lost("reset", was_sent=True)
    assert next_after_pause(call, clock).read_seconds == pytest.approx(0.4)
    clock.now += 0.4
    call.lost("silence", was_sent=True)
    with pytest.raises(ConnectionFailed):
        call.next()


def test_deadline_that_passed_before_the_first_attempt_is_an_error() -> None:
    clock = Clock()
    call = session(A, clock=clock).begin(read(), 1.0)
    clock.now += 1.0
    with pytest.raises(CallTimeout):
        call.next()


def test_attempt_takes_only_its_part_of_the_call() -> None:
    call = session(A, B, attempt_seconds=4.0).begin(read(), 60.0)

    assert call.next().read_seconds == 4.0


def test_refused_connections_end_the_call_where_the_policy_says_so() -> None:
    own = session(A, B, policy=RetryPolicy(retries_refused_connections=False))
    call = own.begin(read())
    for _ in range(2):
        call.next()
        call.lost("refused", was_sent=False)
    with pytest.raises(ConnectionFailed):
        call.next()


def test_write_keeps_its_key_and_two_writes_have_two() -> None:
    own = session(A, B)
    call = own.begin(write())
    first = call.next()
    call.lost("reset", was_sent=True)
    second = call.next()
    other = own.begin(write()).next()

    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert other.headers["Idempotency-Key"] != first.headers["Idempotency-Key"]


def test_given_key_is_used() -> None:
    call = session(A).begin(write(headers={"Idempotency-Key": "mine"}))

    assert call.next().headers["Idempotency-Key"] == "mine"
    assert call.idempotency_key == "mine"


def test_read_has_no_key() -> None:
    assert "Idempotency-Key" not in session(A).begin(read()).next().headers


@pytest.mark.parametrize(
    ("was_sent", "refusal", "outcome"),
    [
        (True, None, "unknown"),
        (False, None, "not_taken"),
        (False, "not_taken", "not_taken"),
        (False, "unknown", "unknown"),
        (True, "not_taken", "unknown"),
    ],
)
def test_failed_write_says_whether_it_may_be_applied(
    was_sent: bool, refusal: str | None, outcome: str
) -> None:
    """An attempt that may have arrived stays possible, whatever the last one got."""
    call = session(A, policy=RetryPolicy(attempts_max=2)).begin(write())
    call.next()
    call.lost("reset", was_sent=was_sent)
    call.next()
    if refusal is None:
        call.lost("reset", was_sent=was_sent)
    else:
        refuse(call, 503, "sequencer_unavailable", outcome=refusal)
    with pytest.raises((ConnectionFailed, Unavailable)) as caught:
        call.next()

    assert caught.value.outcome == outcome
    assert caught.value.idempotency_key == call.idempotency_key


def test_write_whose_deadline_passed_is_asked_again_with_its_key() -> None:
    call = session(A).begin(write())
    call.next()

    assert refuse(call, 504, "deadline_exceeded", outcome="unknown") is None


def test_read_whose_deadline_passed_is_not_asked_again() -> None:
    call = session(A).begin(read())
    call.next()
    with pytest.raises(ApiError) as caught:
        refuse(call, 504, "deadline_exceeded")

    assert (caught.value.code, caught.value.status) == ("deadline_exceeded", 504)


def test_body_that_cannot_be_read_again_is_sent_once() -> None:
    call = session(A, B).begin(write(can_repeat=False))
    call.next()
    call.lost("reset", was_sent=True)
    with pytest.raises(ConnectionFailed):
        call.next()


def test_body_that_was_not_sent_can_be_sent_to_another_address() -> None:
    call = session(A, B).begin(write(can_repeat=False))
    call.next()
    call.lost("refused", was_sent=False)
    assert call.next().url == B
    refuse(call, 503, "not_ready", outcome="not_taken")
    with pytest.raises(Unavailable):
        call.next()


def test_reads_ask_for_the_version_of_the_newest_write() -> None:
    own = session(A)
    assert "SR-Min-Version" not in own.begin(read()).next().headers
    for version in ("2.7", "2.5"):
        call = own.begin(write())
        call.next()
        call.answered(200, {"SR-Version": version}, b"{}")

    assert own.version == "2.7"
    assert own.begin(read()).next().headers["SR-Min-Version"] == "2.7"
    assert "SR-Min-Version" not in own.begin(write()).next().headers


def test_reads_do_not_raise_the_version() -> None:
    own = session(A)
    call = own.begin(read())
    call.next()
    call.answered(200, {"SR-Version": "9.9"}, b"{}")

    assert own.version is None


def test_version_can_be_switched_off_and_handed_over() -> None:
    off = session(A, reads_own_writes=False, version="3.1")
    heir = session(A, version="3.1")
    heir.see("2.9")

    assert "SR-Min-Version" not in off.begin(read()).next().headers
    assert heir.begin(read()).next().headers["SR-Min-Version"] == "3.1"


def test_lost_version_is_told_once() -> None:
    """After it was told, reads do not wait for a write that no node has."""
    own = session(A, version="1.9")
    call = own.begin(read())
    call.next()
    with pytest.raises(ApiError) as caught:
        refuse(call, 409, "version_lost")

    assert caught.value.code == "version_lost"
    assert "SR-Min-Version" not in own.begin(read()).next().headers


def test_error_carries_what_the_node_said() -> None:
    call = session(A).begin(read())
    call.next()
    body = json.dumps({"code": "route_not_found", "detail": "no route", "limit": 3}).encode()
    with pytest.raises(NotFound) as caught:
        call.answered(404, {"X-Request-Id": "r7", "SR-Node": "n3"}, body)
    error = caught.value

    assert (error.code, error.status, error.request_id, error.node) == (
        "route_not_found",
        404,
        "r7",
        "n3",
    )
    assert error.problem["limit"] == 3
    assert str(error) == "route_not_found: no route"


def test_error_in_the_form_of_decisions_is_read() -> None:
    call = session(A).begin(read())
    call.next()
    body = json.dumps({"error": {"message": "no such model", "code": "model_not_found"}}).encode()
    with pytest.raises(NotFound) as caught:
        call.answered(404, {}, body)

    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b'{"code": 1}', b"\xff", b""])
def test_answer_of_another_server_is_recognised(body: bytes) -> None:
    call = session(A).begin(read())
    call.next()
    with pytest.raises(UnexpectedAnswer):
        call.answered(500, {}, body)


def test_page_of_a_proxy_without_nodes_is_retried() -> None:
    for status in (502, 503, 504):
        call = session(A).begin(read())
        call.next()
        assert call.answered(status, {}, b"<html>") is None


def test_redirect_is_not_followed() -> None:
    call = session(A).begin(read())
    call.next()
    with pytest.raises(UnexpectedAnswer):
        call.answered(302, {"Location": "http://elsewhere"}, b"")


def test_query_tells_how_long_its_answer_is_useful() -> None:
    call = session(A).begin(read(is_query=True), 2.0)

    assert call.next().headers["SR-Deadline-Ms"] == "2000"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1.5", 1.5), ("-3", 0.0), ("soon", None), ("nan", None), ("inf", None), (None, None)],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"

    assert parse_retry_after("Wed, 21 Oct 2015 07:28:30 GMT", date) == 30.0
    assert parse_retry_after("Wed, 21 Oct 2015 07:27:00 GMT", date) == 0.0
    assert parse_retry_after(date) is None


@pytest.mark.parametrize("version", ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.x", "١.٢"])
def test_malformed_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="a version is"):
        parse_version(version)
