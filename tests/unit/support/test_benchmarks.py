"""The benchmarks run, print JSON, and judge what they measured."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "benchmarks"
BENCHES = (
    "invariance", "throughput", "accuracy", "small_sets",
    "inputs", "cascade", "decision", "hot_add", "boot", "mutations", "scoring",
    "overload", "http", "embedding", "lanes", "million", "cluster",
    "defaults", "packed",
)  # fmt: skip
LONG = ("fast", "peers")
"""Benchmarks that start many processes even in their tiny size."""


def load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Import a module of the benchmarks as its scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.mark.timeout(180)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*BENCHES, *(pytest.param(name, marks=pytest.mark.accept) for name in LONG)]
)
def test_bench_prints_its_figures_as_json(name: str, tmp_path: Path) -> None:
    """A tiny run on generated texts gives figures, machine, commit, command and date."""
    target = tmp_path / "figures.json"
    words = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--tiny", "--no-peers"]
    done = subprocess.run(
        [*words, "--json", str(target)], capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stderr[-2_000:]
    printed = json.loads(done.stdout)
    assert json.loads(target.read_text()) == printed
    assert name == printed["bench"]
    assert (
        f"python benchmarks/bench_{name}.py --tiny --no-peers --json FOLDER" == (printed["command"])
    )
    assert {"machine", "commit", "date", "load_average", "figures"} <= set(printed)
    assert printed["figures"]


def test_every_script_imports() -> None:
    """A renamed function breaks no script that the other tests do not run."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    program = f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n" + "".join(
        f"import {name}\n" for name in names if name != "plots"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stderr[-2_000:]


def test_report_runs_every_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that the report forgets would never be seen again."""
    report = load(monkeypatch, "report")

    assert {*BENCHES, *LONG} == set(report.BENCHES)
    every = (*report.BENCHES, *report.ON_REQUEST)
    assert {f"bench_{name}.py" for name in every} <= {path.name for path in FOLDER.iterdir()}


def test_error_of_a_crashed_contender_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its exit code and its last words, whether it dies at its start or at an order."""
    contenders = load(monkeypatch, "contenders")
    at_start = tmp_path / "at_start.py"
    at_start.write_text("import sys\nsys.stdin.close()\nsys.exit('this CPU has no such unit')\n")
    at_order = tmp_path / "at_order.py"
    at_order.write_text("import os\ninput()\nos.write(2, b'out of luck\\n')\nos.abort()\n")
    expected = {at_start: ("code 1", "this CPU has no such unit"), at_order: ("code -6", "luck")}

    for script, words in expected.items():
        monkeypatch.setitem(contenders._SCRIPTS, contenders.OURS, str(script))
        process = contenders.Process(contenders.OURS)
        if script is at_start:
            process._process.wait()
        with pytest.raises(contenders.ContenderFailed) as failed:
            process.do("load", routes={})
        process.close()
        assert all(word in str(failed.value) for word in words), failed.value


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round begins with another contender, and each runs once a round."""
    order: list[str] = []
    rounds = load(monkeypatch, "harness").rounds

    found = rounds({name: lambda name=name: order.append(name) for name in "abc"}, 3)

    assert list("abcbcacab") == order
    assert {"a": 3, "b": 3, "c": 3} == {name: len(runs) for name, runs in found.items()}


def test_ratio_is_of_medians_with_the_spread_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One odd round moves the spread, not the ratio."""
    ratio = load(monkeypatch, "harness").ratio

    assert {"median": 2.0, "low": 0.5, "high": 9.0} == ratio([2, 1, 9], [1, 2, 1])


def test_quantiles_are_values_that_occurred(monkeypatch: pytest.MonkeyPatch) -> None:
    """The p99 of a hundred values is the ninety-ninth."""
    quantiles = load(monkeypatch, "harness").quantiles

    expected = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert expected == quantiles(range(1, 101))
    assert {"p50": 7, "p90": 7, "p99": 7, "max": 7} == quantiles([7])


def test_goal_without_figures_is_neither_met_nor_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that did not run proves nothing."""
    goals = load(monkeypatch, "goals").judge({})

    assert {None} == {goal.is_met for goal in goals}
    assert {"no data"} == {goal.verdict for goal in goals}


def test_missed_goal_is_shown_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows a missed goal as plainly as a met one."""
    figures: dict[str, Any] = {
        "invariance": {"texts": 3, "batches": 2, "max_difference": 0.25},
        "padding": {
            "equal_length_padding_tokens": 0,
            "mixed_padding_share": 0.05,
            "mixed_padding_share_worst_batch": 0.09,
        },
    }
    harness = load(monkeypatch, "harness")
    results = {
        "invariance": {
            "figures": figures,
            "machine": harness.machine(),
            "commit": "abc",
            "command": "python bench_invariance.py",
            "date": "2026-01-01T00:00:00+00:00",
            "ended": "2026-01-01T00:01:00+00:00",
            "size": "full",
            "load_average": {"start": 0.1, "end": 0.2},
        }
    }
    goals = load(monkeypatch, "goals").judge(results)

    page = load(monkeypatch, "pages").page(results, goals)

    assert "| batch invariance, max difference | <= 1e-05 | 0.25 | MISSED |" in page
    assert "| padding tokens, equal lengths | <= 0 | 0 | met |" in page


def result_of(figures: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A result as a benchmark prints it."""
    machine = {"cpu": "a processor", "cores": 2, "memory_gib": 8, "system": "Linux"}
    machine |= dict.fromkeys(("python", "numpy", "onnxruntime", "tokenizers", "fastembed"), "1")
    return {
        "figures": figures,
        "machine": machine,
        "commit": "abc",
        "command": "python bench.py",
        "date": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:00+00:00",
        "size": "standard",
        "load_average": {"start": 0.1, "end": 0.2},
        **changes,
    }


def boot_of(seconds: float) -> dict[str, Any]:
    """Figures of the benchmark of the boot."""
    cell = {"median": seconds, "low": seconds, "high": seconds}
    spreads = ("boot_seconds", "boot_from_rows_seconds", "encoder_seconds", "imports_seconds",
               "resident_mib")  # fmt: skip
    sizes = {"vectors": 50_000, "resident_mib_empty": 90.0, "database_mib": 200.0}
    return {**dict.fromkeys(spreads, cell), **sizes}


def test_figure_is_shown_under_its_own_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind without a run of a part has no figure for it; goals are those of the kind."""
    kinds = load(monkeypatch, "kinds")
    times = "encoder alone, queries a second at 64 clients, of semantic-router"
    earlier = {
        "machine": "an old machine", "date": "2025-01-01", "commit": "old", "size": "full",
        "load_average": "1 to 2", "goals": [{"name": times.partition(", ")[2], "value": 8.2}],
    }  # fmt: skip
    found = [
        kinds.KindResults("amx", earlier=earlier),
        kinds.KindResults("avx512-vnni", {"boot": result_of(boot_of(0.125))}),
        kinds.KindResults("avx2"),
    ]

    page = load(monkeypatch, "entry_page").entry_page(found, {})

    missing = "not measured"
    assert (
        f"| {times} | >= 8.5x | 8.2x, MISSED | >= 8.5x | {missing} | >= 4.5x | {missing} |" in page
    )
    cells = f"<= 0.15 s | {missing} | <= 0.15 s | 0.125 s, met | <= 0.15 s | {missing}"
    assert f"| cold boot of 50,000 vectors | {cells} |" in page
    assert "[avx512-vnni](docs/benchmarks/avx512-vnni.md)" in page
    assert f"| avx2 | {missing} |" in page


def test_tiny_run_meets_no_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts are not those that the names of the goals say."""
    judge = load(monkeypatch, "goals").judge

    for size, expected in (("tiny", None), ("standard", True)):
        goals = judge({"boot": result_of(boot_of(0.1), size=size)})
        (boot,) = (goal for goal in goals if goal.name == "cold boot of 50,000 vectors")
        assert expected is boot.is_met


def test_part_is_written_when_it_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A part that fails later takes nothing away; other parts of the kind stay as they were."""
    report, kinds = load(monkeypatch, "report"), load(monkeypatch, "kinds")
    places, kind = kinds.Places(tmp_path), report.kind_of_cpu()
    kinds.KindResults(kind, {"boot": result_of(boot_of(0.1))}).save(places)
    options = load(monkeypatch, "harness").Options(None, None, "standard", False)
    invariance = {
        "invariance": {"texts": 3, "batches": 2, "max_difference": 0.0},
        "padding": dict.fromkeys(
            ("equal_length_padding_tokens", "mixed_padding_share",
             "mixed_padding_share_worst_batch"), 0
        ),
    }  # fmt: skip
    monkeypatch.setenv(report.COMMIT_VARIABLE, "abc")
    ran: list[str] = []

    def run(name: str, _: object) -> dict[str, Any] | None:
        ran.append(name)
        return result_of(invariance) if name == "invariance" else None

    monkeypatch.setattr(report, "run", run)
    names = ("invariance", "lanes", "defaults")
    failed = report.measure(names, options, places, 2.0, resumes=False)
    first = kinds.read_kind(places, kind)
    report.measure(names, options, places, 2.0, resumes=True)

    assert ["lanes"] == failed
    assert {"boot", "invariance"} == set(first.parts)
    assert "a processor" in places.page(kind).read_text()
    assert "0.1 s, met" in places.entry.read_text()
    # The longest part has no time left; what this commit has measured is left out.
    assert ["invariance", "lanes", "lanes"] == ran


def test_commit_is_the_same_after_a_part_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pages and results of a run do not mark the code as changed; a changed program does."""
    harness = load(monkeypatch, "harness")
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.delenv(harness.COMMIT_VARIABLE, raising=False)
    names = ("BENCHMARKS.md", "benchmarks/results/avx2.json", "node/program.py")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)

    for name in names[:2]:
        (tmp_path / name).write_text("after")
    clean = harness.commit()
    (tmp_path / names[2]).write_text("after")

    assert 12 == len(clean)
    assert f"{clean}-dirty" == harness.commit()


def test_bound_of_few_texts_is_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal answers prove little on few texts; a gain on most texts has a bound above nought."""
    bound = load(monkeypatch, "bench_cascade").lower_bound

    few, many = bound(np.zeros(50)), bound(np.zeros(5_000))
    assert few < many < 0
    assert bound(np.repeat([1.0, 0.0, -1.0], (300, 690, 10))) > 0.2
    assert bound(np.zeros(50)) == few


def test_worst_cell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The goal is judged by the worst set and count."""
    worst = load(monkeypatch, "bench_cascade").worst
    cells = {"5": {"lower_bound_points": -0.2}, "10": {"lower_bound_points": 0.1}}
    other = {"5": {"lower_bound_points": -0.4, "ece_points": 0.02}}

    found = worst({"a": {"by_score": {"adaptive": cells}}, "b": {"by_score": {"adaptive": other}}})

    assert (-0.4, "b, 5") == (found["lower_bound_points"], found["lower_bound_points_in"])
    assert (0.02, 3) == (found["ece_points"], found["cells"])


def test_every_data_set_of_a_folder_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Known sets come first; a file that is no set is left out."""
    texts = load(monkeypatch, "route_texts")
    pairs = [["where is it", "find"]]
    for name in ("zoo", "banking77", "clinc150"):
        given = {"train": pairs, "test": pairs}
        given |= {"oos_test": [["what is this", "oos"]]} if name == "zoo" else {}
        (tmp_path / f"{name}.json").write_text(json.dumps(given))
    (tmp_path / "notes.json").write_text("[]")

    assert ["clinc150", "banking77", "zoo"] == texts.names_of_sets(tmp_path)
    assert ["what is this"] == texts.read_out_of_scope(tmp_path, "zoo")
    assert [] == texts.read_out_of_scope(tmp_path, "banking77")


def test_outage_figures_are_shown_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``make outage`` and ``make chaos`` recorded is shown, failures included."""
    pages = load(monkeypatch, "pages")
    loss = {
        "p50_seconds": 0.5,
        "p95_seconds": 0.9,
        "goal_p95_seconds": 5.0,
        "queries": 1_200,
        "failed_queries": 1,
    }
    outage = pages._outage({"nodes": 3, "rounds": 20, "servers": {"redis": {"wipe": loss}}})
    chaos = pages._chaos(
        {
            "minutes": 30,
            "kind": "valkey",
            "faults": {"flush": 4},
            "sizes": {"entries": 12_000},
            "violations": ["a write is lost"],
        }
    )

    assert "| redis: wipe | 0.5 | 0.9 | <= 5 | 1,200 | 1 |" in outage
    assert "| violations | 1 |" in chaos
    assert "| entries | 12,000 |" in chaos


def test_page_names_the_run_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts may have been measured at other times, on another machine or under load."""
    result = {
        "date": "2026-11-30T21:16:59+00:00",
        "commit": "c275b707a3f4",
        "machine": {"cpu": "a processor"},
        "size": "quick",
        "load_average": {"start": 15.1, "end": 10.0},
        "note": "beside other programs",
    }
    named = load(monkeypatch, "pages")._one_run(result)

    assert named == (
        "(2026-11-30, commit c275b707a3f4, a processor, size quick, "
        "load average 15.1 to 10; beside other programs)"
    )


def test_equal_seeds_draw_equal_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal seeds draw equal utterances, other seeds others."""
    corpus = load(monkeypatch, "route_texts").generated()

    assert corpus.draw(5, 1) == corpus.draw(5, 1)
    assert corpus.draw(5, 1) != corpus.draw(5, 2)
    assert {5} == {len(texts) for texts in corpus.draw(5, 1).values()}


def test_page_and_goals_show_container_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, starts and failures have their lines, and one failure misses its goal."""
    spread = {"median": 2.5, "low": 2.1, "high": 6.0}
    row = {"rounds": 3, "seconds": 120.0, "requests_per_second": 50.0, "requests": 6000}
    row |= {"writes": 600, "failures": 1, "p50_ms": 9.0, "p99_ms": 90.0, "max_ms": 900.0}
    figures = {
        "image_mb": {"node": 310.5, "coordinator": 185.8},
        "compose": {
            "nodes": 3,
            "up_to_routed_query_seconds": 12.3,
            "back_seconds": {"kill -9 of every node container": 9.5, "down and up": 21.0},
            "lost_writes": 0,
        },
        "start_seconds": {"alone": spread, "member": spread},
        "disturbances": {"kill -9 of a node": row},
    }
    text = load(monkeypatch, "pages")._deploy(figures)
    goals = load(monkeypatch, "goals").judge_apart({"deploy": {"figures": figures}})
    judged = {goal.name: goal.is_met for goal in goals if goal.is_met is not None}

    assert "| image node | 310.5 MB |" in text
    assert "| compose, down and up, to a write that a majority holds | 21 s |" in text
    assert "| acknowledged writes lost by these | 0 |" in text
    assert "| kill -9 of a node | 3 | 120.0 | 50.0 | 6000 | 600 | 1 | 9 | 90 | 900 |" in text
    assert judged == {
        "size of the node's image": True,
        "size of the coordinator's image": True,
        "compose up to a routed query": True,
        "compose, kill -9 of every node container, to a write": True,
        "compose, down and up, to a write": False,
        "acknowledged writes lost by compose down, up and kills": True,
        "container start to ready, empty database": True,
        "failures through HAProxy, kill -9 of a node": False,
    }


FIGURES: dict[str, Any] = {
    "overload": {
        "deadline_ms": 500,
        "loads": {
            load: {
                "offered_per_second": 100 * float(load),
                "good_ms": {"p50": 10.0, "p99": 20.0},
                "goodput_of_capacity": min(float(load), 1.0),
                "late_share": 0.0,
            }
            for load in ("0.5", "1.0", "4.0")
        },
    },
    "million": {
        "sizes": {
            size: {"milliseconds_a_query": {"1": {"p50": 1.0}, "16": {"p50": 0.5}}}
            for size in ("500", "1000")
        }
    },
    "lanes": {"texts_per_second": {"2": {"1": {"median": 5.0}, "16": {"median": 9.0}}}},
    "accuracy": {
        "clinc150": {
            "routes": 150,
            "accuracy": {"adaptive": {"10": {"mean": 0.9}}, "max": {"10": {"mean": 0.8}}},
            "decisions": {
                "adaptive": {
                    "10": {
                        "answered": {"mean": 0.96},
                        "reliability_inside": [
                            {"texts": 40, "confidence": 0.55, "accuracy": 0.5},
                            {"texts": 90, "confidence": 0.95, "accuracy": 0.96},
                        ],
                    }
                }
            },
        }
    },
}


def test_plots_of_equal_figures_are_equal_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plot changes in version control only where its figures do."""
    plots = load(monkeypatch, "plots")
    results = {name: {"figures": figures} for name, figures in FIGURES.items()}

    first = plots.draw(results, tmp_path / "a")
    second = plots.draw(results, tmp_path / "b")

    assert set(plots.PLOTS) == {path.stem for path in first}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(b"<svg" in path.read_bytes() for path in first)


def test_tables_of_the_accuracy_page_are_those_of_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text around the markers stays; a page without markers is an error."""
    render = load(monkeypatch, "accuracy_page").render
    names = ("ranking", "decisions")
    empty = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in names)

    text = render(f"before\n{empty}after\n", FIGURES["accuracy"])

    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `adaptive` (default) | .900 |" in text
    assert "| CLINC150 | 10 | .960 |" in text
    assert text == render(text, FIGURES["accuracy"])
    with pytest.raises(ValueError, match="markers"):
        render("no markers", FIGURES["accuracy"])


def test_table_of_small_sets_is_that_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each set, kind and number of utterances."""
    page = load(monkeypatch, "accuracy_page")
    row = dict.fromkeys(page.SMALL, 0.5) | {"accuracy": 0.97, "sets": 12}
    empty = "before\n<!-- small sets: begin -->\nold\n<!-- small sets: end -->\nafter\n"

    text = page.render_small_sets(empty, {"clinc150": {"distinct": {"10": row}}})

    assert "| CLINC150 | distinct | 10 | .970 | .500 |" in text
    assert "old" not in text


def test_texts_are_counted_by_tenths_of_the_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reliability diagram has a point for each tenth that has texts; seeds are added up."""
    bench = load(monkeypatch, "bench_accuracy")
    sure, right = np.array([0.05, 0.91, 0.95, 1.0]), np.array([False, True, False, True])

    found = bench.summed_up({"reliability_mixed": [bench.binned(sure, right)] * 2})

    assert found["reliability_mixed"] == [
        {"texts": 2, "confidence": 0.05, "accuracy": 0.0},
        {"texts": 6, "confidence": 0.9533, "accuracy": 0.6667},
    ]


def test_plots_are_drawn_from_the_figures_present(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run of some benchmarks draws what it has."""
    plots = load(monkeypatch, "plots")

    drawn = plots.draw({"lanes": {"figures": FIGURES["lanes"]}}, tmp_path)

    assert ["lanes"] == [path.stem for path in drawn]
