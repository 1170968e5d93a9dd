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
    """Return the version of each package in a lock file."""
    return dict(_PIN.findall((ROOT / "requirements" / name).read_text(encoding="utf-8")))


def test_every_dependency_has_a_reason() -> None:
    """Each line of `dependencies` has a comment that says what the package is for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.partition("\ndependencies = [\n")[2].partition("\n]")[0]
    listed = [match.groups() for line in block.splitlines() if (match := _LISTED.match(line))]
    unexplained = [name for name, reason in listed if not reason]

    assert len(tomllib.loads(text)["project"]["dependencies"]) == len(listed)
    assert [] == unexplained


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_lock_has_a_hash_for_every_pin(name: str) -> None:
    """Installed packages are verified byte for byte."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    unhashed = [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block]

    assert len(blocks) > 30
    assert [] == unhashed


def test_lock_names_no_package_index() -> None:
    """A lock file names packages and versions, not where they come from."""
    found = [
        f"{path.name}: {line}"
        for path in (ROOT / "requirements").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "://" in line or line.startswith("-") or " @ " in line
    ]

    assert [] == found


def test_run_lock_is_part_of_the_dev_lock() -> None:
    """Tests run with the versions that users install."""
    run, dev = pins("run.txt"), pins("dev.txt")

    assert run == {name: dev.get(name) for name in run}


def test_lock_holds_every_dependency() -> None:
    """`make lock` adds new dependencies to the lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in wanted}
    developers = {
        re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-")
        for line in project["dependency-groups"]["dev"]
    }

    assert set() == names - pins("run.txt").keys()
    assert set() == (names | developers) - pins("dev.txt").keys()


def test_configuration_files_parse() -> None:
    """Templates of the chart are rendered by their own tests."""
    for path in files():
        text = path.read_bytes()
        if path.suffix == ".toml":
            tomllib.loads(text.decode())
        elif path.suffix in {".yaml", ".yml"} and "templates" not in path.parts:
            assert list(yaml.safe_load_all(text)), name_of(path)


def test_workflow_only_calls_ci_run() -> None:
    """Continuous integration runs the same on a laptop."""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]

    assert [".ci/run"] == commands


def test_workflow_covers_every_supported_python() -> None:
    """The matrix lists the versions of the classifiers."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", text)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))

    assert promised == workflow["jobs"]["run"]["strategy"]["matrix"]["python"]


def test_scripts_are_executable() -> None:
    """Files with a shebang have the executable bit."""
    stuck = [
        name_of(path)
        for path in files()
        if path.read_bytes()[:3] == b"#!/" and not os.access(path, os.X_OK)
    ]

    assert [] == stuck


def test_release_publishes_without_a_long_lived_key() -> None:
    """The index trusts one job of the workflow; no other job of the package may publish."""
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    publish, package = jobs["publish"], jobs["package"]
    uses = {name: [step.get("uses", "") for step in job["steps"]] for name, job in jobs.items()}

    assert {"id-token": "write"} == publish["permissions"]
    assert "pypi" == publish["environment"]
    assert "package" in publish["needs"]
    assert "write" == package["permissions"]["attestations"]
    assert any(each.startswith("actions/attest-build-provenance@") for each in uses["package"])
    assert "password" not in str(publish)
    assert ["publish"] == [
        name
        for name, each in uses.items()
        if any("gh-action-pypi-publish" in used for used in each)
    ]
