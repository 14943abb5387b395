"""Describes the game of a run as JSON values, for its folder."""

from collections.abc import Sequence
from typing import Any

from gtddp_jax.network import StageFacts

NETWORK_FORMAT = 1
"""Version of the description; increased whenever the meaning of a field changes."""


def describe_stages(stages: Sequence[StageFacts]) -> dict[str, Any]:
    """Returns ``format`` and ``stages``; each stage has the fields of `StageFacts`."""
    return {
        "format": NETWORK_FORMAT,
        "stages": [
            {
                "players": [player._asdict() for player in stage.players],
                "reads": [edge._asdict() for edge in stage.reads],
                "live": stage.live,
            }
            for stage in stages
        ],
    }
