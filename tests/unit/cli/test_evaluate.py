"""Labelled queries are read exactly, and the evaluation follows the definitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from synaptoroute.cli.commands.evaluate import RouteScore, count_answers
from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.query_backend import Answer, LabelledQuery, check_known, read_labelled

pytestmark = pytest.mark.unit


def test_text_file_is_read(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; a dash is no route; a text may contain tabs."""
    path = tmp_path / "q.txt"
    path.write_text("# note\n\nwhere is it\torder\r\na\tb\torder\nhello \t - \n", encoding="utf-8")

    assert read_labelled(path) == [
        LabelledQuery("where is it", "order"),
        LabelledQuery("a\tb", "order"),
        LabelledQuery("hello", None),
    ]


def test_json_lines_file_is_read(tmp_path: Path) -> None:
    """Null is no route, and so is a dash."""
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"text": "a", "route": "x"}\n{"text": "b", "route": null}\n{"text": "c", "route": "-"}\n',
        encoding="utf-8",
    )

    assert [query.route for query in read_labelled(path)] == ["x", None, None]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("q.txt", "one\ta\nno label\n", "line 2"),
        ("q.txt", "\ta\n", "line 1"),
        ("q.txt", "# nothing\n", "has no queries"),
        ("q.jsonl", '{"text": 1, "route": "a"}', "line 1"),
        ("q.jsonl", '{"text": "a"}', "line 1"),
        ("q.jsonl", "[1]", "line 1"),
        ("q.txt", "\ufffe".encode("utf-16").decode("latin-1"), "line 1"),
    ],
)
def test_error_names_the_wrong_line(tmp_path: Path, name: str, content: str, expected: str) -> None:
    """An unreadable query is not skipped: the result would be that of other queries."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileRejected, match=expected):
        read_labelled(path)


def test_unknown_labels_are_refused() -> None:
    """They would count as errors of the router."""
    queries = [LabelledQuery("a", "x"), LabelledQuery("b", "typo"), LabelledQuery("c", None)]
    with pytest.raises(FileRejected, match="'typo'"):
        check_known(queries, frozenset({"x"}), Path("q.txt"))


def answers(*pairs: tuple[str | None, str | None]) -> list[Answer]:
    """Answers by what was expected and given; the n-th took n ms."""
    return [Answer("t", one, two, latency_ms=i) for i, (one, two) in enumerate(pairs, start=1)]


def test_evaluation_follows_the_definitions() -> None:
    """Precision is a share of the matches, recall a share of the labels."""
    found = count_answers(
        answers(
            ("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("b", None), (None, None), (None, "a")
        )
    )

    assert found.accuracy == pytest.approx(4 / 7)
    assert (found.in_scope_correct_count, found.in_scope_count, found.false_rejects) == (3, 5, 1)
    assert (found.false_accepts, found.out_of_scope_count) == (1, 2)
    assert found.routes == (
        RouteScore("-", 2, 1 / 2, 1 / 2),
        RouteScore("a", 3, 2 / 3, 2 / 3),
        RouteScore("b", 2, 1 / 2, 1 / 2),
    )
    assert found.confusions == (("-", "a", 1), ("a", "b", 1), ("b", "-", 1))


def test_route_without_matches_has_no_precision() -> None:
    (figures, given) = count_answers(answers(("a", "b"))).routes

    assert (figures.precision, figures.recall) == (None, 0.0)
    assert (given.precision, given.recall) == (0.0, None)


def test_frequent_confusions_come_first() -> None:
    found = count_answers(answers(("a", "b"), ("c", "a"), ("c", "a")))

    assert found.confusions == (("c", "a", 2), ("a", "b", 1))


def test_percentiles_are_by_nearest_rank() -> None:
    """Of 1 to 100 ms, the 95th percentile is 95 ms."""
    found = count_answers(answers(*[("a", "a")] * 100))

    assert found.latency_ms == {"p50": 50, "p95": 95, "p99": 99}
