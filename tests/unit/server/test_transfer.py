"""Import and export over HTTP, and the documents that they read and write."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_node import HttpNode, http_node
from synaptoroute.errors import ConfigError, InvalidRoute, TooLarge
from synaptoroute.models import Route, StoredRoute
from synaptoroute.server import documents
from synaptoroute.server.documents import (
    DocumentKind,
    load_routes_file,
    ndjson_routes,
    parse_document,
    plain_route,
    render_document,
)
from synaptoroute.server.transfer_endpoints import accepted_kind
from synaptoroute.web.problems import MalformedBody, NotAcceptable

pytestmark = pytest.mark.unit

NDJSON = {"Content-Type": "application/x-ndjson"}
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


def lines(count: int) -> bytes:
    """An NDJSON document of small routes."""
    routes = [{"name": f"n{at:04}", "utterances": [f"text {at}"]} for at in range(count)]
    return b"".join(json.dumps(route).encode() + b"\n" for route in routes)


async def names(node: HttpNode) -> list[str]:
    """Names of all routes."""
    page = (await node.http.get("/v1/routes?limit=1000")).json()
    return [route["name"] for route in page["routes"]]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body that arrives in parts."""
    for part in parts:
        yield part


async def test_import_adds_all_routes_at_one_version(node: HttpNode) -> None:
    """The response has counts and a version; existing routes stay."""
    answer = await node.http.post("/v1/import", content=lines(300), headers=NDJSON)

    assert (200, 300, 300) == (
        answer.status_code,
        answer.json()["routes"],
        answer.json()["utterances"],
    )
    assert 302 == len(await names(node))
    assert answer.json()["version"] == answer.headers["sr-version"]
    first = (await node.http.get("/v1/routes/n0000")).headers["etag"]
    last = (await node.http.get("/v1/routes/n0299")).headers["etag"]
    assert first == last


async def test_import_with_replace_removes_the_others(node: HttpNode) -> None:
    """Routes that the import does not name are deleted."""
    await node.http.post("/v1/import?replace=true", content=lines(3), headers=NDJSON)

    assert ["n0000", "n0001", "n0002"] == await names(node)


@pytest.mark.parametrize(
    ("broken", "status", "code", "line"),
    [
        (b"{oops\n", 400, "malformed_body", 301),
        (b'{"name": "x"}\n', 422, "invalid_route", 301),
        (b'\n\n{"name": "n0007", "utterances": ["a"]}\n', 422, "invalid_route", 303),
        (b'{"name": "x", "utterances": ["a"], "threshold": NaN}', 400, "malformed_body", 301),
        (b'{"name": "x", "utterances": ["a"], "vectors": [[1.0]]}', 422, "invalid_vector", None),
    ],
)
async def test_broken_line_is_named_and_nothing_is_imported(
    node: HttpNode, broken: bytes, status: int, code: str, line: int | None
) -> None:
    """The 300 valid routes before the broken line do not become visible."""
    before = await names(node)
    answer = await node.http.post("/v1/import", content=lines(300) + broken, headers=NDJSON)

    assert (status, code) == (answer.status_code, answer.json()["code"])
    assert line == answer.json().get("line")
    assert before == await names(node)


async def test_empty_import_cannot_wipe_the_routes(node: HttpNode) -> None:
    """An empty body with ``replace`` must not delete every route."""
    for headers in (NDJSON, YAML, {"Content-Type": "application/json"}):
        body = b"[]" if "json" in headers["Content-Type"] and headers != NDJSON else b""
        answer = await node.http.post("/v1/import?replace=true", content=body, headers=headers)
        assert (422, "invalid_route") == (answer.status_code, answer.json()["code"])

    assert ["parcel", "refund"] == await names(node)


async def test_import_id_names_an_import_once(node: HttpNode) -> None:
    """A repeated import gets the same response and changes nothing."""
    url = "/v1/import?import_id=first"
    once = await node.http.post(url, content=lines(5), headers=NDJSON)
    before = await node.digest()
    again = await node.http.post(url, content=lines(5), headers=NDJSON)

    assert (200, 200) == (once.status_code, again.status_code)
    assert once.json()["version"] == again.json()["version"]
    assert before == await node.digest()


async def test_import_over_its_limit_is_413(tmp_path: Path) -> None:
    """The body is counted with and without a length; one line is limited like a body."""
    async with http_node(tmp_path, import_bytes_max=2_000, body_bytes_max=1_024) as node:
        sized = await node.http.post("/v1/import", content=lines(100), headers=NDJSON)
        streamed = await node.http.post(
            "/v1/import", content=pieces(lines(100)[:1_500], lines(100)[1_500:]), headers=NDJSON
        )
        line = json.dumps({"name": "a", "utterances": ["b" * 1_100]}).encode()
        long_line = await node.http.post("/v1/import", content=pieces(line), headers=NDJSON)
        document = await node.http.post(
            "/v1/import",
            content=pieces(b"[" + b" " * 1_100),
            headers={"Content-Type": "application/json"},
        )

        assert 0 == node.router.status().routes
    for answer in (sized, streamed, long_line, document):
        assert (413, "too_large") == (answer.status_code, answer.json()["code"])
        assert "close" == answer.headers["connection"]


async def test_import_of_another_type_is_415(node: HttpNode) -> None:
    """The problem names the supported types."""
    answer = await node.http.post("/v1/import", content=b"a", headers={"Content-Type": "text/csv"})

    assert 415 == answer.status_code
    assert "application/x-ndjson" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("*/*", "ndjson"), ("application/yaml", "yaml"), ("application/json", "json")],
)
async def test_export_is_what_an_import_takes(node: HttpNode, accept: str, kind: str) -> None:
    """Export, delete everything, import: the same routes."""
    before = (await node.http.get("/v1/routes")).json()["routes"]
    exported = await node.http.get("/v1/export", headers={"Accept": accept})
    for name in await names(node):
        await node.http.delete(f"/v1/routes/{name}")
    imported = await node.http.post(
        "/v1/import",
        content=exported.content,
        headers={"Content-Type": exported.headers["content-type"]},
    )
    after = (await node.http.get("/v1/routes")).json()["routes"]

    assert kind in exported.headers["content-type"]
    assert 200 == imported.status_code, imported.text
    assert [{**route, "revision": ""} for route in before] == [
        {**route, "revision": ""} for route in after
    ]


async def test_export_of_many_pages_is_whole(node: HttpNode) -> None:
    """More routes than a page has."""
    await node.http.post("/v1/import", content=lines(2_100), headers=NDJSON)
    exported = await node.http.get("/v1/export")

    assert 2_102 == len(exported.text.splitlines())


async def test_export_in_an_unknown_format_is_406(node: HttpNode) -> None:
    """406 if the client accepts none of the formats."""
    answer = await node.http.get("/v1/export", headers={"Accept": "text/html"})

    assert (406, "not_acceptable") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "ndjson"),
        ("application/yaml;q=0.5, application/json", "json"),
        ("text/html, application/yaml;q=0.2, */*;q=0.1", "yaml"),
        ("application/json;q=0, application/*", "ndjson"),
    ],
)
def test_preferred_format_is_chosen(accept: str, kind: str) -> None:
    """The highest weight wins."""
    assert kind == accepted_kind(accept)


def test_weight_that_is_no_number_accepts_nothing() -> None:
    """A malformed weight counts as 0."""
    with pytest.raises(NotAcceptable):
        accepted_kind("application/json;q=high")


# --- documents ---------------------------------------------------------------------------


async def test_lines_are_found_in_pieces_of_any_size() -> None:
    """Pieces of one byte give the same routes as one piece."""
    body = lines(3)
    whole = [route async for route in ndjson_routes(pieces(body), 1_000)]
    bytewise = [
        route async for route in ndjson_routes(pieces(*(bytes([each]) for each in body)), 1_000)
    ]

    assert whole == bytewise
    assert 3 == len(whole)


async def test_long_lines_are_parsed_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line with many vectors; short ones and blank ones cost no change of threads."""
    parsed: list[tuple[int, bool]] = []
    parse = documents._line_route

    def noted(line: bytes, number: int, names: Any) -> Route:
        parsed.append((number, threading.current_thread() is threading.main_thread()))
        return parse(line, number, names)

    monkeypatch.setattr(documents, "_line_route", noted)
    long = json.dumps({"name": "long", "utterances": ["a"], "vectors": [[0.5] * 20_000]}).encode()
    blank = b" " * (documents.LOOP_LINE_BYTES_MAX + 1)
    body = b"\n".join([lines(1).strip(), blank, long, long])

    with pytest.raises(InvalidRoute, match="line 4: the route 'long' is given in line 3"):
        [route async for route in ndjson_routes(pieces(body), 1_000_000)]

    assert [(1, True), (3, False), (4, False)] == parsed


async def test_line_over_the_limit_is_refused() -> None:
    """A stream without a line end is refused at the limit."""
    with pytest.raises(TooLarge):
        [route async for route in ndjson_routes(pieces(*[b"x" * 100] * 100), 1_000)]


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nroutes: [*b,*b]\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (BOMB, 1),
        (b"routes:\n  - name: x\n   utterances: [a]\n", 3),
        (b"[" * 100_000, 1),
        (b"- " * 50_000, 1),
        (b"\xff\xfe\x00", None),
        (b"!!python/object/apply:os.system [ls]", 1),
        (b"{[a]: b}", 1),
        (b"a: b\n---\nc: d\n", 2),
    ],
)
def test_yaml_that_is_not_plain_is_refused(body: bytes, line: int | None) -> None:
    """Anchors, depth, tags, several documents and broken text are refused with their line."""
    with pytest.raises(MalformedBody) as caught:
        parse_document(body, "yaml")

    assert line == caught.value.fields["line"]


def test_yaml_date_stays_text() -> None:
    """``2024-01-01`` as an utterance is text, not a date."""
    (route,) = parse_document(b"- name: x\n  utterances: [2024-01-01]\n", "yaml")

    assert ["2024-01-01"] == route.utterances


@pytest.mark.parametrize("body", [b"5", b'{"routes": 5}', b'{"route": []}', b'{"routes": null}'])
def test_document_of_another_shape_is_refused(body: bytes) -> None:
    """Only a list of routes, or an object of them."""
    with pytest.raises(InvalidRoute):
        parse_document(body, "json")


def test_document_of_a_later_version_is_refused() -> None:
    """An unknown document version is refused."""
    with pytest.raises(InvalidRoute, match="version: 1"):
        parse_document(b'{"version": 2, "routes": [{"name": "a", "utterances": ["b"]}]}', "json")


def test_error_in_a_document_names_the_place() -> None:
    """The message has the path of the field, never its value."""
    body = b'{"routes": [{"name": "a", "utterances": ["b"]}, {"name": "c", "utterances": ["", 1]}]}'
    with pytest.raises(InvalidRoute) as caught:
        parse_document(body, "json")

    found: Any = caught.value.fields["errors"]
    assert "routes[1].utterances[0]" == found[0]["field"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".yaml", "routes:\n  - {name: a, utterances: [b]}\n"),
        (".json", '[{"name": "a", "utterances": ["b"]}]'),
        (".ndjson", '{"name": "a", "utterances": ["b"]}\n'),
    ],
)
def test_route_file_is_read_by_its_suffix(tmp_path: Path, suffix: str, text: str) -> None:
    """The three formats of an import."""
    path = tmp_path / f"routes{suffix}"
    path.write_text(text)

    assert [Route(name="a", utterances=["b"])] == load_routes_file(path)


@pytest.mark.parametrize("name", ["routes.txt", "missing.yaml", "broken.yaml"])
def test_unusable_route_file_is_a_config_error(tmp_path: Path, name: str) -> None:
    """The message names the file."""
    (tmp_path / "broken.yaml").write_text("- name: x\n")
    with pytest.raises(ConfigError, match=name):
        load_routes_file(tmp_path / name)


ROUTES = st.builds(
    lambda name, utterances, threshold, metadata, payload: StoredRoute(
        name=name,
        utterances=utterances,
        threshold=threshold,
        effective_threshold=0.5,
        metadata=metadata,
        payload=payload,
        revision="1.1",
    ),
    st.from_regex(r"[A-Za-z0-9]{1,9}", fullmatch=True),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
        .map(str.strip)
        .filter(bool),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    st.none() | st.floats(-1, 1, width=32),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), st.integers(), max_size=3),
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"), max_size=9),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
)


@settings(max_examples=150)
@given(
    st.lists(ROUTES, min_size=1, max_size=4, unique_by=lambda route: route.name),
    st.sampled_from(["json", "yaml"]),
)
def test_document_round_trip(routes: list[StoredRoute], kind: DocumentKind) -> None:
    """Every valid route survives an export and an import."""
    assert kind != "ndjson"
    body = b"".join(render_document(routes, kind))

    expected = [Route.model_validate(plain_route(route)) for route in routes]
    assert expected == parse_document(body, kind)


async def test_open_import_is_listed_and_aborted(node: HttpNode) -> None:
    """An import whose client went away is named, and can be dropped by its identity."""
    broken = lines(200) + b'{"name": "x"\n'
    refused = await node.http.post("/v1/import?import_id=mine", content=broken, headers=NDJSON)
    listed = (await node.http.get("/v1/imports")).json()["imports"]
    aborted = await node.http.delete("/v1/imports/mine", headers={"Idempotency-Key": "once"})
    repeated = await node.http.delete("/v1/imports/mine", headers={"Idempotency-Key": "once"})
    gone = await node.http.delete("/v1/imports/mine")
    left = (await node.http.get("/v1/imports")).json()["imports"]

    assert 400 == refused.status_code
    assert ["mine"] == [each["import_id"] for each in listed]
    assert (200, "applied") == (aborted.status_code, aborted.json()["status"])
    assert aborted.json() == repeated.json()
    assert (404, "import_not_found") == (gone.status_code, gone.json()["code"])
    assert [] == left


async def test_idempotency_key_of_an_import_decides_by_its_content(node: HttpNode) -> None:
    """The same document gets the same answer; another one, and another mode, a conflict."""
    headers = {**NDJSON, "Idempotency-Key": "import once"}
    first = await node.http.post("/v1/import", content=lines(3), headers=headers)
    await node.http.delete("/v1/routes/n0001")
    again = await node.http.post("/v1/import", content=lines(3), headers=headers)
    other = await node.http.post("/v1/import", content=lines(4), headers=headers)
    replacing = await node.http.post("/v1/import?replace=true", content=lines(3), headers=headers)
    spaced = b"\n".join(lines(3).replace(b":", b" : ").split(b"\n"))
    equal = await node.http.post("/v1/import", content=spaced, headers=headers)

    assert 200 == first.status_code
    assert first.text == again.text == equal.text
    assert first.headers["SR-Version"] == again.headers["SR-Version"]
    for answer in (other, replacing):
        assert (422, "idempotency_conflict") == (answer.status_code, answer.json()["code"])
    assert "n0001" not in await names(node)


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"- name: a\n  s3cr3t: 1\n  s3cr3t: 2\n", "malformed_body", "line 3, column 3"),
        (b"- name: a\n  utterances: [4111111]\n", "invalid_route", "line 2, column 16"),
        (b"- name: !s3cr3t x\n", "malformed_body", "line 1, column 9"),
        (b"- name: *s3cr3t\n", "malformed_body", "line 1"),
    ],
)
async def test_refused_yaml_names_the_place_and_repeats_nothing(
    node: HttpNode, body: bytes, code: str, place: str
) -> None:
    answer = await node.http.post("/v1/import", content=body, headers=YAML)

    assert (code, True) == (answer.json()["code"], place in answer.json()["detail"])
    assert "s3cr3t" not in answer.text
    assert "4111111" not in answer.text
