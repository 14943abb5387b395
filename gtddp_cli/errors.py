"""What commands raise."""


class UsageError(Exception):
    """The command line asks for something that cannot be done; its text is one line."""


class RunError(Exception):
    """A run cannot go on; its text is one line."""
