"""The one place that holds the version of the distribution."""

__version__ = "1.0.0.dev0"
