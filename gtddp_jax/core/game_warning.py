"""The category of this library's warnings."""


class GameWarning(UserWarning):
    """The category of every warning of this library, to filter them by.

    Example:
        >>> import warnings
        >>> import gtddp_jax as gt
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", gt.GameWarning)
    """
