"""The GitHub Action and the pre-commit hooks for users' route files, in a user's repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ports import free_port
from repository import QUERIES, ROOT, ROUTES
from synaptoroute.cli.processes import NodeProcess

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
CONTRADICTION = """
version: 1
routes:
  - {name: one, utterances: [Where is my order?]}
  - {name: two, utterances: [Where is my order?]}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of a user: a route file and labelled queries."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "routes.yaml").write_bytes(ROUTES.read_bytes())
    (folder / "queries.txt").write_bytes(QUERIES.read_bytes())
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a runner, into which the first run installs."""
    return tmp_path_factory.mktemp("runner")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def evaluated(text: str, values: dict[str, str]) -> str:
    """Replace the expressions of a step: inputs only."""
    for name, value in values.items():
        text = text.replace(f"${{{{ inputs.{name} }}}}", value)
    assert "${{" not in text, text
    return text


def run_action(repository: Path, runner: Path, **inputs: str) -> tuple[list[str], int]:
    """Run the steps of the action as a runner does; return those that ran and the last status.

    The package is this tree, installed without its dependencies, which the environment of the
    tests has already.
    """
    defaults = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
    values = {**defaults, **{name.replace("_", "-"): each for name, each in inputs.items()}}
    ran, status = [], 0
    for step in ACTION["runs"]["steps"]:
        if "run" not in step or not holds(step, values):
            continue
        if step["name"] == "Install" and (runner / "synaptoroute/bin/synaptoroute").exists():
            ran.append("Install")
            continue
        variables = {name: evaluated(text, values) for name, text in step["env"].items()}
        variables |= {name: str(runner / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=repository,
            env={**environment(runner), **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        ran.append(step["name"])
        status = done.returncode
        if status:
            break
    return ran, status


def holds(step: dict[str, Any], values: dict[str, str]) -> bool:
    """Evaluate a condition of the form ``inputs.NAME != ''``."""
    condition = step.get("if")
    if condition is None:
        return True
    name, operator, empty = condition.split()
    assert (operator, empty) == ("!=", "''")
    return bool(values[name.removeprefix("inputs.")])


def environment(runner: Path) -> dict[str, str]:
    """Return variables under which a new environment sees the libraries of this one."""
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(runner),
        "RUNNER_TEMP": str(runner),
        "PYTHONPATH": libraries,
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_IGNORE_INSTALLED": "1",
    }


def test_action_checks_the_route_file(repository: Path, runner: Path) -> None:
    """Good routes pass, and an accuracy out of reach fails."""
    steps = ["Install", "Lint", "Evaluate"]
    given = {"package": str(ROOT), "queries": "queries.txt", "strict": "false"}

    assert (steps, 0) == run_action(repository, runner, min_accuracy="0.8", **given)
    assert (steps, 1) == run_action(repository, runner, min_accuracy="1.0", **given)


def test_action_runs_no_text_of_an_input(repository: Path, runner: Path) -> None:
    """A pull request may choose the name of a file."""
    name = "$(touch stolen); touch stolen #.yaml"
    (repository / name).write_text(CONTRADICTION, encoding="utf-8")
    ran, status = run_action(repository, runner, package=str(ROOT), routes=name)

    assert (["Install", "Lint"], 1) == (ran, status)
    assert not list(repository.glob("stolen*"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    settings = {"database": str(tmp_path / "node.sqlite")}
    process = NodeProcess(free_port(), settings, tmp_path / "node.log")
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def test_action_plans_and_applies_a_folder(
    repository: Path, runner: Path, node: NodeProcess
) -> None:
    """A pull request gets the plan as a comment; the main branch applies it."""
    shutil.copytree(ROOT / "examples/support", repository / "support")
    given = {
        "package": str(ROOT),
        "routes": "support",
        "min_accuracy": "0.9",
        "url": node.url,
        "note": "$(touch stolen)",
    }
    steps = ["Install", "Lint", "Evaluate", "Plan", "Apply"]

    assert (steps, 0) == run_action(repository, runner, **given)
    outputs = dict(
        line.split("=", 1) for line in (runner / "GITHUB_OUTPUT").read_text().splitlines()
    )
    assert "true" == outputs["changes"]
    assert "+ route refunds" in Path(outputs["comment-file"]).read_text()
    assert "+ route refunds" in (runner / "GITHUB_STEP_SUMMARY").read_text()
    assert [] == httpx.get(f"{node.url}/v1/routes").json()["routes"]

    assert (steps, 0) == run_action(repository, runner, apply="true", **given)
    assert 4 == len(httpx.get(f"{node.url}/v1/routes").json()["routes"])
    assert not list(repository.glob("stolen*"))
    run_action(repository, runner, **{**given, "min_accuracy": ""})
    assert "changes=false" in (runner / "GITHUB_OUTPUT").read_text()


def test_action_fails_without_a_node(repository: Path, runner: Path) -> None:
    shutil.copytree(ROOT / "examples/support", repository / "support")
    given = {"package": str(ROOT), "routes": "support", "url": f"http://127.0.0.1:{free_port()}"}

    assert (["Install", "Lint", "Plan"], 1) == run_action(repository, runner, **given)


def test_hooks_check_the_route_file(repository: Path, tmp_path: Path) -> None:
    """As `pre-commit` runs them from the repository of this project."""

    def run_hook(hook: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pre_commit", "try-repo", str(ROOT), hook, *arguments],
            cwd=repository,
            env={**environment(tmp_path), "PRE_COMMIT_HOME": str(tmp_path / "hooks")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    status, printed = run_hook("synaptoroute-lint", "--all-files")
    assert 0 == status, printed
    assert "Passed" in printed
    (repository / "routes.yaml").write_text(CONTRADICTION, encoding="utf-8")
    status, printed = run_hook("synaptoroute-lint", "--files", "routes.yaml")
    assert 1 == status, printed
    assert "same-utterance" in printed


def test_hooks_name_commands_that_exist() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    commands = {hook["id"]: hook["entry"].split()[1:] for hook in hooks}

    assert {
        "synaptoroute-lint": ["routes", "lint"],
        "synaptoroute-evaluate": ["evaluate"],
        "synaptoroute-lint-folder": ["routes", "lint"],
        "synaptoroute-plan": ["plan"],
    } == commands
