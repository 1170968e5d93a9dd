"""Which commands there are, and what surrounds each of them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from synaptoroute.cli.commands import (
    bench,
    calibrate,
    cluster,
    demo,
    doctor,
    evaluate,
    keys,
    model,
    model_migrate,
    query,
    restore,
    routes_import,
    routes_lint,
    routes_read,
    routes_write,
    serve,
    status,
    up,
)
from synaptoroute.cli.exit_codes import ExitCode, exit_code_of, one_line
from synaptoroute.cli.terminal import note
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.version import __version__

_EPILOG: Final = (
    "Exit codes: 0 done, 1 the answer is no, 2 wrong usage or file, "
    "3 no node answers or starts, 4 the node refused, 130 interrupted."
)


class RootGroup(TyperGroup):
    """Turns errors of any command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, not at the end of the process
            return result
        except SynaptoRouteError as error:
            if ctx.params.get("debug"):
                raise
            note(f"synaptoroute: error: {one_line(error)}")
            raise typer.Exit(exit_code_of(error)) from None
        except KeyboardInterrupt:
            note("synaptoroute: interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            # The reader has what it wanted; nothing may be written at the end either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.DONE) from None


app = typer.Typer(
    name="synaptoroute",
    cls=RootGroup,
    help="Route texts to named routes, and look after the nodes that do.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: no option's name is cut off in a narrow window
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"synaptoroute {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Route texts to named routes, and look after the nodes that do."""


def _group(name: str, about: str) -> typer.Typer:
    """Add a group of commands."""
    group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("serve", cls=serve.ServeCommand)(serve.serve)
app.command("query")(query.query)

_routes = _group("routes", "Look at routes and change them.")
_routes.command("list")(routes_read.list_routes)
_routes.command("show")(routes_read.show)
_routes.command("export")(routes_read.export)
_routes.command("put")(routes_write.put)
_routes.command("rm")(routes_write.rm)
_routes.command("import")(routes_import.import_)
_routes.command("lint")(routes_lint.lint)

app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("bench")(bench.bench)

_model = _group("model", "Look after encoders.")
_model.command("list")(model.list_)
_model.command("fetch")(model.fetch)
_model.command("check")(model.check)
_model.command("prepare")(model.prepare)
_model.command("migrate")(model_migrate.migrate)

app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("restore")(restore.restore)

_cluster = _group("cluster", "Look after a cluster that lost something.")
_cluster.command("recover")(cluster.recover)
_cluster.command("voter")(cluster.voter)
_orphans = typer.Typer(
    help="Writes that a recovery left behind.", no_args_is_help=True, rich_markup_mode=None
)
_cluster.add_typer(_orphans, name="orphans")
_orphans.command("list")(cluster.list_orphans)
_orphans.command("replay")(cluster.replay)

_keys = _group("keys", "Make API keys.")
_keys.command("new")(keys.new)
