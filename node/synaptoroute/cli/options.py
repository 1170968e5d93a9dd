"""Options and input files that several commands share."""

from __future__ import annotations

import inspect
import ssl
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperCommand

from synaptoroute.cli.exit_codes import FileRejected, FileTooLarge

DEFAULT_URL: Final = "http://127.0.0.1:8080"

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="SYNAPTOROUTE_URL", help="Address of the node, or several with commas."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="SYNAPTOROUTE_API_KEY",
        show_default=False,
        help="API key of the node; the variable keeps it out of the process list.",
    ),
]
_PEM_FILE: Final[dict[str, Any]] = {"exists": True, "dir_okay": False, "show_default": False}
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar="SYNAPTOROUTE_CA", help="Authorities of the node's certificate.", **_PEM_FILE
    ),
]
ClientCert = Annotated[
    Path | None,
    typer.Option(
        "--client-cert", envvar="SYNAPTOROUTE_CLIENT_CERT", help="Client certificate.", **_PEM_FILE
    ),
]
ClientKey = Annotated[
    Path | None,
    typer.Option(
        "--client-key",
        envvar="SYNAPTOROUTE_CLIENT_KEY",
        help="Key of the client certificate.",
        **_PEM_FILE,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OperatorKey = Annotated[
    Path | None,
    typer.Option(
        "--operator-key",
        envvar="SYNAPTOROUTE_OPERATOR_KEY_FILE",
        help="Private key of the operator, from `keys operator`.",
        **_PEM_FILE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="SYNAPTOROUTE_MODEL",
        show_default="the bundled model",
        help="Encoder for commands without a node: a name or a folder.",
    ),
]
EncoderPrecision = Annotated[
    Literal["auto", "float32", "int8"],  # config.Precision, whose import costs more than a command
    typer.Option(
        "--precision",
        envvar="SYNAPTOROUTE_ENCODER_PRECISION",
        help="Arithmetic of the encoder; auto is int8 for the bundled model, else float32.",
    ),
]
LabelledFile = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, help="Labelled queries: text, tab, route ('-' for none)."
    ),
]
OptionalLabelledFile = Annotated[
    Path | None,
    typer.Argument(
        exists=True,
        dir_okay=False,
        show_default=False,
        help="Labelled queries: text, tab, route ('-' for none); without one, the routes' own "
        "utterances are judged, each left out of its route.",
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        help="What a limit should achieve: accuracy, balanced, precision>=X, coverage>=X or "
        "cost:wrong=X,none=Y.",
    ),
]
SvgFile = Annotated[
    Path | None,
    typer.Option(
        "--svg", dir_okay=False, show_default=False, help="Draw the curves into this file."
    ),
]
RoutesFile = Annotated[
    Path | None,
    typer.Option(
        "--routes",
        exists=True,
        show_default=False,
        help="Use the routes of this file, of any format that `import` reads, without a node.",
    ),
]


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Read a file of limited size."""
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        raise FileRejected(f"{path} cannot be read: {error.strerror}") from error
    if len(body) > bytes_max:
        raise FileTooLarge(f"{path} has more than {bytes_max} bytes")
    return body


# --- TLS -------------------------------------------------------------------------------

TlsPaths = tuple[Path | None, ...]
# Set once a command, by the command that runs in this context.
_tls_files: ContextVar[TlsPaths] = ContextVar("tls_files", default=())
_TLS_OPTIONS: Final = ("ca", "client_cert", "client_key")


class NodeCommand(TyperCommand):
    """A command; one that talks to a node takes the files of TLS beside its own options."""

    def get_params(self, ctx: Any) -> list[Any]:
        names = {param.name for param in self.params}
        if "url" in names and "ca" not in names:
            self.params = [*self.params, *_tls_parameters()]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Keep the files for ``tls_context``, so that no command has to pass them on."""
        token = _tls_files.set(tuple(ctx.params.pop(name, None) for name in _TLS_OPTIONS))
        try:
            return super().invoke(ctx)
        finally:
            _tls_files.reset(token)


class CommandGroup(typer.Typer):
    """Commands, each a ``NodeCommand`` unless it names its class."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": NodeCommand, **options})


# --- the route set ----------------------------------------------------------------------

RouteSetName = Annotated[
    str,
    typer.Option(
        "--set",
        envvar="SYNAPTOROUTE_SET",
        show_default="default",
        help="The route set; for queries, a set or an alias.",
    ),
]
_route_set: ContextVar[str] = ContextVar("route_set", default="")


class SetCommand(NodeCommand):
    """A command about one route set, which the option ``--set`` names."""

    def get_params(self, ctx: Any) -> list[Any]:
        if "route_set" not in {param.name for param in self.params}:
            self.params = [*self.params, *_set_parameters()]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Keep the set for ``route_set``, so that no command has to pass it on."""
        token = _route_set.set(ctx.params.pop("route_set", None) or "")
        try:
            return super().invoke(ctx)
        finally:
            _route_set.reset(token)


def route_set() -> str:
    """The route set of the running command; empty for ``default``."""
    return _route_set.get()


def _set_parameters() -> list[Any]:
    def carried(route_set: RouteSetName = "") -> None:
        """Carries the option; never called."""

    return _parameters_of(carried)


def _tls_parameters() -> list[Any]:
    def files(ca: Ca = None, client_cert: ClientCert = None, client_key: ClientKey = None) -> None:
        """Carries the options; never called."""

    return _parameters_of(files)


def _parameters_of(function: Any) -> list[Any]:
    # Annotations are texts in this module; typer looks them up in it.
    function.__signature__ = inspect.signature(function, eval_str=True)
    carrier = typer.Typer(add_completion=False)
    carrier.command()(function)
    return [option for option in typer.main.get_command(carrier).params if option.name != "help"]


def tls_context() -> ssl.SSLContext | None:
    """TLS of the running command's requests; None for the defaults of the HTTP library.

    Raises:
        ConfigError: A file cannot be used.
    """
    if not any(found := _tls_files.get()):
        return None
    from synaptoroute.web.tls import TlsFiles, client_tls

    ca, cert, key = found
    tls = client_tls(TlsFiles(cert, key, ca))
    return None if tls is None else tls.context
