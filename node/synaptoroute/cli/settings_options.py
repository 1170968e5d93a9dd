"""The settings of a node as options of the command line.

Made from ``NodeConfig`` itself, so that no setting lacks its option.  Loading the
settings costs more than a whole command that only talks to a node; ``ServeCommand``
therefore makes the options when ``serve`` is run or asked for help, and not before.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.config import ENV_PREFIX, NodeConfig

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def setting_parameters() -> list[Any]:
    """Make one option for each setting, without a default: absent means not given."""

    def settings() -> None:
        """Carries the options; never called."""

    told = _meanings()
    settings.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(name, field, told[name]) for name, field in NodeConfig.model_fields.items()]
    )
    settings.__annotations__ = {
        parameter.name: parameter.annotation
        for parameter in inspect.signature(settings).parameters.values()
    }
    carrier = typer.Typer(add_completion=False)
    carrier.command()(settings)
    return [option for option in typer.main.get_command(carrier).params if option.name != "help"]


def read_settings(given: Mapping[str, Any]) -> NodeConfig:
    """Put the options that were given over the environment.

    Raises:
        BadUsage: A value is out of its limits; names the option and the variable.
    """
    try:
        return NodeConfig(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        said = first["msg"].removeprefix("Value error, ")
        raise BadUsage(
            f"{_option(name)} ({ENV_PREFIX}{name.upper()}): {said[:1].lower()}{said[1:]}"
        ) from None


def _parameter(name: str, field: FieldInfo, meaning: str) -> inspect.Parameter:
    """One option: a switch, a choice or a text; the settings themselves judge the value."""
    default = "" if field.default in (None, "") else str(field.default)
    shown = f"; default: {default}" if default else ""
    told = f"{meaning}  [env: {ENV_PREFIX}{name.upper()}{shown}]"
    is_choice = get_origin(field.annotation) is Literal
    metavar = "|".join(get_args(field.annotation)) if is_choice else None
    kind = bool | None if field.annotation is bool else str | None
    declared = [_option(name)]
    if field.annotation is bool:
        declared = [f"{_option(name)}/--no-{_option(name)[2:]}"]
    option = typer.Option(*declared, help=told, show_default=False, metavar=metavar)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, option],
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _meanings() -> dict[str, str]:
    """What the docstrings of the settings say of each field."""
    found = dict.fromkeys(NodeConfig.model_fields, "")
    for settings in reversed(NodeConfig.__mro__):
        if not settings.__module__.startswith("synaptoroute."):
            continue
        attributes = inspect.cleandoc(settings.__doc__ or "").partition("Attributes:")[2]
        for name, text in _ATTRIBUTE.findall(attributes):
            found[name] = " ".join(text.split()).replace("``", "")
    return found
