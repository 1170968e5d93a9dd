"""Texts are hidden unless their field is known to hold codes."""

from __future__ import annotations

import json
from threading import Event

import pytest

from synaptoroute.cli.scrubbing import HIDDEN, Scrubber
from synaptoroute.cli.support import Bundle, forms_of

pytestmark = pytest.mark.unit


def test_text_of_an_unknown_field_is_hidden() -> None:
    """A field that a later release adds is hidden until it is listed."""
    shown = Scrubber().document(
        {"state": "ready", "a_new_field": "words", "count": 3, "none": None}
    )

    assert ("ready", 3, None) == (shown["state"], shown["count"], shown["none"])
    assert shown["a_new_field"].startswith(HIDDEN)


@pytest.mark.parametrize("text", ["two words", "q" * 201, "a@b", "quote'"])
def test_known_field_holds_codes_only(text: str) -> None:
    assert Scrubber().document({"reason": text})["reason"].startswith(HIDDEN)


def test_equal_texts_have_equal_digits_in_one_bundle_alone() -> None:
    """Short texts cannot be found by trying: the key is drawn for each bundle."""
    first, second = Scrubber(), Scrubber()

    assert first.hide("refund") == first.hide("refund") != first.hide("returns")
    assert first.hide("refund") != second.hide("refund")


@pytest.mark.parametrize("key", ["my route", "Refund", "refund-1"])
def test_keys_of_maps_by_name_are_hidden(key: str) -> None:
    shown = Scrubber().document({"set_cascades": {key: {"state": "on"}, "plain": 1}, key: 1})

    assert key not in json.dumps(shown)
    assert "plain" not in json.dumps(shown)


def test_name_that_an_operator_gave_a_node_is_hidden() -> None:
    """Its identity is drawn by lot."""
    shown = Scrubber().document([{"node": "ab" * 16}, {"node": "router-in-the-cellar"}])

    assert "ab" * 16 == shown[0]["node"]
    assert shown[1]["node"].startswith(HIDDEN)


def test_deep_documents_end() -> None:
    """A server may answer with anything."""
    deep: object = "words"
    for _ in range(200):
        deep = [deep]

    assert "words" not in json.dumps(Scrubber().document(deep))


def test_metrics_keep_figures_and_hide_names() -> None:
    text = (
        "# HELP a words\n"
        'synaptoroute_answers_total{set="default",route="re}fu\\"nd",method="POST"} 7.0\n'
        "synaptoroute_up 1.0\nnot a sample at all\n"
    )
    first, second = Scrubber().metrics(text)

    assert first.endswith(" 7.0")
    assert 'method="POST"' in first
    assert "fu" not in first.replace("synaptoroute", "")
    assert "synaptoroute_up 1.0" == second


def test_log_lines_keep_codes_and_frames() -> None:
    event = {
        "timestamp": "2026-01-01T00:00:00Z",
        "level": "error",
        "logger": "synaptoroute.server",
        "message": "request_failed",
        "path": "/v1/routes/private",
        "status": 500,
        "code": "internal",
        "exception": 'Traceback:\n  File "/x/synaptoroute/server/app.py", line 3, in f\n'
        "    private source\nValueError: private words",
    }
    lines = [
        json.dumps(event),
        "2026-01-01T00:00:00Z [info     ] request        [synaptoroute.server] path=/private",
        "private words of somebody",
        json.dumps({**event, "message": "private words"}),
    ]
    shown = [json.loads(line) for line in Scrubber().log(lines)]

    assert ["synaptoroute/server/app.py:3:f", "ValueError"] == shown[0]["exception"]
    assert ("request_failed", 500, "internal") == (
        shown[0]["message"],
        shown[0]["status"],
        shown[0]["code"],
    )
    assert "request" == shown[1]["message"]
    assert 3 == len(shown)
    assert "private" not in json.dumps(shown)


@pytest.mark.parametrize("form", sorted(forms_of("p:w%d@/secret")))
def test_member_with_a_secret_is_left_out(form: bytes) -> None:
    """The scrubber has let it through."""
    bundle = Bundle(Scrubber(), ["p:w%d@/secret"], 60.0)
    bundle.add_bytes("a.txt", b"x" + form + b"y")

    assert [{"what": "a.txt", "why": "holds_a_secret"}] == bundle.left_out


def test_part_that_fails_or_hangs_leaves_out_itself_alone() -> None:
    bundle, released = Bundle(Scrubber(), [], 0.2), Event()

    def fail() -> None:
        raise OSError("private words")

    bundle.collect("failing", fail)
    bundle.collect("hanging", released.wait)
    bundle.collect("late", fail)
    released.set()

    assert ["OSError", "out_of_time", "out_of_time"] == [each["why"] for each in bundle.left_out]
