"""Both clients against servers on loopback that give prepared answers."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from repository import ROOT
from scripted_server import LOST, Answer, problem, scripted_server
from synaptoroute.client import (
    KEEP,
    ApiError,
    AsyncClient,
    AuthenticationFailed,
    Client,
    ClientError,
    Conflict,
    ConnectionFailed,
    NotFound,
    RetryPolicy,
    Route,
    UnexpectedAnswer,
    WriteOptions,
    calls,
)
from synaptoroute.client.transport import OF_CLUSTER, placed
from synaptoroute.config import NodeConfig
from synaptoroute.core.mutation import CascadeMode
from synaptoroute.errors import ConfigError
from synaptoroute.models import RouteSetSettings
from synaptoroute.server.app import create_app as create_node
from synaptoroute.web.set_paths import is_of_a_set

pytestmark = pytest.mark.unit

QUICK = RetryPolicy(attempts_max=4, first_wait_seconds=0.01, wait_seconds_max=0.02)
MATCH = {"route": "billing", "reason": "matched", "score": 0.7, "version": "1.3"}
WRITTEN = {"status": "applied", "op_id": "0" * 32, "version": "1.4"}
NOBODY = "http://127.0.0.1:9"

Run = Callable[..., Any]


def run_sync(urls: Any, call: str, *args: Any, **kwargs: Any) -> Any:
    with Client(urls, api_key="sr_key", retry=QUICK) as client:
        found = getattr(client, call)(*args, **kwargs)
        return list(found) if inspect.isgenerator(found) else found


def run_async(urls: Any, call: str, *args: Any, **kwargs: Any) -> Any:
    async def act() -> Any:
        async with AsyncClient(urls, api_key="sr_key", retry=QUICK) as client:
            found = getattr(client, call)(*args, **kwargs)
            if inspect.isasyncgen(found):
                return [each async for each in found]
            return await found if isinstance(found, Awaitable) else found

    return asyncio.run(act())


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Make one call with a client of its own."""
    found: Run = request.param
    return found


def test_query_is_sent_and_read(run: Run) -> None:
    with scripted_server(Answer(document=MATCH)) as server:
        found = run(server.url, "query", "my money", limit=3, routes=["billing"], explain=True)
        asked = server.asked[0]

    assert (found.route, found.score, bool(found)) == ("billing", 0.7, True)
    assert (asked.method, asked.path) == ("POST", "/v1/query")
    assert asked.document == {
        "text": "my money",
        "limit": 3,
        "routes": ["billing"],
        "explain": True,
    }
    assert asked.headers["authorization"] == "Bearer sr_key"
    assert asked.headers["content-type"] == "application/json"
    assert 0 < int(asked.headers["sr-deadline-ms"]) <= 10_000


def test_dead_address_is_left_for_a_living_one(run: Run) -> None:
    with scripted_server(Answer(document=MATCH)) as server:
        assert run([NOBODY, server.url], "query", "x").route == "billing"


def test_lost_answer_of_a_write_is_asked_again_with_the_same_key(run: Run) -> None:
    with scripted_server(LOST, Answer(document=WRITTEN)) as server:
        run(server.url, "put_route", {"name": "a b/c", "utterances": ["x"]})
        keys = {asked.headers["idempotency-key"] for asked in server.asked}

    assert len(server.asked) == 2
    assert len(keys) == 1
    assert server.asked[0].path == "/v1/routes/a%20b%2Fc"


def test_result_of_a_write_says_whether_the_route_is_new(run: Run) -> None:
    headers = {"SR-Held-By": "2/3", "SR-Version": "1.4"}
    with scripted_server(Answer(201, WRITTEN, headers)) as server:
        written = run(
            server.url,
            "put_route",
            Route(name="a", utterances=["x"]),
            options=WriteOptions(ack="quorum", if_absent=True, ack_timeout_seconds=2),
        )
        asked = server.asked[0]

    assert (written.created, written.held_by) == (True, "2/3")
    assert asked.path == "/v1/routes/a?ack=quorum&ack_timeout=2"
    assert asked.headers["if-none-match"] == "*"
    assert asked.document == {"name": "a", "utterances": ["x"]}


def test_patch_sends_only_given_fields(run: Run) -> None:
    with scripted_server(Answer(document=WRITTEN)) as server:
        run(
            server.url,
            "patch_route",
            "a",
            threshold=None,
            payload=KEEP,
            options=WriteOptions(if_match="1.2"),
        )

    assert server.asked[0].document == {"threshold": None}
    assert server.asked[0].headers["if-match"] == '"1.2"'


def test_refusal_becomes_an_error_with_the_code_of_the_node(run: Run) -> None:
    with scripted_server(problem(404, "route_not_found")) as server:
        with pytest.raises(NotFound) as caught:
            run(server.url, "get_route", "x")
        assert len(server.asked) == 1

    assert (caught.value.code, caught.value.node) == ("route_not_found", "n1")


def test_shutting_down_node_is_left_for_another(run: Run) -> None:
    with (
        scripted_server(problem(503, "shutting_down", "1")) as ending,
        scripted_server(Answer(document=MATCH)) as living,
    ):
        for _ in range(2):
            assert run([ending.url, living.url], "query", "x").route == "billing"


def test_wrong_key_is_not_tried_again(run: Run) -> None:
    with scripted_server(problem(401, "unauthorized")) as server:
        with pytest.raises(AuthenticationFailed):
            run(server.url, "query", "x")
        assert len(server.asked) == 1


def test_no_node_is_an_error_after_all_attempts(run: Run) -> None:
    with pytest.raises(ConnectionFailed):
        run([NOBODY], "query", "x")


def test_answer_of_another_form_is_an_error(run: Run) -> None:
    with scripted_server(Answer(document={"hello": 1})) as server, pytest.raises(UnexpectedAnswer):
        run(server.url, "query", "x")


def test_answer_of_a_newer_release_is_read(run: Run) -> None:
    newer = {**MATCH, "reason": "by_a_later_rule", "stage": "later", "field_of_later": {"a": 1}}
    with scripted_server(Answer(document=newer)) as server:
        found = run(server.url, "query", "my money")
    assert (found.route, found.reason, found.stage) == ("billing", "by_a_later_rule", "later")


def test_settings_of_a_newer_release_are_read(run: Run) -> None:
    settings = {"aggregation": "max", "topk": 3, "threshold": 0.5, "capacity_slots": 100}
    with scripted_server(Answer(document={**settings, "field_of_later": 1})) as server:
        found = run(server.url, "get_settings")
    assert found.threshold == 0.5


def test_answer_that_drips_does_not_outlast_the_call(run: Run) -> None:
    """Each byte comes in time; the whole answer does not."""
    with scripted_server(Answer(document=MATCH, pause_seconds=0.1)) as server:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed):
            run(server.url, "query", "x", timeout_seconds=0.5)

        assert time.monotonic() - began < 2.0


def test_import_is_streamed_and_made_again(run: Run) -> None:
    result = {
        "status": "applied",
        "import_id": "i",
        "op_id": "0" * 32,
        "version": "1.5",
        "routes": 2,
        "utterances": 2,
    }
    routes = [Route(name="a", utterances=["ä"]), {"name": "b", "utterances": ["y"]}]
    with scripted_server(LOST, Answer(document=result)) as server:
        assert run(server.url, "import_routes", routes, replace=True).routes == 2

    first, second = server.asked
    assert first.body == second.body
    assert [json.loads(line)["name"] for line in first.body.splitlines()] == ["a", "b"]
    assert first.headers["content-type"] == "application/x-ndjson"
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.path == "/v1/import?replace=true"


def test_iterator_is_imported_in_one_attempt(run: Run) -> None:
    with scripted_server(LOST) as server:
        with pytest.raises(ConnectionFailed) as caught:
            run(server.url, "import_routes", iter([{"name": "a", "utterances": ["x"]}]))
        assert len(server.asked) == 1

    assert caught.value.outcome == "unknown"


def test_iterator_goes_to_the_address_that_answers(run: Run) -> None:
    """No bytes of it were sent to the address that refused the connection."""
    result = {
        "status": "applied",
        "import_id": "i",
        "op_id": "0" * 32,
        "version": "1.5",
        "routes": 1,
        "utterances": 1,
    }
    with scripted_server(Answer(document=result)) as server:
        for _ in range(2):
            routes = iter([{"name": "a", "utterances": ["x"]}])
            assert run([NOBODY, server.url], "import_routes", routes).routes == 1
        assert [json.loads(each.body)["name"] for each in server.asked] == ["a", "a"]


def test_export_is_read_as_a_stream_of_routes(run: Run) -> None:
    """Lines end at line feeds only; a text may have other separators."""
    lines = '{"name":"a","utterances":["x\u2028y"]}\n{"name":"b","utterances":["z"]}'
    with scripted_server(Answer(document=lines.encode())) as server:
        found = run(server.url, "export_routes")

    assert [(each.name, each.utterances) for each in found] == [("a", ["x\u2028y"]), ("b", ["z"])]


def test_broken_export_is_an_error(run: Run) -> None:
    lines = b'{"name":"a","utterances":["x"]}\n' * 3
    broken = Answer(document=lines, cut_bytes=40)
    with scripted_server(broken) as server, pytest.raises(ConnectionFailed):
        run(server.url, "export_routes")


def test_export_begins_again_at_another_address(run: Run) -> None:
    with (
        scripted_server(problem(503, "not_ready", "1")) as ending,
        scripted_server(Answer(document=b'{"name":"a","utterances":["x"]}\n')) as living,
    ):
        for _ in range(2):
            assert len(run([ending.url, living.url], "export_routes")) == 1


def test_routes_are_read_page_by_page(run: Run) -> None:
    def page(name: str, next_after: str | None) -> Answer:
        stored = {
            "name": name,
            "utterances": ["x"],
            "threshold": None,
            "effective_threshold": None,
            "metadata": {},
            "payload": None,
            "revision": "1.1",
        }
        return Answer(document={"routes": [stored], "next_after": next_after, "version": "1.1"})

    with scripted_server(page("a", "a b"), page("c", None)) as server:
        assert [each.name for each in run(server.url, "routes")] == ["a", "c"]

    assert server.asked[1].path.endswith(("after=a%20b", "after=a+b"))


def test_choice_is_one_question_of_decisions(run: Run) -> None:
    answer = {
        "model": "default",
        "answers": [
            {
                "type": "choice",
                "name": "choice",
                "choice": "billing",
                "confidence": 0.7,
                "probabilities": [
                    {"value": "billing", "probability": 0.8},
                    {"value": "tech", "probability": 0.2},
                ],
            }
        ],
    }
    with scripted_server(Answer(document=answer)) as server:
        found = run(server.url, "choose", "charged twice", {"billing": "refunds", "tech": None})
        asked = server.asked[0].document

    assert (found.choice, found.probabilities) == ("billing", {"billing": 0.8, "tech": 0.2})
    assert asked["questions"][0]["choices"] == [
        {"value": "billing", "description": "refunds"},
        {"value": "tech"},
    ]


def test_feedback_names_the_answer_only_if_it_is_given(run: Run) -> None:
    receipt = {"id": "0" * 16, "times": 1, "version": "1.2", "status": "applied"}
    with scripted_server(Answer(document=receipt)) as server:
        run(server.url, "feedback", "billing", text="x")
        run(server.url, "feedback", None, text="x", was="billing")

    assert [each.document for each in server.asked] == [
        {"route": "billing", "text": "x"},
        {"route": None, "text": "x", "was": "billing"},
    ]


def test_any_request_can_be_sent(run: Run) -> None:
    with scripted_server(Answer(document={"a": 1})) as server:
        assert run(server.url, "request", "POST", "/v1/x", document={}, is_write=False) == {"a": 1}

    assert "idempotency-key" not in server.asked[0].headers


def test_unsendable_header_is_an_error_at_once(run: Run) -> None:
    with scripted_server(Answer(document=WRITTEN)) as server:
        with pytest.raises(ClientError):
            run(server.url, "delete_route", "a", options=WriteOptions(idempotency_key="a\nb"))
        assert [] == server.asked


def test_client_is_shared_by_threads() -> None:
    """Each thread gets its own answers, and all write keys differ."""
    with (
        scripted_server(Answer(document=WRITTEN, headers={"SR-Version": "1.4"})) as server,
        Client(server.url) as client,
    ):
        threads = [
            threading.Thread(target=lambda: [client.delete_route("a") for _ in range(20)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        keys = {each.headers["idempotency-key"] for each in server.asked}

        assert len(keys) == len(server.asked) == 160
        assert client.version == "1.4"


@pytest.mark.parametrize(
    "urls", ["127.0.0.1:8080", "ftp://a", "", [], "http://", "http://a?b", "http://u:p@a"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_malformed_address_is_refused(kind: type[Client], urls: Any) -> None:
    with pytest.raises(ConfigError):
        kind(urls)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server(Answer(document=MATCH)) as server:
        monkeypatch.setenv("SYNAPTOROUTE_URL", f"{server.url}/, {server.url}")
        monkeypatch.setenv("SYNAPTOROUTE_API_KEY", "sr_env")
        with Client() as client:
            client.query("x")

    assert server.asked[0].headers["authorization"] == "Bearer sr_env"


def test_key_is_not_in_the_error_of_a_malformed_one() -> None:
    with pytest.raises(ConfigError) as caught:
        Client("http://a", api_key="secret\nkey")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://u:secret@host", "ftp://u:secret@host", "http://u:secret@ho st"]
)
def test_password_is_not_in_the_error_of_an_address(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(address)
    assert "secret" not in str(caught.value)


def test_missing_file_of_tls_is_an_error_of_the_settings() -> None:
    with pytest.raises(ConfigError):
        Client("https://a", ca_file="/no/such/file.pem")


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)


def test_error_classes_share_one_base() -> None:
    assert issubclass(NotFound, ApiError)
    assert issubclass(ConnectionFailed, ClientError)


def test_client_loads_no_encoder_and_no_server() -> None:
    heavy = (
        "numpy onnxruntime tokenizers fastembed fastapi starlette uvicorn redis sqlite3 yaml "
        "typer rich pydantic_settings cryptography"
    )
    program = (
        "import sys\n"
        "from synaptoroute.client import AsyncClient, Client, Match\n"
        "client = Client('http://127.0.0.1:9')\n"
        f"print(sorted(set({heavy.split()!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_bound_client_asks_its_route_set_and_shares_the_rest() -> None:
    written = Answer(document=WRITTEN, headers={"SR-Version": "1.4"})
    answers = [Answer(document=MATCH), written, Answer(document=MATCH)] + [
        Answer(document=WRITTEN)
    ] * 3
    with scripted_server(*answers) as server, Client(server.url, retry=QUICK) as client:
        support = client.set("support@1 b")
        support.query("x", session="s-1")
        support.put_route(Route(name="r", utterances=["a"]), options=WriteOptions(note="größer"))
        client.query("x")
        support.put_alias("live", "support@1 b", {"canary": "c", "canary_share": 0.5})
        support.put_set("new", {"routes_max": 5})
        support.fork_set("new", "copy")
        asked = list(server.asked)

    assert [(each.method, each.path.partition("?")[0]) for each in asked] == [
        ("POST", "/v1/sets/support%401%20b/query"),
        ("PUT", "/v1/sets/support%401%20b/routes/r"),
        ("POST", "/v1/query"),
        ("PUT", "/v1/aliases/live"),
        ("PUT", "/v1/sets/new"),
        ("POST", "/v1/sets/new/fork"),
    ]
    assert "s-1" == asked[0].document["session"]
    assert "größer" == asked[1].headers["sr-note"].encode("latin-1").decode()
    assert "1.4" == asked[2].headers["sr-min-version"]
    assert {"limits": {"routes_max": 5}} == asked[4].document
    assert {"as": "copy"} == asked[5].document


async def test_async_client_is_bound_likewise() -> None:
    with scripted_server(Answer(document=MATCH)) as server:
        async with AsyncClient(server.url, retry=QUICK) as client:
            await client.set("support").query("x")
            await client.set("default").query("x")
        paths = [each.path for each in server.asked]

    assert ["/v1/sets/support/query", "/v1/query"] == paths


def test_calls_about_the_cluster_are_not_placed_in_a_set() -> None:
    node = create_node(lambda: pytest.fail("not opened"), NodeConfig())
    paths = {path for path in node.openapi()["paths"] if path.startswith("/v1/")}
    paths = {path for path in paths if not path.startswith("/v1/sets/")} | {"/v1/sets/x"}
    placed_paths = {path for path in paths if placed(path, "support") != path}

    assert placed_paths == {path for path in paths if is_of_a_set(path)}
    assert {"/v1/history", "/v1/tests", "/v1/evaluation"} <= placed_paths


def test_javascript_client_places_the_same_calls() -> None:
    source = (ROOT / "clients" / "js" / "src" / "client.ts").read_text(encoding="utf-8")
    _, _, listed = source.partition("const OF_CLUSTER = new Set(")

    assert set(json.loads(listed.partition(")")[0])) == OF_CLUSTER


def test_gate_gives_a_promotion_the_time_of_its_tests() -> None:
    gated = calls.put_alias("live", "new", {"gate": {}}, WriteOptions())

    assert gated.attempt_seconds == calls.TESTS_SECONDS
    assert calls.put_alias("live", "new", {}, WriteOptions()).attempt_seconds is None
    assert calls.evaluate(None).attempt_seconds == calls.TESTS_SECONDS
    assert calls.diff("a", "b", None).attempt_seconds == calls.TESTS_SECONDS


REPORT = {"alias": "live", "node": "n", "set": "old", "shadow": "new", "compared": 3}
STATUS = {"node": "n", "version": "1.4", "is_clean": True}


@pytest.mark.parametrize(
    ("call", "args", "sent", "document"),
    [
        ("put_tests", [{"a": "r", "b": None}], "PUT /v1/tests", WRITTEN),
        ("patch_tests", [{"a": "r"}], "PATCH /v1/tests", WRITTEN),
        ("delete_tests", [], "DELETE /v1/tests", WRITTEN),
        ("put_alias", ["live", "new"], "PUT /v1/aliases/live", WRITTEN),
        ("roll_back", ["live", "1.2"], "POST /v1/aliases/live/rollback", WRITTEN),
        ("get_shadow", ["live"], "GET /v1/aliases/live/shadow", REPORT),
        ("reset_shadow", ["live"], "DELETE /v1/aliases/live/shadow", REPORT),
        ("history", [], "GET /v1/history?limit=100", {"entries": [], "next_before": None}),
        ("revert", ["1.2"], "POST /v1/history/1.2/revert", WRITTEN),
        ("erase", [["a"]], "POST /v1/erase", {**WRITTEN, "found": {"tests": 1}, "logs": STATUS}),
        ("get_erasure", [], "GET /v1/erase", STATUS),
    ],
)
def test_calls_of_promotions_are_sent_and_read(
    run: Run, call: str, args: list[Any], sent: str, document: dict[str, Any]
) -> None:
    with scripted_server(Answer(document=document)) as server:
        result = run(server.url, call, *args)
        (asked,) = server.asked

    assert f"{asked.method} {asked.path}" == sent
    read = result.model_dump(mode="json", exclude_unset=True)
    assert {key: read[key] for key in document if key in read} == document


def test_failed_gate_is_an_error_with_its_evidence(run: Run) -> None:
    answer = problem(409, "gate_failed", evidence={"unmet": ["accuracy 0.5 is below 0.9"]})
    with scripted_server(answer) as server, pytest.raises(Conflict) as caught:
        run(server.url, "put_alias", "live", "new", {"gate": {"min_accuracy": 0.9}})

    assert caught.value.code == "gate_failed"
    assert caught.value.evidence == {"unmet": ["accuracy 0.5 is below 0.9"]}


@pytest.mark.parametrize("name", ["..", ".", "a/b", " ", "-x"])
def test_malformed_name_of_a_set_is_no_path(name: str) -> None:
    """A dot segment would lead to `default`."""
    with pytest.raises(ValueError, match="no name of a route set"):
        placed("/v1/routes/refund", name)
    assert "/v1/sets/support%4013/query" == placed("/v1/query", "support@13")


@pytest.mark.parametrize("mode", ["auto", True, False])
def test_cascade_of_the_settings_is_read_and_written(run: Run, mode: CascadeMode) -> None:
    document = {"aggregation": "max", "topk": 3, "threshold": 0.5, "capacity_slots": 100}
    answered = {**document, "cascade": mode}
    with scripted_server(Answer(document=answered)) as server:
        found = run(server.url, "get_settings")
    written = {"status": "applied", "op_id": "a", "version": "1.2", "revision": None, "count": 0}
    with scripted_server(Answer(document={**written, "ack": "applied"})) as server:
        run(server.url, "put_settings", RouteSetSettings.model_validate(answered))
        (sent,) = server.asked

    assert found.cascade == mode
    assert json.loads(sent.body)["cascade"] == mode
