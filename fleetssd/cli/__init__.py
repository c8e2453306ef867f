"""The operator's verbs."""

from fleetssd.cli.app import main

__all__ = ["main"]
