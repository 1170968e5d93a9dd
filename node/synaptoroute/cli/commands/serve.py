"""``synaptoroute serve`` and ``keys new``: one node and the API keys it accepts.

The options of ``serve`` are made from ``NodeConfig``, so that no setting lacks its option.
Loading the settings takes longer than a whole command that only talks to a node, so the
options are made when ``serve`` is run or asked for help, and not before.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from synaptoroute.cli.exit_codes import BadUsage, NodeUnreachable
from synaptoroute.cli.options import AsJson
from synaptoroute.cli.terminal import note, print_json, print_line
from synaptoroute.errors import ConfigError, SynaptoRouteError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from synaptoroute.config import NodeConfig

_DURATION: Final = re.compile(r"([1-9][0-9]{0,4})([dh])")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_ATTRIBUTE: Final = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


class ServeCommand(TyperCommand):
    """A command with one option for each setting of a node."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; the first call makes those of the settings."""
        if not any(param.name == "database" for param in self.params):
            self.params = [*self.params, *setting_parameters()]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Pass the settings that were given as one value."""
        ctx.obj = {name: value for name, value in ctx.params.items() if value is not None}
        ctx.params.clear()
        return super().invoke(ctx)


def serve(ctx: typer.Context) -> None:
    """Serve one node until it is stopped.

    Every setting is an option and an environment variable; the option wins.
    SIGTERM and Ctrl-C drain: requests in flight are answered, then the process ends.
    """
    config = read_settings(ctx.obj)
    from synaptoroute.server.encoder_loading import begin_loading

    # The model loads on another thread while the server is imported below.
    encoder = begin_loading(config)
    from synaptoroute.server import serve as serve_node

    try:
        serve_node(config, encoder=encoder)
    except ConfigError:
        raise
    except SynaptoRouteError as error:
        raise NodeUnreachable(f"the node did not start: {error.code}: {error.message}") from error


# --- settings as options ---------------------------------------------------------------


def setting_parameters() -> list[Any]:
    """Make one option for each setting, without a default: absent means not given."""
    from synaptoroute.config import NodeConfig

    def settings() -> None:
        """Carries the options; never called."""

    meanings = _read_meanings()
    parameters = [
        _parameter(name, field, meanings[name]) for name, field in NodeConfig.model_fields.items()
    ]
    settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    settings.__annotations__ = {each.name: each.annotation for each in parameters}
    carrier = typer.Typer(add_completion=False)
    carrier.command()(settings)
    return [option for option in typer.main.get_command(carrier).params if option.name != "help"]


def read_settings(given: Mapping[str, Any]) -> NodeConfig:
    """Read the settings from the environment and the given options, which win."""
    from pydantic import ValidationError

    from synaptoroute.config import ENV_PREFIX, NodeConfig

    try:
        return NodeConfig(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        reason = first["msg"].removeprefix("Value error, ")
        raise BadUsage(
            f"{_option(name)} ({ENV_PREFIX}{name.upper()}): {reason[:1].lower()}{reason[1:]}"
        ) from None


def _parameter(name: str, field: FieldInfo, meaning: str) -> inspect.Parameter:
    """Make one option: a flag, a choice or a text; ``NodeConfig`` validates the value."""
    from synaptoroute.config import ENV_PREFIX

    default = "" if field.default in (None, "") else f"; default: {field.default}"
    help_text = f"{meaning}  [env: {ENV_PREFIX}{name.upper()}{default}]"
    is_choice = get_origin(field.annotation) is Literal
    metavar = "|".join(get_args(field.annotation)) if is_choice else None
    kind = bool | None if field.annotation is bool else str | None
    declared = [_option(name)]
    if field.annotation is bool:
        declared = [f"{_option(name)}/--no-{_option(name)[2:]}"]
    option = typer.Option(*declared, help=help_text, show_default=False, metavar=metavar)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _read_meanings() -> dict[str, str]:
    """Read what the docstrings of the settings say about each field."""
    from synaptoroute.config import NodeConfig

    found = dict.fromkeys(NodeConfig.model_fields, "")
    for settings in reversed(NodeConfig.__mro__):
        if not settings.__module__.startswith("synaptoroute."):
            continue
        attributes = inspect.cleandoc(settings.__doc__ or "").partition("Attributes:")[2]
        for name, text in _ATTRIBUTE.findall(attributes):
            found[name] = " ".join(text.split()).replace("``", "")
    return found


# --- API keys --------------------------------------------------------------------------


def new_key(
    name: Annotated[
        str, typer.Option(help="Name of the key's owner: the author of its writes in the history.")
    ],
    scopes: Annotated[
        str,
        typer.Option(
            help="read, write, admin, metrics: one or several, separated by commas; for some "
            "route sets, read@support or write@support-*."
        ),
    ] = "read",
    expires: Annotated[
        str,
        typer.Option(
            help="When the key stops working: a number of days such as 90d, hours such as 12h, "
            "a day, or a time such as 2027-01-31T12:00:00Z. Never, if it is not given."
        ),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option(help="Append the line to this key file, which is made with mode 0600."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="A limit of the key at one node: requests_per_second=50, texts_per_second=200 or "
            "concurrent_queries=20. May be given several times."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and its line for the node's key file.

    The key is shown once; the file holds only its hash.
    """
    from synaptoroute.web.api_keys import add_line, key_line, make_key

    key = make_key()
    until = _expiry(expires) if expires else None
    names = [scope.strip() for scope in scopes.split(",")]
    line = key_line(key, names, name, until, tuple(limit or ()))
    if file is not None:
        add_line(file, line)
    if as_json:
        print_json({"key": key, "line": line})
        return
    note("The key, shown only now (clients send it as: Authorization: Bearer KEY):")
    print_line(key)
    if file is not None:
        note(f"Its line was added to {file}.")
        return
    note("The line for the file that SYNAPTOROUTE_API_KEYS_FILE names:")
    print_line(line)


def new_operator(
    file: Annotated[Path, typer.Argument(help="File of the private key; it must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Make the operator's key: who has it signs what a minority of the voters may do.

    Keep the file off the nodes.  Name the public key in the genesis file of every node, as
    "operator", or in SYNAPTOROUTE_OPERATOR_PUBLIC_KEY.
    """
    from synaptoroute.trust.identity import NodeIdentity

    if file.exists():
        raise BadUsage(f"{file} exists: an operator's key is not replaced")
    identity = NodeIdentity.generate()
    identity.save(file)
    if as_json:
        print_json({"file": str(file), "public_key": identity.public_key})
        return
    note(f"The private key is in {file}; its public key for every node:")
    print_line(identity.public_key)


def _expiry(text: str) -> datetime:
    """Read the option ``--expires``."""
    from synaptoroute.web.api_keys import parse_expiry

    now = datetime.now(UTC)
    found = _DURATION.fullmatch(text)
    try:
        if found:
            unit = {"d": 86_400, "h": 3_600}[found[2]]
            until = now + timedelta(seconds=int(found[1]) * unit)
        else:
            is_day = _DAY.fullmatch(text) is not None
            moment = parse_expiry(f"{text}T00:00:00Z" if is_day else text)
            until = datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--expires: {error}") from error
    if until <= now:
        raise ConfigError("--expires: the time has passed already")
    return until
