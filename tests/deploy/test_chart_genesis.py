"""The chart gives the founding voters their keys, and pins them in a genesis."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from charts import (
    HELMS,
    Manifest,
    environment,
    left,
    named,
    owned,
    pick,
    pods,
    render,
    render_in,
)
from synaptoroute.config import ClusterConfig
from synaptoroute.replication.incarnation import open_identity
from synaptoroute.trust.genesis import read_genesis
from synaptoroute.trust.identity import NodeIdentity

pytestmark = pytest.mark.deploy

NAME = "rel-synaptoroute"
FOLDER = "/run/secrets/synaptoroute"
VARIABLE = "SYNAPTOROUTE_INITIAL_IDENTITY_KEY_FILE"
OWN = {"trust.genesis.existingSecret": "my-voters"}


def pod(objects: list[Manifest], component: str = "node") -> Manifest:
    label = "app.kubernetes.io/component"
    return next(spec for _, labels, spec in pods(objects) if labels[label] == component)


def mount(spec: Manifest, name: str) -> Manifest:
    return next(each for each in spec["containers"][0]["volumeMounts"] if each["name"] == name)


def volume(spec: Manifest, name: str) -> Manifest:
    found: Manifest = next(each for each in spec["volumes"] if each["name"] == name)["secret"]
    return found


def secrets_of_voters(objects: list[Manifest]) -> list[Manifest]:
    return [each for each in named(objects, "Secret") if "genesis.json" in each["data"]]


def is_pinned(objects: list[Manifest]) -> bool:
    """Whether the nodes get a genesis; then coordinators do, too."""
    told = environment(objects, pod(objects)) | environment(objects, pod(objects, "coordinator"))
    found = {name for name in told if "GENESIS" in name or name == VARIABLE}
    names = {"SYNAPTOROUTE_GENESIS_FILE", "SYNAPTOROUTE_COORDINATOR_GENESIS_FILE", VARIABLE}
    assert found in (set(), names)
    return bool(found)


def unpack(secret: Manifest, folder: Path) -> None:
    for name, text in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(text))


@pytest.mark.parametrize("major", HELMS)
def test_genesis_pins_the_keys_of_the_founders(major: str, tmp_path: Path) -> None:
    objects = render({"node.replicaCount": 5, "node.bootstrapExpect": 3}, major=major)
    unpack(pick(objects, "Secret", "-identities"), tmp_path)
    keys = read_genesis(tmp_path / "genesis.json", "default")

    assert [f"{NAME}-{ordinal}" for ordinal in range(3)] == list(keys)
    (tmp_path / "data").mkdir()
    for name, key in keys.items():
        config = ClusterConfig(initial_identity_key_file=tmp_path / f"{name}.key")
        assert key == open_identity(config, str(tmp_path / "data" / f"{name}.sqlite")).public_key
        assert key == NodeIdentity.load(tmp_path / f"{name}.key").public_key


def test_genesis_is_of_the_namespace_of_the_log(tmp_path: Path) -> None:
    unpack(pick(render({"logNamespace": "other"}), "Secret", "-identities"), tmp_path)

    assert 3 == len(read_genesis(tmp_path / "genesis.json", "other"))


def test_pod_sees_no_key_but_its_own() -> None:
    objects = render()
    node, coordinator = pod(objects), pod(objects, "coordinator")
    identity, items = mount(node, "identity"), volume(node, "identity")["items"]

    assert "$(POD_NAME)" == identity["subPathExpr"]
    assert environment(objects, node)[VARIABLE] == f"{identity['mountPath']}/identity.key"
    expected = [(f"{NAME}-{n}.key", f"{NAME}-{n}/identity.key") for n in range(3)]
    assert expected == [(each["key"], each["path"]) for each in items]
    for spec in (node, coordinator):
        assert ["genesis.json"] == [each["key"] for each in volume(spec, "genesis")["items"]]
        assert f"{FOLDER}/genesis" == mount(spec, "genesis")["mountPath"]
    for _, labels, spec in pods(objects):
        if labels["app.kubernetes.io/component"] != "node":
            assert "identity" not in [each["name"] for each in spec.get("volumes", [])]


def test_own_secret_is_used_and_none_is_made() -> None:
    objects = render({**OWN, "signing.existingSecret": "keys"})

    assert is_pinned(objects)
    assert [] == [
        each for each in named(objects, "Secret") if "identities" in each["metadata"]["name"]
    ]
    for name in ("genesis", "identity"):
        assert "my-voters" == volume(pod(objects), name)["secretName"]
    # Nodes that have keys need none in the Secret; the genesis must be there.
    assert volume(pod(objects), "identity")["optional"] is True
    assert "optional" not in volume(pod(objects), "genesis")


@pytest.mark.parametrize(
    "changes",
    [
        {"trust.genesis.enabled": False},
        {"signing.create": False},
        {"signing.existingSecret": "keys"},
    ],
    ids=str,
)
def test_voters_are_not_pinned(changes: dict[str, Any]) -> None:
    objects = render(changes)

    assert not is_pinned(objects)
    assert "identity" not in [each["name"] for each in pod(objects)["volumes"]]


@pytest.mark.parametrize("major", HELMS)
def test_upgrade_keeps_keys_and_genesis(major: str) -> None:
    first = owned(pick(render(major=major), "Secret", "-identities"))
    options = ("--is-upgrade", "--set", "node.replicaCount=5")
    stateful = left("StatefulSet", NAME)
    stateful["metadata"]["annotations"]["synaptoroute.io/bootstrap-expect"] = "3"
    objects = render_in([first, stateful], *options, major=major)

    assert is_pinned(objects)
    assert not secrets_of_voters(objects), "it is there already"
    assert 3 == len(volume(pod(objects), "identity")["items"])


@pytest.mark.parametrize("is_own", [False, True])
def test_pinned_voters_found_the_log_of_a_new_installation(is_own: bool) -> None:
    """Nobody else can, however many nodes there are."""
    kept = owned(pick(render(), "Secret", "-identities"))
    options = ["--set", "node.replicaCount=5"]
    if is_own:
        kept["metadata"] = {"name": "my-voters"}
        options += ["--set", "trust.genesis.existingSecret=my-voters"]
    objects = render_in([kept], *options)

    assert not secrets_of_voters(objects)
    assert "3" == environment(objects, pod(objects))["SYNAPTOROUTE_BOOTSTRAP_EXPECT"]
    assert 3 == len(volume(pod(objects), "identity")["items"])


def test_release_stays_pinned_when_its_cluster_secret_moves() -> None:
    kept = owned(pick(render(), "Secret", "-identities"))
    moved = ("--is-upgrade", "--set", "signing.existingSecret=keys")
    objects = render_in([kept], *moved)

    assert is_pinned(objects)
    assert not secrets_of_voters(objects)
    assert not is_pinned(render_in([kept], *moved, "--set", "trust.genesis.enabled=false"))


@pytest.mark.parametrize("major", HELMS)
def test_new_release_is_pinned_and_an_upgraded_one_is_not(major: str) -> None:
    assert is_pinned(render_in([], major=major))
    assert not is_pinned(render_in([], "--is-upgrade", major=major))
    secret = ("--set", "trust.genesis.existingSecret=my-voters")
    assert is_pinned(render_in([], "--is-upgrade", *secret, major=major))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("StatefulSet", NAME),
        ("Secret", f"{NAME}-cluster-secret"),
        ("PersistentVolumeClaim", f"data-{NAME}-0"),
        ("PersistentVolumeClaim", f"data-{NAME}-redis-0"),
    ],
)
def test_what_an_earlier_release_has_left_keeps_its_voters(kind: str, name: str) -> None:
    """Its nodes have keys in their volumes, which no new genesis could name."""
    assert not is_pinned(render_in([left(kind, name)]))


def test_genesis_of_helm_is_plain_json(tmp_path: Path) -> None:
    unpack(pick(render(), "Secret", "-identities"), tmp_path)
    document = json.loads((tmp_path / "genesis.json").read_text())

    assert {"namespace", "voters"} == document.keys()
    assert all(text.startswith("-----BEGIN CERTIFICATE") for text in document["voters"].values())
