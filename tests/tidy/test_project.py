"""The project's own files: dependencies, locks, configuration, continuous integration."""

from __future__ import annotations

import os
import re
import tomllib

import pytest
import yaml

from repository import ROOT, files, name_of

pytestmark = pytest.mark.tidy

# Names of distributions whose import or package name is written differently.
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)", re.MULTILINE)
_LISTED = re.compile(r'^\s*"([A-Za-z0-9][\w.-]*)[^"]*",?\s*(?:#\s*(\S.*))?$')


def pins(name: str) -> dict[str, str]:
    """Package to version of a locked requirements file."""
    return dict(_PIN.findall((ROOT / "requirements" / name).read_text(encoding="utf-8")))


def test_every_dependency_says_what_it_is_for() -> None:
    """A line of `dependencies` without a reason is a line that nobody can judge."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("\ndependencies = [\n")[2].partition("\n]")[0]
    listed = [match.groups() for line in block.splitlines() if (match := _LISTED.match(line))]
    unexplained = [name for name, reason in listed if not reason]

    assert len(tomllib.loads(text)["project"]["dependencies"]) == len(listed)
    assert [] == unexplained


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_lock_has_a_hash_for_every_pin(name: str) -> None:
    """What is installed is what was compiled, byte for byte."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    unhashed = [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block]

    assert len(blocks) > 30
    assert [] == unhashed


def test_lock_names_no_place() -> None:
    """A lock says what, never where from."""
    found = [
        f"{path.name}: {line}"
        for path in (ROOT / "requirements").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "://" in line or line.startswith("-") or " @ " in line
    ]

    assert [] == found


def test_what_is_tested_is_what_runs() -> None:
    """Each pin of run.txt is also in dev.txt, so the tests run on what users get."""
    run, dev = pins("run.txt"), pins("dev.txt")

    assert run == {name: dev.get(name) for name in run}


def test_lock_holds_every_dependency() -> None:
    """A dependency that is not in the lock was added without `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in wanted}
    developers = {
        re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-")
        for line in project["dependency-groups"]["dev"]
    }

    assert set() == names - pins("run.txt").keys()
    assert set() == (names | developers) - pins("dev.txt").keys()


def test_configuration_files_can_be_read() -> None:
    """TOML and YAML parse; templates of the chart are rendered by their own tests."""
    for path in files():
        text = path.read_bytes()
        if path.suffix == ".toml":
            tomllib.loads(text.decode())
        elif path.suffix in {".yaml", ".yml"} and "templates" not in path.parts:
            assert list(yaml.safe_load_all(text)), name_of(path)


def test_workflow_only_calls_the_script() -> None:
    """Continuous integration can be run anywhere, because the workflow holds none of it."""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]

    assert [".ci/run"] == commands


def test_workflow_covers_every_python_that_is_promised() -> None:
    """The matrix is the list of the classifiers."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", text)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))

    assert promised == workflow["jobs"]["run"]["strategy"]["matrix"]["python"]


def test_scripts_can_be_executed() -> None:
    """What begins with a shebang has its executable bit."""
    stuck = [
        name_of(path)
        for path in files()
        if path.read_bytes()[:3] == b"#!/" and not os.access(path, os.X_OK)
    ]

    assert [] == stuck
