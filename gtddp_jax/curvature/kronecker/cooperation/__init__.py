"""Cooperative stages: players that act in one stage account for each other (paper Sec. 3.2).

| mode       | P of the stage                                                            |
|------------|---------------------------------------------------------------------------|
| `none`     | each player alone                                                         |
| `theorem3` | `A_ww^-1 (x) B_ww^-1` on the players' own blocks (Eq. 16-18, 52-54)       |
| `rescale`  | its own block alone: `A~_uu^-1 (x) B~_uu^-1` (Eq. 16, 17; Cor. 7)         |
| `joint`    | the Gauss-Newton block: `Q_uv = + A_uv (x) B_uv`, inverted as a whole     |

A new mode is one file and one entry in `choose_cooperation`.
"""

from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation, SeparatePlayers
from gtddp_jax.curvature.kronecker.cooperation.choice import COOPERATION_MODES, choose_cooperation

__all__ = ["COOPERATION_MODES", "Cooperation", "SeparatePlayers", "choose_cooperation"]
