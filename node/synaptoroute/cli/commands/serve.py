"""``synaptoroute serve``: one node."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from synaptoroute.cli.exit_codes import NodeUnreachable
from synaptoroute.errors import ConfigError, SynaptoRouteError


class ServeCommand(TyperCommand):
    """A command that has one option for each setting of a node."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the options; the first call makes those of the settings."""
        if not any(param.name == "database" for param in self.params):
            from synaptoroute.cli.settings_options import setting_parameters

            self.params = [*self.params, *setting_parameters()]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Pass the settings that were given on as one value."""
        ctx.obj = {name: value for name, value in ctx.params.items() if value is not None}
        ctx.params.clear()
        return super().invoke(ctx)


def serve(ctx: typer.Context) -> None:
    """Serve one node until it is told to stop.

    Every setting is an option and an environment variable; the option wins.
    SIGTERM and Ctrl-C drain: requests in flight are answered, then the process ends.
    """
    from synaptoroute.cli.settings_options import read_settings

    config = read_settings(ctx.obj)
    from synaptoroute.server.encoder_loading import begin_loading

    encoder = begin_loading(config)  # meanwhile the server is imported
    from synaptoroute.server import serve as serve_node

    try:
        serve_node(config, encoder=encoder)
    except ConfigError:
        raise
    except SynaptoRouteError as error:
        raise NodeUnreachable(f"the node did not start: {error.code}: {error.message}") from error
