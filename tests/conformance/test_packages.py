"""Wheel and source archive: what they hold, and that they work in clean environments.

The environments are outside the repository.  pip installs into them from the package index,
as a user does; only this distribution comes from the build of this tree.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

from needs import lacking
from repository import ROOT
from synaptoroute.version import __version__

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

WHEEL_BYTES_MAX = 26_000_000
"""The size that docs/installation.md and README.md state; the limit of a release is 60 MB."""
START_SECONDS_MAX = 60
"""Processor time from an empty environment to the first answer; other tests run meanwhile."""
OTHER = (
    "synaptoroute==0.4.1 --hash=sha256:"
    "c15063903c3e120a3f1d9cc8cf250eeccc67265de93c5ef0110b2260741ac4e0"
)
# A test forbids the whole word in the repository, because lock files must not have the option.
LINKS = "-".join(("find", "links"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECK = """
from importlib.metadata import version
from synaptoroute import AdaptiveRouter, Encoder, Route
router = AdaptiveRouter(Encoder())
router.add_route(Route(name="refund", utterances=["I want my money back"]))
print(version("synaptoroute-cluster"), router.query("give me my money back").route)
"""


@dataclass(frozen=True)
class Build:
    """The two files that a release uploads."""

    wheel: Path
    source: Path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build wheel and source archive of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Build(wheel, source)


def variables(folder: Path, **added: str) -> dict[str, str]:
    """Return the variables of a new user: home is empty, no module of this repository."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "SYNAPTOROUTE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    pip = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CACHE_DIR": str(ROOT / ".cache/pip")}
    return {**kept, "HOME": str(folder), **pip, **added}


def run(
    command: list[str],
    folder: Path,
    *,
    text: str | None = None,
    **added: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    finished = subprocess.run(
        command,
        cwd=folder,
        env=variables(folder, **added),
        input=text or "",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished


def from_build(build: Build, folder: Path) -> dict[str, str]:
    """Return the variables with which ``pip install synaptoroute-cluster`` takes the build.

    A constraint that names the version also admits a pre-release.  Constraints and folders that
    are configured on this machine stay in force.
    """
    constraints = folder / "constraints.txt"
    constraints.write_text(f"synaptoroute-cluster=={__version__}\n", encoding="utf-8")
    configured = {
        name: subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", f"global.{name}"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        or os.environ.get(f"PIP_{name.replace('-', '_').upper()}", "")
        for name in ("constraint", LINKS)
    }
    return {
        "PIP_CONSTRAINT": f"{configured['constraint']} {constraints}".strip(),
        "PIP_FIND_LINKS": f"{configured[LINKS]} {build.wheel.parent}".strip(),
    }


def interpreter(version: str) -> str:
    """Find a Python of this version; skip without one, in continuous integration, too."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = [sys.executable] if version == running else []
    found += [path for path in (shutil.which(f"python{version}"),) if path]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [str(each / "bin/python") for each in sorted(versions.glob(f"{version}.*"))]
    for python in found:
        asked = subprocess.run([python, "-m", "ensurepip", "--version"], capture_output=True)
        if asked.returncode == 0:
            return python
    pytest.skip(f"this machine has no Python {version}; only 3.11 is required")


def environment(python: str, folder: Path) -> Path:
    """Make an empty virtual environment; return its folder of programs."""
    run([python, "-m", "venv", str(folder / "venv")], folder)
    return folder / "venv" / "bin"


def needs_index(bin_: Path, folder: Path) -> None:
    """Skip the test if no package index answers, or fail it with ``REQUIRE_ALL=1``."""
    asked = subprocess.run(
        [str(bin_ / "pip"), "download", "--quiet", "--no-deps", "colorama", "-d", str(folder)],
        env=variables(folder),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if asked.returncode:
        lacking(f"a package index: {asked.stderr[-500:]}")


def children_seconds() -> float:
    """Return the processor time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def block(language: str, number: int = 0) -> list[str]:
    """Return the lines of a code block of README.md."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return found[number].splitlines()


def assert_shown(expected: list[str], printed: list[str]) -> None:
    """Compare words exactly, and numbers with what the arithmetic of other CPUs may change."""
    number = re.compile(r"\d\.\d\d")
    assert [number.sub("#", line) for line in expected] == [
        number.sub("#", line) for line in printed
    ]
    for shown, got in zip(
        number.findall("\n".join(expected)), number.findall("\n".join(printed)), strict=True
    ):
        assert float(shown) == pytest.approx(float(got), abs=0.03)


def test_readme_leads_to_an_answer_from_an_empty_environment(build: Build, tmp_path: Path) -> None:
    """Every line is typed as it stands there: shell commands, then lines in an interpreter."""
    bin_ = environment(sys.executable, tmp_path)
    needs_index(bin_, tmp_path)
    shell = {"PATH": f"{bin_}:{os.environ['PATH']}", **from_build(build, tmp_path)}
    before = children_seconds()
    for line in block("sh"):
        run(["bash", "-c", line], tmp_path, **shell)
    lines = "\n".join([*block("python"), "", ""])
    typed = run([str(bin_ / "python"), "-i", "-q"], tmp_path, text=lines)
    seconds = children_seconds() - before
    # An interpreter also shows the value of each expression.
    printed = [line for line in typed.stdout.splitlines() if not line.startswith("WriteResult(")]

    assert_shown(block("text"), printed)
    assert seconds <= START_SECONDS_MAX
    assert not list(tmp_path.glob("*.sqlite"))

    install, start = block("sh", 1)
    run(["bash", "-c", install], tmp_path, **shell)
    shown = run(["bash", "-c", start], tmp_path, **shell, COLUMNS="200").stdout
    questions = [re.split(r"\s{2,}", line.strip()) for line in block("text", 1)]
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    for question in questions:
        (row,) = [row for row in rows if row[0] == question[0]]
        assert_shown(question, row)


@pytest.mark.parametrize(("version", "kind"), [("3.12", "wheel"), ("3.13", "source")])
def test_package_works_with_other_versions_of_python(
    version: str, kind: str, build: Build, tmp_path: Path
) -> None:
    """The classifiers name no version that was not tried."""
    if kind == "wheel" and sys.version_info[:2] == (3, 12):
        version = "3.11"
    bin_ = environment(interpreter(version), tmp_path)
    needs_index(bin_, tmp_path)
    pip = [str(bin_ / "pip"), "install", "--no-compile"]
    run([*pip, str(getattr(build, kind))], tmp_path)
    answered = run([str(bin_ / "python"), "-W", "error::SyntaxWarning", "-c", CHECK], tmp_path)
    command = run([str(bin_ / "synaptoroute"), "--version"], tmp_path)

    assert f"{__version__} refund" == answered.stdout.strip()
    assert __version__ in command.stdout


def test_wheel_holds_the_packages_and_nothing_else(build: Build) -> None:
    """Type marker, pages of the dashboard, scripts, licences; no tests."""
    with zipfile.ZipFile(build.wheel) as archive:
        names = set(archive.namelist())
    info = f"synaptoroute_cluster-{__version__}.dist-info"
    assets = {
        f"synaptoroute_coordinator/assets/{path.name}"
        for path in (ROOT / "coordinator/synaptoroute_coordinator/assets").iterdir()
    }
    tops = {name.split("/")[0] for name in names}

    assert {"synaptoroute", "synaptoroute_coordinator", info} == tops
    assert names >= {
        "synaptoroute/py.typed",
        "synaptoroute/examples/routes.yaml",
        "synaptoroute/sequencer/append.lua",
        "synaptoroute/storage/schema.sql",
        "synaptoroute/encoder/data/all-MiniLM-L6-v2/fitted.table",
        "synaptoroute/encoder/data/all-MiniLM-L6-v2/static.table",
        f"{info}/licenses/LICENSE",
        f"{info}/licenses/NOTICE",
        *assets,
    }
    assert not [
        name for name in names - assets if re.search(r"(^|/)(tests?|conftest)(/|\.)|\.pyc$", name)
    ]
    assert build.wheel.stat().st_size <= WHEEL_BYTES_MAX
    assert build.source.stat().st_size <= WHEEL_BYTES_MAX


def test_source_archive_builds_the_same_wheel(build: Build, tmp_path: Path) -> None:
    with tarfile.open(build.source) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    built = tmp_path / "built"
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)], tree)
    (again,) = built.glob("*.whl")

    assert build.wheel.read_bytes() == again.read_bytes()


def test_metadata_has_addresses_and_a_readme_that_stands_alone(build: Build) -> None:
    """A package index shows README.md without the repository around it."""
    with zipfile.ZipFile(build.wheel) as archive:
        text = archive.read(f"synaptoroute_cluster-{__version__}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    labels = {line.split(",")[0] for line in metadata.get_all("Project-URL", [])}
    links = re.findall(r"\]\(([^)\s]+)\)", text.partition("\n\n")[2])

    assert {"Documentation", "Source", "Issues", "Changelog"} <= labels
    assert links
    assert [] == [link for link in links if not re.match(r"https://|#", link)]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_other_synaptoroute_is_detected_at_import(first: str, build: Build, tmp_path: Path) -> None:
    """Whichever came first, the error names both and its commands repair the environment."""
    bin_ = environment(sys.executable, tmp_path)
    needs_index(bin_, tmp_path)
    requirements = tmp_path / "other.txt"
    requirements.write_text(f"{OTHER}\n", encoding="utf-8")
    pip = [str(bin_ / "python"), "-m", "pip", "install", "--no-deps"]
    installs = [[*pip, str(build.wheel)], [*pip, "--require-hashes", "-r", str(requirements)]]
    for command in installs if first == "ours" else reversed(installs):
        run(command, tmp_path)
    failures = {
        name: import_fails(bin_, tmp_path, name)
        for name in ("synaptoroute", "synaptoroute.router", "synaptoroute_coordinator.cli")
    }
    failures["command"] = command_fails(bin_, tmp_path)

    for name, error in failures.items():
        assert "ConflictingInstallation" in error, (name, error)
        assert '"synaptoroute" 0.4.1 is another project' in error, (name, error)

    repair = re.findall(r"^ +python -m (pip .*)$", failures["command"], re.MULTILINE)
    assert 2 == len(repair)
    run([str(bin_ / "python"), "-m", *repair[0].split()], tmp_path)
    # Removing the other one took files of ours along.
    assert "are missing" in command_fails(bin_, tmp_path)
    run([str(bin_ / "python"), "-m", *repair[1].split()], tmp_path, **from_build(build, tmp_path))
    run([str(bin_ / "python"), "-c", "import synaptoroute.errors"], tmp_path)


def import_fails(bin_: Path, folder: Path, module: str) -> str:
    """Import a module in an environment without dependencies; return the traceback."""
    return fails([str(bin_ / "python"), "-c", f"import {module}"], folder)


def command_fails(bin_: Path, folder: Path) -> str:
    """Run the command line in an environment without dependencies; return the traceback."""
    return fails([str(bin_ / "synaptoroute"), "--version"], folder)


def fails(command: list[str], folder: Path) -> str:
    finished = subprocess.run(
        command, cwd=folder, env=variables(folder), capture_output=True, text=True, timeout=60
    )
    assert finished.returncode != 0
    return finished.stderr
