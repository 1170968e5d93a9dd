"""Detection of another distribution that installs the same package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import synaptoroute
from synaptoroute.installation import check_installation, find_conflict

pytestmark = pytest.mark.unit


def test_this_installation_has_no_conflict() -> None:
    assert find_conflict(synaptoroute, str(Path(synaptoroute.__file__).parent.parent)) is None
    check_installation()


@pytest.mark.parametrize("name", ["synaptoroute-0.4.1.dist-info", "synaptoroute-0.4.1.egg-info"])
def test_metadata_of_the_other_distribution_is_a_conflict(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "synaptoroute_cluster-1.0.0.dist-info").mkdir()

    assert '"synaptoroute" 0.4.1' in (find_conflict(synaptoroute, str(tmp_path)) or "")


def test_own_metadata_is_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "synaptoroute_cluster-1.0.0.dist-info").mkdir()
    (tmp_path / "synaptoroute_client-1.0.0.dist-info").mkdir()

    assert find_conflict(synaptoroute, str(tmp_path)) is None


@pytest.mark.parametrize("package", [None, SimpleNamespace(__version__="0.4.1")])
def test_foreign_or_missing_package_is_a_conflict(package: object, tmp_path: Path) -> None:
    """After the other distribution was removed, the package has no ``__init__`` at all."""
    assert "are missing" in (find_conflict(package, str(tmp_path)) or "")
