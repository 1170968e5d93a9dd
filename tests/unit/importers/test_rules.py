"""One set of rules for every file: encoding, keys, YAML's traps, control characters, sizes."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from synaptoroute.cli import query_backend
from synaptoroute.importers import (
    CODES,
    NO_ROUTE,
    FileRefused,
    Imported,
    Source,
    read_labels,
    read_routes,
)
from synaptoroute.importers import sources as sources_module
from synaptoroute.importers.json_reader import parse_json

pytestmark = pytest.mark.unit

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"
OWN = '{"routes":[{"name":"a","utterances":["hello there"]}]}'
# One file of each kind with one route, by suffix.
SAMPLES = {
    "own.json": OWN,
    "own.yaml": "routes:\n- name: a\n  utterances: [hello there]\n",
    "own.ndjson": '{"name":"a","utterances":["hello there"]}\n',
    "texts.jsonl": '{"text":"hello there","route":"a"}\n',
    "texts.csv": "text,route\nhello there,a\n",
    "texts.tsv": "hello there\ta\n",
    "nlu.yml": 'version: "3.1"\nnlu:\n- intent: a\n  examples: |\n    - hello there\n',
    "nlu.md": "## intent:a\n- hello there\n",
    "sr.json": '{"router_type":"indexed","routes":[{"name":"a","utterances":["hello there"]}]}',
    "vl.yaml": "name: r\nroutes:\n- name: a\n  references: [hello there]\n",
    "lex.json": '{"resource":{"intents":[{"name":"a","sampleUtterances":["hello there"]}]}}',
    "tools.json": '[{"type":"function","function":{"name":"a","description":"hello there"}}]',
    "mcp.json": '{"tools":[{"name":"a","description":"hello there","inputSchema":{}}]}',
    "api.json": '{"openapi":"3.1.0","paths":{"/":{"get":{"operationId":"a",'
    '"summary":"hello there"}}}}',
}  # fmt: skip


def read(name: str, body: bytes | str, file_format: str | None = None) -> Imported:
    body = body.encode() if isinstance(body, str) else body
    return read_routes(Source(name, {name: body}), file_format)


def refusal(name: str, body: bytes | str) -> FileRefused:
    with pytest.raises(FileRefused) as caught:
        read(name, body)
    assert caught.value.code in CODES
    return caught.value


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("change", ["plain", "bom", "crlf"])
def test_mark_and_line_ends_do_not_matter(name: str, change: str) -> None:
    body = SAMPLES[name].encode()
    if change == "bom":
        body = b"\xef\xbb\xbf" + body
    if change == "crlf":
        body = body.replace(b"\n", b"\r\n")
    (route,) = read(name, body).routes

    assert ("a", "hello there") == (route.name, route.utterances[0])


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(name: str, encoding: str) -> None:
    found = refusal(name, SAMPLES[name].encode(encoding))

    assert ("file_encoding", True) == (found.code, encoding[:6].upper() in found.message)


@pytest.mark.parametrize("name", SAMPLES)
def test_byte_that_is_not_utf8_has_its_place(name: str) -> None:
    found = refusal(name, SAMPLES[name].replace("there", "thére").encode("latin-1"))

    assert "file_encoding" == found.code
    assert "0xE9" in found.message
    assert found.message.startswith("line ")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("body", [b"", b" \n\r\n", b"\xef\xbb\xbf"])
def test_empty_file_is_refused(name: str, body: bytes) -> None:
    assert "file_empty" == refusal(name, body).code


@pytest.mark.parametrize("name", SAMPLES)
def test_zero_byte_is_refused_with_its_place(name: str) -> None:
    body = SAMPLES[name].replace("hello there", "hello there, dear\0 friend " + "x" * 80)
    found = refusal(name, body)

    assert "file_syntax" == found.code
    assert "U+0000" in found.message


@pytest.mark.parametrize(
    ("name", "body", "place"),
    [
        ("a.json", '{"routes":[],\n "routes":[]}', "line 2, column 2"),
        ("a.json", '{"routes":[{"name":"a","utterances":["x"],"metadata":{"k":1,"k":2}}]}', "k"),
        ("a.json", '[{"a":{"b":[{"c":1,\n"d":2},{"c":1,"c":2}]}}]', "[0].a.b[1]"),
        ("a.json", '{"\\u0061":1,"a":2}', "the key 'a'"),
        ("a.ndjson", '{"name":"a","utterances":["x"]}\n{"name":"b","name":"c"}', "line 2, column"),
        ("a.jsonl", '{"text":"x","route":"a","route":"b"}', "line 1, column 25"),
        ("a.yaml", "routes:\n- name: a\n  name: b\n", "line 3, column 3"),
        ("a.yaml", "- {name: a, metadata: {k: [{x: 1, x: 2}]}}", "line 1, column 35"),
        ("a.yaml", "- {name: a, metadata: {yes: 1, true: 2}}", "the key 'True'"),
        ("nlu.yml", "nlu:\n- intent: a\n  intent: b\n  examples: |\n   - x\n", "line 3"),
        ("tools.json", '[{"type":"function","function":{"name":"a","name":"b"}}]', "[0].function"),
    ],
)
def test_key_twice_is_refused_with_its_place(name: str, body: str, place: str) -> None:
    """At every level, and also where one is escaped."""
    found = refusal(name, body)

    assert ("duplicate_key", True) == (found.code, place in found.message), found.message


def test_equal_keys_of_different_objects_are_fine() -> None:
    document = {"a": {"x": 1, "y": [{"x": 1}, {"x": 2}]}, "b": {"x": "a{,}:"}, "": {"": 1}}

    assert document == parse_json(json.dumps(document).encode())


@pytest.mark.parametrize("written", ["yes", "no", "on", "off", "true", "~", "12", "1.5", "12:30"])
def test_value_that_yaml_reads_as_no_text_is_named(written: str) -> None:
    body = f"routes:\n- name: a\n  utterances:\n  - fine\n  - {written}\n"
    found = refusal("a.yaml", body)

    assert ("invalid_route", True) == (found.code, f"`{written}` is read as" in found.message)
    assert "line 5, column 5" in found.message
    assert "quote it" in found.message


def test_all_bad_places_are_named() -> None:
    body = "- name: a\n  utterances: [yes, fine, no]\n- name: b\n  threshold: .nan\n"
    body += "  utterances: [x]\n"
    message = refusal("a.yaml", body).message

    assert all(part in message for part in ("`yes`", "`no`", "`.nan` is not a finite number"))
    assert all(part in message for part in ("line 2, column 16", "line 2, column 27", "line 4"))


def test_json_place_of_a_bad_value_is_named() -> None:
    message = refusal("a.json", '[{"name":"a",\n "utterances":["x", 7]}]').message

    assert "routes[0] (a), line 2, column 2: utterances[1]" in message


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("- " * 60 + "x\n", "nested too deeply"),
        ("a: b\n---\nc: d\n", "not valid YAML"),
        ("- !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("a: [\n", "not valid YAML"),
        ("a: b\n\tc: d\n", "line 2"),
        ("a\x07: b\n", "not valid YAML"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(body: str, what: str) -> None:
    found = refusal("a.yaml", body)

    assert ("file_syntax", True) == (found.code, what in found.message), found.message


@pytest.mark.parametrize("name", ["a.json", "a.ndjson"])
@pytest.mark.parametrize(
    "body", ['{"a": NaN}', '{"a": "\\ud800"}', "{'a': 1}", '{"a":1,}', "[" * 999]
)
def test_json_that_is_not_json_is_refused(name: str, body: str) -> None:
    found = refusal(name, body)

    assert "file_syntax" == found.code
    assert "line 1" in found.message


def test_control_characters_are_kept_and_said() -> None:
    content = read("a.csv", "text,route\nring the \x07 bell,a\n")

    assert ("ring the \x07 bell",) == tuple(content.routes[0].utterances)
    assert "'a': utterances[0] has the control character U+0007" in content.notes


def archive(**files: bytes) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as made:
        for name, body in files.items():
            made.writestr(name, body)
    return output.getvalue()


def test_limits_are_stated_with_their_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "FILES_BYTES_MAX", 1_000)
    found = refusal("a.zip", archive(big=b" " * 1_001))
    assert ("file_too_large", True) == (found.code, "1000 bytes" in found.message)
    monkeypatch.setattr(sources_module, "FILES_MAX", 1)
    found = refusal("a.zip", archive(a=b"{}", b=b"{}"))
    assert ("file_too_large", True) == (found.code, "1 files" in found.message)


def test_broken_archive_is_refused() -> None:
    body = archive(a=OWN.encode())
    assert "file_syntax" == refusal("a.zip", body[:-20]).code
    assert "file_empty" == refusal("a.zip", b"PK\x03\x04" + archive()).code
    assert ("a",) == tuple(route.name for route in read("a.zip", body).routes)


def test_archive_with_any_damaged_byte_is_read_or_refused() -> None:
    body = archive(a=OWN.encode(), b=b"{}")
    for place in range(4, len(body)):
        for value in (0, 0x7F, 0xFF):
            damaged = body[:place] + bytes([value]) + body[place + 1 :]
            with contextlib.suppress(FileRefused):
                read("a.zip", damaged)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("pay/refund", "pay refund"), ("pay_refund", "pay refund")),
        (("🎉 party", "Été?"), ("party", "Été_")),
        (("می‌خواهم", "退款！"), ("میخواهم", "退款_")),
        (("E\u0301te\u0301", "(a)"), ("Été", "a_")),
    ],
)
def test_changed_names_are_distinct_and_reported(
    names: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    lines = "".join(f"text number {n}\t{name}\n" for n, name in enumerate(names))
    content = read("a.tsv", lines)

    assert expected == tuple(route.name for route in content.routes)
    changed = [pair for pair in zip(names, expected, strict=True) if pair[0] != pair[1]]
    assert tuple(changed) == content.renamed


@pytest.mark.parametrize("pair", [("a!", "a?"), ("é", "e\u0301"), ("a\u200db", "ab")])
def test_names_that_would_become_one_are_refused_naming_both(pair: tuple[str, str]) -> None:
    found = refusal("a.tsv", "".join(f"x\t{name}\n" for name in pair))

    assert "duplicate_route" == found.code
    assert all(repr(name) in found.message for name in pair)


@pytest.mark.parametrize("name", ["!?", "👍", "x" * 200])
def test_name_that_cannot_be_kept_is_refused(name: str) -> None:
    assert "invalid_route" == refusal("a.tsv", f"hello\t{name}\n").code


def test_format_that_was_asked_for_must_be_that_of_the_file() -> None:
    for wanted in ("rasa", "redisvl", "openapi", "lex-v2", "dialogflow-cx", "csv", "litellm"):
        with pytest.raises(FileRefused) as caught:
            read("a.json", '{"openapi":"3.1.0"}' if wanted != "openapi" else "{}", wanted)
        assert "unknown_format" == caught.value.code
    bare = '[{"name":"a","utterances":["x"]}]'
    assert "semantic-router" == read("a.json", bare, "semantic-router").format


# --- labels ----------------------------------------------------------------------------

ASKED = '"where is it, please"'
LABELLED = [("where is it, please", "order status"), ("poem", None)]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("q.txt", "# comment\nwhere is it, please\torder status\npoem\t-\n"),
        ("q.tsv", "\ufefftext\troute\r\nwhere is it, please\torder status\r\npoem\t\r\n"),
        ("q.tsv", "id\troute\ttext\n1\torder status\twhere is it, please\n2\t-\tpoem\n"),
        ("q.csv", 'text,route\n"where is it, please",order status\npoem,-\n'),
        ("q.csv", 'Label;Query\norder status;"where is it, please"\n;poem\n'),
        ("q.jsonl", f'{{"text":{ASKED},"route":"order status"}}\n{{"text":"poem","route":null}}'),
        ("q.ndjson", f'{{"query":{ASKED},"tag":"order status"}}\n{{"query":"poem","tag":"-"}}'),
        ("q.json", f'[{{"text":{ASKED},"route":"order status"}},{{"text":"poem","route":""}}]'),
    ],
)  # fmt: skip
def test_one_label_format_everywhere(name: str, body: str) -> None:
    found = read_labels(name, body.encode())

    assert LABELLED == [(each.text, each.route) for each in found]
    assert NO_ROUTE == query_backend.NO_ROUTE


def test_label_is_read_in_nfc() -> None:
    (found,) = read_labels("q.tsv", "hello\te\u0301".encode())

    assert "é" == found.route


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("q.tsv", "no tab here\n", "line 1"),
        ("q.tsv", "fine\ta\n\t\t\nx\t\n", "line 3"),
        ("q.csv", "hello,a\n", "line 1: the first row must name the columns"),
        ("q.csv", 'text,route\n"open,a\n', "line 2"),
        ("q.jsonl", '{"text":"x","route":"a"}\n{"text":7,"route":"a"}', "line 2"),
        ("q.jsonl", '{"text":"x"}', "line 1"),
        ("q.txt", "# nothing\n", "no queries"),
    ],
)
def test_malformed_label_has_its_line(name: str, body: str, what: str) -> None:
    with pytest.raises(FileRefused) as caught:
        read_labels(name, body.encode())

    assert what in caught.value.message


def test_codes_are_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")

    assert all(f"| `{code}` |" in text for code in CODES)
