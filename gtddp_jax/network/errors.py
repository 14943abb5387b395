"""The error type of network descriptions."""


class NetworkError(ValueError):
    """A network description that cannot be built; the message names the block and what to do."""
