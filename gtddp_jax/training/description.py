"""The game of a run as plain JSON values, for its folder."""

from collections.abc import Sequence
from typing import Any

from gtddp_jax.network.facts import StageFacts

FORMAT = 1
"""Raised by one whenever the meaning of a field changes."""


def described(stages: Sequence[StageFacts]) -> dict[str, Any]:
    """``format`` and ``stages``: for each, ``players``, ``reads`` and ``live`` of `StageFacts`."""
    return {
        "format": FORMAT,
        "stages": [
            {
                "players": [player._asdict() for player in stage.players],
                "reads": [edge._asdict() for edge in stage.reads],
                "live": stage.live,
            }
            for stage in stages
        ],
    }
