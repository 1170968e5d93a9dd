"""The command tree, and the handling of errors around every command."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from synaptoroute.cli.commands import (
    apply,
    bench,
    calibrate,
    changes,
    cluster,
    demo,
    doctor,
    evaluate,
    feedback,
    imports,
    mcp,
    model,
    promote,
    routes,
    serve,
    set_archives,
    sets,
    support_bundle,
    tls,
    up,
)
from synaptoroute.cli.exit_codes import ExitCode, exit_code_of, one_line
from synaptoroute.cli.options import CommandGroup, SetCommand
from synaptoroute.cli.terminal import note
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.version import __version__

# Typer brings its own copy of Click and exports only this subclass.
UsageError: Final[type[Exception]] = typer.BadParameter.__bases__[0]
_EPILOG: Final = (
    "Exit codes: 0 success, 1 negative result, 2 wrong usage or file, "
    "3 node unreachable or not started, 4 refused by the node, 130 interrupted."
)


def _told(error: Any) -> Exception:
    """Say in one line what is wrong with a command line; what ends the process."""
    if type(error).__name__ == "NoArgsIsHelpError":
        found: Exception = error  # it shows the help of a group
        return found
    path = error.ctx.command_path if error.ctx else "synaptoroute"
    text = " ".join(error.format_message().split())
    note(f"synaptoroute: error: usage: {text} See: {path} --help")
    return typer.Exit(ExitCode.USAGE)


class RootGroup(TyperGroup):
    """Turns the error of any command into one line and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise _told(error) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # report a closed pipe here, not when the process exits
            return result
        except SynaptoRouteError as error:
            if ctx.params.get("debug"):
                raise
            note(f"synaptoroute: error: {one_line(error)}")
            raise typer.Exit(exit_code_of(error)) from None
        except UsageError as error:
            raise _told(error) from None
        except UnicodeError as error:
            if ctx.params.get("debug"):
                raise
            note(f"synaptoroute: error: usage: a text is not UTF-8: {error}")
            raise typer.Exit(ExitCode.USAGE) from None
        except KeyboardInterrupt:
            note("synaptoroute: interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            # The reader closed the pipe.  Python flushes stdout once more at exit, which must
            # not fail again, so it goes to the null device.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.DONE) from None


app = CommandGroup(
    name="synaptoroute",
    cls=RootGroup,
    help="Route texts to named routes, and operate the nodes that do it.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: option names are never cut off in a narrow window
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"synaptoroute {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Route texts to named routes, and operate the nodes that do it."""


def _group(name: str, about: str, parent: typer.Typer = app) -> typer.Typer:
    group = CommandGroup(help=about, no_args_is_help=True, rich_markup_mode=None)
    parent.add_typer(group, name=name)
    return group


app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("serve", cls=serve.ServeCommand)(serve.serve)
app.command("query", cls=SetCommand)(evaluate.query)
app.command("mcp")(mcp.mcp)

_routes = _group("routes", "Read and change routes.")
_routes.command("list", cls=SetCommand)(routes.list_routes)
_routes.command("show", cls=SetCommand)(routes.show)
_routes.command("export", cls=SetCommand)(routes.export)
_routes.command("put", cls=SetCommand)(routes.put)
_routes.command("calibration", cls=SetCommand)(routes.calibration)
_routes.command("rm", cls=SetCommand)(routes.rm)
_routes.command("import", cls=SetCommand)(imports.import_)
_routes.command("convert")(imports.convert)
_routes.command("lint")(routes.lint)
_routes.command("schema")(routes.schema)

_sets = _group("sets", "Route sets of a cluster.")
_sets.command("list")(sets.list_sets)
_sets.command("create")(sets.create)
_sets.command("fork")(sets.fork)
_sets.command("rm")(sets.rm)
_sets.command("export")(set_archives.export)
_sets.command("import")(set_archives.import_)

_aliases = _group("alias", "Names that point to route sets.")
_aliases.command("list")(sets.list_aliases)
_aliases.command("show")(sets.show_alias)
_aliases.command("set")(sets.set_alias)
_aliases.command("rm")(sets.rm_alias)

_imports = _group("imports", "Open imports: neither committed nor aborted.")
_imports.command("list", cls=SetCommand)(imports.list_imports)
_imports.command("abort", cls=SetCommand)(imports.abort_imports)

_feedback = _group("feedback", "Say which route is right, and review what was said.")
_feedback.command("add", cls=SetCommand)(feedback.add)
_feedback.command("list", cls=SetCommand)(feedback.list_items)
_feedback.command("resolve", cls=SetCommand)(feedback.resolve)
_feedback.command("queue", cls=SetCommand)(feedback.set_queue)

_unmatched = _group("unmatched", "Queries that no route took.")
_unmatched.command("list", cls=SetCommand)(feedback.list_unmatched)
_unmatched.command("add", cls=SetCommand)(feedback.add_unmatched)
_unmatched.command("dismiss", cls=SetCommand)(feedback.dismiss_unmatched)

app.command("plan")(apply.plan)
app.command("apply")(apply.apply)
app.command("export")(apply.export)

app.command("evaluate", cls=SetCommand)(evaluate.evaluate)
app.command("calibrate", cls=SetCommand)(calibrate.calibrate)
app.command("bench")(bench.bench)

_model = _group("model", "Manage encoders.")
_model.command("list")(model.list_)
_model.command("fetch")(model.fetch)
_model.command("check")(model.check)
_model.command("prepare")(model.prepare)
_model.command("migrate")(model.migrate)

app.command("status")(cluster.status)
app.command("history", cls=SetCommand)(changes.history)
app.command("revert", cls=SetCommand)(changes.revert)
app.command("diff")(promote.diff)
app.command("promote")(promote.promote)
app.command("rollback")(promote.rollback)
app.command("erase")(promote.erase)
_tests = _group("tests", "Labelled queries that belong to a route set.")
_tests.command("list", cls=SetCommand)(promote.list_tests)
_tests.command("put", cls=SetCommand)(promote.put_tests)
_tests.command("run", cls=SetCommand)(promote.run_tests)
app.command("doctor")(doctor.doctor)
app.command("support-bundle")(support_bundle.support_bundle)
app.command("restore")(cluster.restore)

_cluster = _group("cluster", "Recover a cluster after a loss.")
_cluster.command("recover")(cluster.recover)
_cluster.command("voter")(cluster.voter)
_cluster.command("unfreeze")(cluster.unfreeze)
_cluster.command("finalize")(cluster.finalize)
_orphans = _group("orphans", "Writes left behind by a recovery.", _cluster)
_orphans.command("list")(cluster.list_orphans)
_orphans.command("replay")(cluster.replay)

_keys = _group("keys", "Make keys.")
_keys.command("new")(serve.new_key)
_keys.command("operator")(serve.new_operator)

_group("tls", "Make certificates for trials.").command("new")(tls.new)
