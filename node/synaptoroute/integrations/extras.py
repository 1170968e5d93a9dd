"""The error of an integration whose packages are not installed."""

from __future__ import annotations


class MissingExtra(ImportError):
    """An integration is imported without its extra.

    Attributes:
        extra: Name of the extra that installs what is missing.
    """

    def __init__(self, extra: str, missing: str | None) -> None:
        self.extra = extra
        super().__init__(
            f"synaptoroute.integrations.{extra} needs the package {missing!r}: "
            f"pip install 'synaptoroute-cluster[{extra}]'",
            name=missing,
        )
