"""Route folders: what is read, every mistake with its place, and equal bytes for equal content."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synaptoroute.core.mutation import SetLimits
from synaptoroute.importers import CODES, FileRefused, Source, read_labels, read_routes
from synaptoroute.importers.folder import (
    AliasEntry,
    RouteFolder,
    SetFolders,
    read_route_folder,
    read_set_folders,
)
from synaptoroute.importers.folder_schemas import SCHEMAS, schema_of
from synaptoroute.importers.folder_writer import file_stems, route_file, write_set_folders
from synaptoroute.models import Route, RouteSetSettings

pytestmark = pytest.mark.unit

REFUNDS = "name: refunds\nutterances:\n- I want my money back\n- Refund me\n"
SIGN_IN = "name: sign-in\nutterances: [I cannot log in]\nnegatives: [log me out]\n"
GOOD = {
    "refunds.yaml": REFUNDS,
    "sign-in.yml": SIGN_IN,
    "settings.yaml": "confidence_min: 0.6\nrepair_words: false\n",
    "tests.yaml": "my money please: refunds\nwill it rain: null\nand snow: '-'\n",
    "set.yaml": "name: support@12\nlimits: {routes_max: 10}\n",
    "README.md": "# Routes\n",
}


def source(files: dict[str, str | bytes]) -> Source:
    bodies = {
        name: body.encode() if isinstance(body, str) else body for name, body in files.items()
    }
    return Source("folder", bodies, is_folder=True)


def refusal(files: dict[str, str | bytes]) -> FileRefused:
    with pytest.raises(FileRefused) as caught:
        read_set_folders(source(files))
    assert caught.value.code in CODES
    return caught.value


@pytest.mark.parametrize(("written", "read"), [("auto", "auto"), ("true", True), ("false", False)])
def test_cascade_has_three_values(written: str, read: object) -> None:
    """They are read from a folder, and written as they were read."""
    given = {**GOOD, "settings.yaml": f"cascade: {written}\n"}
    folders = read_set_folders(source(dict(given)))
    again = read_set_folders(source(dict(write_set_folders(folders))))

    assert {"cascade": read} == folders.sets[0].settings
    assert again.sets[0].settings["cascade"] == read  # type: ignore[index]
    refused = refusal({**GOOD, "settings.yaml": "cascade: sometimes\n"})
    assert "cascade" in str(refused)


def test_folder_is_read() -> None:
    """Files of any name, settings that are named, tests, the set's name and limits."""
    (found,) = read_set_folders(source(dict(GOOD))).sets

    assert ["refunds", "sign-in"] == [route.name for route in found.routes]
    assert {"confidence_min": 0.6, "repair_words": False} == found.settings
    assert {"my money please": "refunds", "will it rain": None, "and snow": None} == found.tests
    assert ("support@12", SetLimits(routes_max=10)) == (found.name, found.limits)


def test_folder_is_a_route_file_for_other_commands() -> None:
    found = read_routes(source(dict(GOOD)))

    assert ("synaptoroute", 2) == (found.format, len(found.routes))


def test_tests_are_labelled_queries() -> None:
    """As an object, and as the list that the API gives."""
    listed = "- {text: my money please, route: refunds}\n- {text: will it rain, route: null}\n"
    for body in (GOOD["tests.yaml"], listed):
        found = read_labels("tests.yaml", body.encode())
        assert [("my money please", "refunds"), ("will it rain", None)] == [
            (each.text, each.route) for each in found[:2]
        ]


@pytest.mark.parametrize(
    ("name", "body", "code", "place"),
    [
        ("a.yaml", "name: a\nutterances: [x]\ncolour: red\n", "invalid_route", "a.yaml"),
        ("a.yaml", "name: a\nutterances: []\n", "invalid_route", "a.yaml (a), line 2"),
        ("a.yaml", "name: a\nutterances:\n- yes\n", "invalid_route", "line 3, column 3"),
        ("a.yaml", "name: a\nname: b\nutterances: [x]\n", "duplicate_key", "a.yaml: line 2"),
        ("a.yaml", "name: refunds\nutterances: [x]\n", "duplicate_route", "already defined in"),
        ("a.yaml", "routes: []\n", "unknown_format", "a.yaml"),
        ("a.yaml", "- name: a\n", "unknown_format", "a.yaml"),
        ("a.yaml", "", "file_empty", "a.yaml"),
        ("a.yaml", "name: [\n", "file_syntax", "a.yaml: line"),
        ("a.yaml", b"name: \xff\n", "file_encoding", "a.yaml: line 1"),
        ("a.yaml", "x: &a 1\ny: *a\n", "file_syntax", "a.yaml: line 1"),
        ("a.yaml", "name: a\nutterances: [x]\nvectors: [[1.0]]\n", "invalid_route", "line 3"),
        ("a.json", '{"name":"a","utterances":["x"]}', "unknown_format", "a.json"),
        ("more/a.yaml", REFUNDS, "unknown_format", "more/a.yaml"),
        ("settings.yaml", "colour: red\n", "invalid_settings", "settings.yaml, line 1"),
        ("settings.yaml", "topk: 0\n", "invalid_settings", "settings.yaml, line 1"),
        ("settings.yaml", "topk: 3\nthreshold: yes\n", "invalid_settings", "line 2"),
        ("settings.yaml", "- topk\n", "invalid_settings", "settings.yaml"),
        ("tests.yaml", "yes: refunds\n", "invalid_test", "read as a boolean"),
        ("tests.yaml", "a: refunds\nb: 7\n", "invalid_test", "tests.yaml, line 2"),
        ("tests.yaml", "a: 'no/name'\n", "invalid_test", "tests.yaml, line 1"),
        ("tests.yaml", "a: x\na: y\n", "duplicate_key", "tests.yaml: line 2"),
        ("tests.yaml", "a: x\n' a': y\n", "duplicate_test", "tests.yaml, line 2"),
        ("tests.yaml", "- {text: a}\n", "invalid_test", "tests.yaml, line 1"),
        ("tests.yaml", "some text\n", "invalid_test", "tests.yaml"),
        ("set.yaml", "name: /x\n", "invalid_set", "set.yaml, line 1"),
        ("set.yaml", "limits: {routes_max: -1}\n", "invalid_set", "set.yaml, line 1"),
        ("set.yaml", "limits: {routes: 1}\n", "invalid_set", "set.yaml"),
        ("aliases.yaml", "a: {set: b}\n", "unknown_format", "aliases.yaml"),
    ],
)  # fmt: skip
def test_mistake_has_a_code_and_a_place(
    name: str, body: str | bytes, code: str, place: str
) -> None:
    files: dict[str, str | bytes] = {"refunds.yaml": REFUNDS, "sign-in.yml": SIGN_IN}
    found = refusal({**files, name: body})

    assert code == found.code, found.message
    assert place in found.message


def test_mistakes_of_all_files_are_named() -> None:
    found = refusal({"a.yaml": "name: a\n", "b.yaml": "name: b\nutterances: [7]\n"})

    assert "a.yaml" in found.message
    assert "b.yaml" in found.message


def test_empty_folder_is_refused() -> None:
    assert "file_empty" == refusal({"README.md": "# Nothing\n"}).code


def test_file_full_of_mistakes_is_read_in_time() -> None:
    """Places are found for the first mistakes alone: each costs a parse of the file."""
    body = "".join(f"{number}: refunds\n" for number in range(20_000))
    found = refusal({"refunds.yaml": REFUNDS, "tests.yaml": body})

    assert "invalid_test" == found.code


# --- several sets ----------------------------------------------------------------------------


def test_folder_of_several_sets() -> None:
    """The name of a set is that of its folder, or the one in `set.yaml`; aliases lie beside."""
    found = read_set_folders(
        source(
            {
                "support/refunds.yaml": REFUNDS,
                "other/refunds.yaml": REFUNDS,
                "other/set.yaml": "name: sales@2\n",
                "aliases.yaml": "desk: {set: support, shadow: sales@2, shadow_share: 0.2}\n",
                "notes/README.md": "none",
            }
        )
    )

    assert found.is_several
    assert ["sales@2", "support"] == [each.name for each in found.sets]
    assert {"desk": AliasEntry("support", "sales@2", 0.2)} == found.aliases


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"b/set.yaml": "name: a\n"}, "duplicate_route"),
        ({"aliases.yaml": "desk: {set: a, share: 1}\n"}, "invalid_set"),
        ({"aliases.yaml": "desk: {set: a, shadow: a, shadow_share: 2}\n"}, "invalid_set"),
        ({"aliases.yaml": "desk: a\n"}, "invalid_set"),
        ({"aliases.yaml": "'/': {set: a}\n"}, "invalid_set"),
        ({"aliases.yaml": "- desk\n"}, "invalid_set"),
        ({"b/aliases.yaml": "desk: {set: a}\n", "b/x.yaml": REFUNDS}, "unknown_format"),
        ({"b!/refunds.yaml": REFUNDS}, "invalid_set"),
        ({"aliases.yaml": "desk: {set: a, shadow: a, shadow_share: 0.5}\n"}, "invalid_set"),
        ({"aliases.yaml": "desk: {set: a, shadow_share: 0.5}\n"}, "invalid_set"),
        ({"aliases.yaml": "desk: {set: a, canary_share: 0.5}\n"}, "invalid_set"),
        ({"aliases.yaml": "desk: {set: /}\n"}, "invalid_set"),
        ({"aliases.yaml": "a: {set: b}\n"}, "invalid_set"),
    ],
)
def test_mistakes_of_several_sets(files: dict[str, str | bytes], code: str) -> None:
    assert code == refusal({"a/refunds.yaml": REFUNDS, **files}).code


# --- writing -----------------------------------------------------------------------------

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1
).filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    payload=VALUES,
    metadata=st.dictionaries(TEXTS, VALUES, max_size=3),
    description=st.none() | TEXTS,
    tests=st.dictionaries(TEXTS, st.sampled_from([None, "a"]), max_size=3),
)
def test_written_folder_reads_back_the_same(
    texts: list[str], payload: object, metadata: dict[str, object],
    description: str | None, tests: dict[str, str | None],
) -> None:  # fmt: skip
    """All texts and JSON values, and the bytes of what was read are those that were written."""
    route = Route(
        name="a", utterances=texts, payload=payload, metadata=metadata, description=description
    )
    folder = RouteFolder(routes=[route], tests={key.strip(): tests[key] for key in tests})
    files = write_set_folders(SetFolders([folder]))
    (read,) = read_set_folders(Source("folder", files, is_folder=True)).sets
    (again,) = read.routes

    assert files == write_set_folders(SetFolders([read]))
    assert (folder.tests or None) == read.tests
    assert set(route.utterances) == set(again.utterances)
    assert (route.description, json.dumps([payload, metadata], sort_keys=True)) == (
        again.description,
        json.dumps([again.payload, again.metadata], sort_keys=True),
    )


def test_order_of_texts_and_keys_does_not_change_the_bytes() -> None:
    one = Route(name="a", utterances=["x", "y"], metadata={"p": 1, "q": {"r": 1, "s": 2}})
    two = Route(name="a", utterances=["y", "x"], metadata={"q": {"s": 2, "r": 1}, "p": 1})

    assert route_file(one) == route_file(two)


def test_one_text_is_one_line() -> None:
    """So that differences show the text that changed."""
    text = "word " * 200

    assert f"- {text.strip()}\n".encode() in route_file(Route(name="a", utterances=[text]))


def test_file_names_are_safe_and_distinct() -> None:
    """On file systems without case, with short names, or with names of devices."""
    names = ["refunds", "Refunds", "small talk", "a:b", "settings", "con", "Nul.x", "über", "end."]
    names += ["的" * 128]
    stems = file_stems(names)

    assert len(names) == len({stem.casefold() for stem in stems.values()})
    assert "small%20talk" == stems["small talk"]
    assert "über" == stems["über"]
    assert {"refunds", "settings", "con"}.isdisjoint(stems.values())
    assert all(len(stem.encode()) < 200 and ":" not in stem for stem in stems.values())
    assert stems["end."][-1] != "."


def test_several_sets_are_written_and_read() -> None:
    route = Route(name="a", utterances=["x"])
    limits = SetLimits(routes_max=3)
    given_sets = [
        RouteFolder(name="Support", routes=[route], limits=limits),
        RouteFolder(name="support", routes=[route], settings={"topk": 2}),
    ]
    aliases = {"desk": AliasEntry("Support", canary="support", canary_share=0.05)}
    files = write_set_folders(SetFolders(given_sets, aliases, is_several=True))
    found = read_set_folders(Source("folder", files, is_folder=True))

    assert ["Support", "support"] == [each.name for each in found.sets]
    assert (limits, {"topk": 2}) == (found.sets[0].limits, found.sets[1].settings)
    assert aliases == found.aliases


# --- schemas -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas_are_closed(kind: str) -> None:
    """An editor marks a misspelled key."""
    schema = schema_of(kind)

    assert "https://json-schema.org/draft/2020-12/schema" == schema["$schema"]
    inner = schema["additionalProperties"] if kind == "aliases" else schema
    assert kind == "tests" or inner["additionalProperties"] is False


def test_schemas_name_every_key_that_is_read() -> None:
    assert set(Route.model_fields) - {"vectors"} == schema_of("route")["properties"].keys()
    assert RouteSetSettings.model_fields.keys() == schema_of("settings")["properties"].keys()
    assert "required" not in schema_of("settings")


def test_faults_of_a_folder_leave_its_good_routes() -> None:
    """A linter goes on with them."""
    found = read_route_folder(source({"refunds.yaml": REFUNDS, "a.yaml": "name: a\n"}))

    assert ["refunds"] == [route.name for route in found.routes]
    assert 1 == len(found.faults)
