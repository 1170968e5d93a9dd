"""The JavaScript client: built, packed, type-checked, and run against a real cluster."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from node_cluster import StartCluster
from npm import install, run_node, run_npm
from repository import ROOT
from synaptoroute.version import __version__

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SOURCE = ROOT / "clients" / "js"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, installed from its lock and built."""
    folder = tmp_path_factory.mktemp("js") / "client"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    install(folder)
    run_npm(folder, "run", "build")
    return folder


def test_client_passes_its_tests_on_a_cluster(package: Path, start_cluster: StartCluster) -> None:
    """Two nodes; the last test kills one of them under load."""
    cluster = start_cluster(nodes=2)
    tests = sorted(str(path) for path in (package / "tests").glob("*.test.js"))
    done = run_node(
        ["--test", "--test-reporter=tap", *tests],
        package,
        {
            "SYNAPTOROUTE_TEST_URLS": ",".join(each.process.url for each in cluster.members),
            "SYNAPTOROUTE_TEST_PID": str(cluster[1].process.pid),
        },
    )
    counts = dict(re.findall(r"^# (tests|pass|fail|skipped) (\d+)$", done.stdout, re.MULTILINE))

    assert done.returncode == 0, done.stdout
    assert int(counts["pass"]) >= 29, done.stdout
    assert counts["fail"] == "0"
    assert not cluster[1].process.is_running
    cluster.judge([cluster[0]])


def test_published_package_is_small_typed_and_complete(package: Path, tmp_path: Path) -> None:
    """Its example in the README compiles strictly against the packed files, and runs."""
    packed = json.loads(run_npm(package, "pack", "--json", "--pack-destination", str(tmp_path)))
    files = {each["path"] for each in packed[0]["files"]}
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    document = {"name": "consumer", "version": "1.0.0", "private": True, "type": "module"}
    (consumer / "package.json").write_text(json.dumps(document))
    run_npm(consumer, "install", "--offline", str(tmp_path / packed[0]["filename"]))
    readme = (SOURCE / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```ts\n(.*?)```", readme, re.DOTALL)
    (consumer / "example.ts").write_text(example)
    options = "--strict --target ES2022 --module NodeNext --lib ES2022,DOM --noEmit"
    compiled = run_node(
        [str(package / "node_modules/typescript/bin/tsc"), *options.split(), "example.ts"],
        consumer,
    )
    program = "const { Client } = await import('@synaptoroute/client'); new Client('http://a');"
    ran = run_node(["--input-type=module", "--eval", program], consumer)

    assert {"package.json", "README.md", "LICENSE", "dist/index.js", "dist/index.d.ts"} <= files
    assert [] == sorted(each for each in files if each.startswith(("src", "tests", "node_modules")))
    assert packed[0]["unpackedSize"] < 100_000
    assert (0, "") == (compiled.returncode, compiled.stdout)
    assert (0, "") == (ran.returncode, ran.stderr)


def test_package_says_what_it_is() -> None:
    package = json.loads((SOURCE / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((SOURCE / "package-lock.json").read_text(encoding="utf-8"))
    version = re.sub(r"\.dev(\d+)$", r"-dev.\1", __version__)

    assert (version, version) == (package["version"], lock["version"])
    assert "dependencies" not in package
    assert "module" == package["type"]
    assert (SOURCE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert [] == [name for name, each in lock["packages"].items() if "resolved" in each], (
        "a lock file names no registry"
    )
