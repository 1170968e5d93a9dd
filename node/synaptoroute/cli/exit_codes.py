"""Exit codes, and the errors that lead to them.

    0    success
    1    negative result: nothing matched, a check failed, a limit was missed
    2    the command line, a file or a setting is wrong
    3    the node cannot be reached or did not start
    4    the node refused the request; its error code is printed
    130  interrupted with Ctrl-C

Rule: commands raise errors; only the root command turns them into a line and a code.
"""

from __future__ import annotations

from enum import IntEnum

from synaptoroute.errors import ConfigError, RouteError, SynaptoRouteError


class ExitCode(IntEnum):
    """Exit code of the process."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    INTERRUPTED = 130


class FileRejected(RouteError):
    """An input file is unreadable or invalid."""

    code = "invalid_file"


class FileTooLarge(FileRejected):
    """An input file is over its limit."""

    code = "file_too_large"


class BadUsage(ConfigError):
    """Options that cannot be combined, or an invalid value."""

    code = "usage"


class CheckFailed(SynaptoRouteError):
    """The command did its work and the result is negative."""

    code = "check_failed"


class NodeUnreachable(SynaptoRouteError):
    """No node answers at the address, or the node did not start."""

    code = "node_unreachable"


class NodeRefused(SynaptoRouteError):
    """A node answered with a problem document; ``refused_code`` is its code."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        retry_after_seconds: float | None = None,
        **fields: object,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds, **fields)
        self.status = status
        self.refused_code = code


def exit_code_of(error: SynaptoRouteError) -> ExitCode:
    match error:
        case NodeRefused():
            return ExitCode.REFUSED
        case NodeUnreachable():
            return ExitCode.UNREACHABLE
        case RouteError() | ConfigError():
            return ExitCode.USAGE
        case _:
            return ExitCode.NO


def one_line(error: SynaptoRouteError) -> str:
    """Format an error as one line: the stable code, then a sentence."""
    code = error.refused_code if isinstance(error, NodeRefused) else error.code
    message = " ".join(error.message.split())
    wait = error.retry_after_seconds
    again = f" (try again in {wait:g} s)" if wait is not None else ""
    return f"{code}: {message}{again}"
