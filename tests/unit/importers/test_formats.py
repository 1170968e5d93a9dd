"""Each foreign format: what becomes a route, what is kept beside it, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreign_files import (
    DIALOGFLOW_CX,
    DIALOGFLOW_ES,
    DOMAIN,
    FOREIGN_FILES,
    LEX_V2,
    RASA,
    RASA_COUNTS,
    STORIES,
    write_folder,
    write_foreign_file,
)
from synaptoroute.cli import route_files
from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.route_files import read_route_file, read_source
from synaptoroute.importers import FORMATS, FileRefused, Imported, Source, read_routes
from synaptoroute.importers.rasa import plain_text

pytestmark = pytest.mark.unit


def counts(content: Imported) -> dict[str, int]:
    return {route.name: len(route.utterances) for route in content.routes}


@pytest.mark.parametrize("name", FOREIGN_FILES)
@pytest.mark.parametrize("is_named", [False, True])
def test_file_of_every_format_is_read(tmp_path: Path, name: str, is_named: bool) -> None:
    file_format, _, expected = FOREIGN_FILES[name]
    path = write_foreign_file(tmp_path, name)
    content = read_route_file(path, file_format if is_named else None)

    assert (file_format, expected) == (content.format, counts(content))
    other = next(each for each in FORMATS if each != file_format and each != "synaptoroute")
    with pytest.raises(FileRejected):
        read_route_file(path, other)


def test_every_format_has_a_file() -> None:
    assert {*FORMATS} - {"synaptoroute"} == {each[0] for each in FOREIGN_FILES.values()}


@pytest.mark.parametrize("files", [DIALOGFLOW_CX, DIALOGFLOW_ES, LEX_V2])
def test_folder_is_read_as_its_archive(tmp_path: Path, files: dict[str, object]) -> None:
    folder = write_folder(tmp_path / "export", files)
    content = read_route_file(folder)
    expected = {each[0]: each[2] for each in FOREIGN_FILES.values()}

    assert expected[content.format] == counts(content)


def test_folder_of_rasa_joins_its_files(tmp_path: Path) -> None:
    more = 'version: "3.1"\nnlu:\n- intent: greet\n  examples: |\n    - yo\n    - hello\n'
    folder = write_folder(
        tmp_path,
        {
            "data/nlu.yml": RASA,
            "data/more/nlu.yml": more,
            "data/stories.yml": STORIES,
            "domain.yml": DOMAIN,
            "README.md": "# A bot\n",
            ".git/nlu.yml": "broken: [",
        },
    )
    content = read_route_file(folder)

    assert {**RASA_COUNTS, "greet": 4} == counts(content)
    assert (("faq/opening hours", "faq_opening hours"),) == content.renamed
    assert "3 synonyms, lookup tables and regular expressions are left out" in content.notes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("to [Berlin](city) now", "to Berlin now"),
        ('[NY]{"entity": "city", "value": "New York"}', "NY"),
        ("[a](x)[b](y)", "ab"),
        ('[ice]{"entity": "a"} and [ice][{"entity": "a"}, {"entity": "b"}]', "ice and ice"),
        ("an [array] (of) things", "an [array] (of) things"),
    ],
)
def test_annotations_of_rasa_are_taken_out(written: str, expected: str) -> None:
    assert expected == plain_text(written)


def test_older_data_of_rasa_is_read() -> None:
    text = "## intent:greet\n- hey [you](who)\n## synonym:x\n- y\n## intent:bye\n* see you\n"
    content = read_routes(Source("nlu.md", {"nlu.md": text.encode()}))
    assert {"greet": 1, "bye": 1} == counts(content)
    data = b'{"rasa_nlu_data":{"common_examples":[{"text":"hey","intent":"greet","entities":[]}]}}'
    assert {"greet": 1} == counts(read_routes(Source("nlu.json", {"nlu.json": data})))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    content = read_route_file(write_foreign_file(tmp_path, "es.zip"))
    skipped = dict(content.skipped)
    assert "fallback" in skipped["Default Fallback Intent"]
    assert "no text" in skipped["Event only"]
    assert "1 phrases in template mode are left out" in content.notes
    assert {"action": "do.pay.bill"} == content.routes[0].metadata
    assert "pay it tomorrow please" in content.routes[0].utterances


def test_slots_of_lex_are_filled(tmp_path: Path) -> None:
    content = read_route_file(write_foreign_file(tmp_path, "FlowerBot_1_LEX_V1.zip"))
    assert ["I want tulips", "order flowers"] == content.routes[0].utterances
    content = read_route_file(write_foreign_file(tmp_path, "HotelBot-DRAFT-LexJson.zip"))
    assert "book a room in Lisbon" in content.routes[0].utterances
    assert "I need a hotel for nights nights" in content.routes[0].utterances
    assert "Book a room" == content.routes[0].description


def test_nested_routers_are_joined_by_name(tmp_path: Path) -> None:
    content = read_route_file(write_foreign_file(tmp_path, "router.yaml"))
    greeting, billing = content.routes

    assert ["hi there", "good morning", "welcome back"] == greeting.utterances
    assert ("Small talk", {"confidence_threshold": 0.42}) == (
        greeting.description,
        greeting.metadata,
    )
    assert ["Invoices and refunds"] == billing.utterances
    assert any("joined" in note for note in content.notes)
    assert any("calibrator" in note for note in content.notes)


def test_router_without_its_routes_is_refused() -> None:
    """Its remote index holds them."""
    body = b"router_type: indexed\nencoder: {type: openai}\nindex: {type: pinecone}\n"
    with pytest.raises(FileRefused, match="pinecone") as caught:
        read_routes(Source("r.yaml", {"r.yaml": body}))
    assert "file_empty" == caught.value.code


def test_router_of_a_proxy_is_read_from_the_file_beside_it(tmp_path: Path) -> None:
    write_foreign_file(tmp_path, "router.json")
    parameters = "{model: auto_router/a, auto_router_config_path: %s}"
    config = "model_list:\n- model_name: auto\n  litellm_params: " + parameters + "\n"
    path = tmp_path / "proxy.yaml"
    path.write_text(config % "router.json")
    assert {"退款": 2, "物流": 1} == counts(read_route_file(path))
    for elsewhere in ("../router.json", "/etc/hostname", "missing.json"):
        path.write_text(config % elsewhere)
        with pytest.raises(FileRejected, match="import that file"):
            read_route_file(path)


def test_too_large_payload_keeps_what_fits() -> None:
    document = {
        "openapi": "3.0.3",
        "components": {"schemas": {"Big": {"enum": ["x" * 100] * 300}}},
        "paths": {
            "/a": {
                "post": {
                    "operationId": "a",
                    "summary": "Do it",
                    "requestBody": {"$ref": "#/components/schemas/Big"},
                }
            }
        },
    }
    body = json.dumps(document).encode()
    content = read_routes(Source("a.json", {"a.json": body}))

    assert {"$ref": "#/components/schemas/Big"} == content.routes[0].payload["request_body"]
    assert any("references" in note for note in content.notes)


def test_utterances_over_the_limit_are_left_out_and_said() -> None:
    body = "".join(f"text number {n}\tmany\n" for n in range(1_003)).encode()
    content = read_routes(Source("a.tsv", {"a.tsv": body}))

    assert {"many": 1_000} == counts(content)
    assert any("3 are left out" in note for note in content.notes)


def test_hidden_files_of_a_folder_are_not_read(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.json": {}, ".env": "SECRET=1", ".git/config": "x"})

    assert ["a.json"] == list(read_source(tmp_path).files)


def test_file_over_the_limit_is_refused_with_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_files, "FILE_BYTES_MAX", 10)
    path = write_foreign_file(tmp_path, "nlu.yml")
    with pytest.raises(FileRejected, match="more than 10 bytes") as caught:
        read_route_file(path)
    assert "file_too_large" == caught.value.code
