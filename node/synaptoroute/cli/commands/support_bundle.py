"""``synaptoroute support-bundle``: one archive for whoever helps with a problem."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from synaptoroute.cli.commands import doctor
from synaptoroute.cli.commands.serve import read_settings
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import note, print_json, print_line, waiting
from synaptoroute.errors import ConfigError

if TYPE_CHECKING:
    from synaptoroute.cli import support
    from synaptoroute.config import NodeConfig

OWN_CHECKS: Final = frozenset({"python", "packages", "sqlite", "cpu limit", "cpu flags"})
"""Checks whose findings hold only what this program says."""


def support_bundle(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, show_default=False, help="File to write; must be new."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    database: Annotated[
        Path | None,
        typer.Option(
            "--database",
            dir_okay=False,
            show_default=False,
            help="Database of a node on this machine, running or not.",
        ),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Log file whose end is added; can be repeated.",
        ),
    ] = None,
    names: Annotated[
        bool,
        typer.Option("--names", help="Keep names of routes, sets, nodes and keys, and addresses."),
    ] = False,
    seconds_max: Annotated[
        float,
        typer.Option("--seconds", min=1.0, max=3600.0, help="Longest time to collect."),
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Collect state, settings, metrics and checks of nodes and of this machine in one archive.

    It holds no secrets and no texts: no utterances, descriptions, queries, tests or feedback.
    Names are replaced by digits unless --names is given. Whatever cannot be read, such as a node
    that is down, is left out; manifest.json says what and why. Needs a key of the scope admin.
    """
    from synaptoroute.cli import support
    from synaptoroute.cli.scrubbing import Scrubber

    made_at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = output or Path(f"support-bundle-{made_at}.tar.gz")
    support.check_output(target)
    config, is_valid = settings_here()
    secrets = support.known_secrets(config, api_key)
    bundle = support.Bundle(Scrubber(shows_names=names), secrets, seconds_max)
    if not is_valid:
        bundle.leave_out("settings", "invalid_config")
    urls = [each.strip() for each in url.split(",") if each.strip()]
    with waiting("Collecting ..."):
        collect_here(bundle, config, database, log or [])
        support.collect_urls(bundle, urls, api_key)
        collect_services(bundle, config)
    bundle.write(target)
    for each in bundle.left_out:
        note(f"left out: {each['what']} ({each['why']})")
    if as_json:
        print_json({"file": str(target), "left_out": bundle.left_out})
    else:
        print_line(str(target))


def settings_here() -> tuple[NodeConfig, bool]:
    """The settings of this environment, or the defaults if those are not valid."""
    from synaptoroute.config import NodeConfig

    try:
        return read_settings({}), True
    except ConfigError:
        return NodeConfig.model_construct(), False


def collect_here(
    bundle: support.Bundle, config: NodeConfig, database: Path | None, logs: list[Path]
) -> None:
    """Add what files of this machine say."""
    from synaptoroute.cli import support

    bundle.collect("machine/platform.json", partial(support.collect_machine, bundle, config))
    bundle.collect("machine/settings.json", partial(support.collect_settings, bundle, config))
    for number, path in enumerate(logs):
        bundle.collect(f"logs/{number}.jsonl", partial(support.collect_log, bundle, path, number))
    file = database or config.database
    if database is not None or file.exists():
        bundle.collect("machine/database.json", partial(support.collect_database, bundle, file))


def collect_services(bundle: support.Bundle, config: NodeConfig) -> None:
    """Add what Redis says, and the checks of this machine."""
    from synaptoroute.cli import support
    from synaptoroute.sequencer.server_checks import read_info

    if config.redis_url is not None:
        read = partial(read_info, doctor.connector_of(config))
        bundle.collect("redis/info.json", partial(support.collect_redis, bundle, read))
    bundle.collect("machine/doctor.json", partial(collect_checks, bundle, config))


def collect_checks(bundle: support.Bundle, config: NodeConfig) -> None:
    """Add what ``doctor`` finds, without loading the encoder or the database."""
    results = [
        doctor.check_python(),
        doctor.check_packages(),
        doctor.check_sqlite(),
        doctor.check_cpu(),
        doctor.check_cpu_flags(),
        doctor.check_disk(config.database),
        doctor.check_secrets(config),
    ]
    if config.tls_cert is not None or config.tls_key is not None:
        results.append(doctor.check_tls(config))
    if config.redis_url is not None:
        results += doctor.check_redis(config)
    shown = []
    for each in results:
        found = asdict(each)
        found["check"] = each.name.replace(" ", "_")
        del found["name"]
        shown.append(bundle.scrubber.document(found))
        if each.name in OWN_CHECKS:
            shown[-1] |= {"what": each.what, "advice": each.advice}
    bundle.add_own("machine/doctor.json", shown)
