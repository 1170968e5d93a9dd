"""Route folders on the disk: what is kept, what is refused, and archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.set_files import read_folders, tar_of, write_folders
from synaptoroute.importers.folder import RouteFolder, SetFolders
from synaptoroute.models import Route

pytestmark = pytest.mark.unit

REFUNDS = Route(name="refunds", utterances=["I want my money back"])
SIGN_IN = Route(name="sign-in", utterances=["let me in"])


def folders(*routes: Route, tests: dict[str, str | None] | None = None) -> SetFolders:
    return SetFolders([RouteFolder(routes=list(routes), settings={"topk": 3}, tests=tests)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_folder_reads_back(tmp_path: Path) -> None:
    given = folders(REFUNDS, SIGN_IN, tests={"let me": "sign-in"})
    changes = write_folders(tmp_path / "new" / "folder", given, prune=False)
    (found,) = read_folders(tmp_path / "new" / "folder").sets

    assert (4, 0, ()) == (len(changes.written), changes.kept, changes.removed)
    assert (given.sets[0].routes, given.sets[0].tests) == (found.routes, found.tests)


def test_files_with_equal_content_keep_their_bytes(tmp_path: Path) -> None:
    """Comments, names and the order of texts that people chose."""
    own = "# ours\nname: refunds\nutterances: [I want my money back]\n"
    (tmp_path / "money.yml").write_text(own, encoding="utf-8")
    (tmp_path / "settings.yml").write_text("topk: 3 # three\n", encoding="utf-8")
    changes = write_folders(tmp_path, folders(REFUNDS, SIGN_IN), prune=False)

    assert ({"sign-in.yaml"}, 2) == (set(changes.written), changes.kept)
    assert own == (tmp_path / "money.yml").read_text(encoding="utf-8")
    assert ["money.yml", "settings.yml", "sign-in.yaml"] == names(tmp_path)


def test_changed_route_is_written_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "money.yaml").write_text("name: refunds\nutterances: [old]\n", encoding="utf-8")
    write_folders(tmp_path, folders(REFUNDS), prune=False)

    assert ["money.yaml", "settings.yaml"] == names(tmp_path)
    assert "money back" in (tmp_path / "money.yaml").read_text(encoding="utf-8")


def test_other_files_are_removed_with_prune_alone(tmp_path: Path) -> None:
    write_folders(tmp_path, folders(REFUNDS, SIGN_IN, tests={"x": None}), prune=False)
    (tmp_path / "README.md").write_text("ours", encoding="utf-8")
    with pytest.raises(FileRejected, match=r"sign-in\.yaml, tests\.yaml; --prune removes them"):
        write_folders(tmp_path, folders(REFUNDS), prune=False)
    assert ["README.md", "refunds.yaml", "settings.yaml", "sign-in.yaml", "tests.yaml"] == names(
        tmp_path
    )

    changes = write_folders(tmp_path, folders(REFUNDS), prune=True)
    assert ("sign-in.yaml", "tests.yaml") == changes.removed
    assert ["README.md", "refunds.yaml", "settings.yaml"] == names(tmp_path)


def test_file_of_another_route_is_not_overwritten(tmp_path: Path) -> None:
    """Its name may be the one that a new route would get."""
    (tmp_path / "sign-in.yaml").write_text("name: login\nutterances: [x]\n", encoding="utf-8")
    login = Route(name="login", utterances=["x"])
    write_folders(tmp_path, folders(login, SIGN_IN), prune=False)
    (found,) = read_folders(tmp_path).sets

    assert ["login", "sign-in"] == [route.name for route in found.routes]


def test_folder_with_mistakes_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\n", encoding="utf-8")
    with pytest.raises(FileRejected, match=r"a\.yaml"):
        write_folders(tmp_path, folders(REFUNDS), prune=True)

    assert ["a.yaml"] == names(tmp_path)


def test_archives_are_read(tmp_path: Path) -> None:
    given = folders(REFUNDS, SIGN_IN)
    body = tar_of(given)
    (tmp_path / "set.tar").write_bytes(body)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("refunds.yaml", "name: refunds\nutterances: [a]\n")

    assert body == tar_of(folders(REFUNDS, SIGN_IN))
    assert given.sets[0].routes == read_folders(tmp_path / "set.tar").sets[0].routes
    assert ["refunds"] == [each.name for each in read_folders(tmp_path / "set.zip").sets[0].routes]


@pytest.mark.parametrize("cut", [600, 1_000])
def test_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(tar_of(folders(REFUNDS))[:cut])
    with pytest.raises(FileRejected) as caught:
        read_folders(path)

    assert "file_syntax" == caught.value.code


def test_links_of_an_archive_are_not_followed(tmp_path: Path) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        link = tarfile.TarInfo("refunds.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "set.tar").write_bytes(output.getvalue())
    with pytest.raises(FileRejected) as caught:
        read_folders(tmp_path / "set.tar")

    assert "file_empty" == caught.value.code


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text("routes: []\n", encoding="utf-8")
    with pytest.raises(FileRejected) as caught:
        read_folders(tmp_path / "routes.yaml")

    assert "unknown_format" == caught.value.code
