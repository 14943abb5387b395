"""Exceptions of the commands."""


class UsageError(Exception):
    """The command line requests something that cannot be done; the message is one line."""


class RunError(Exception):
    """A run cannot continue; the message is one line."""
