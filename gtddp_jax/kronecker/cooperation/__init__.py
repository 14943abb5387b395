"""Cooperative stages: players who act at once and know each other's curvature (Sec. 3.2).

| mode       | P of the stage                                                            |
|------------|---------------------------------------------------------------------------|
| `none`     | every player alone                                                        |
| `theorem3` | `A_ww^-1 (x) B_ww^-1` on the players' own blocks (Eq. 16-18, 52-54)       |
| `rescale`  | its own block alone: `A~_uu^-1 (x) B~_uu^-1` (Eq. 16, 17; Cor. 7)         |
| `joint`    | the Gauss-Newton block: `Q_uv = + A_uv (x) B_uv`, inverted as a whole     |

A new mode is one file and one entry in `choose`.
"""

from gtddp_jax.kronecker.cooperation.base import Cooperation, Separate
from gtddp_jax.kronecker.cooperation.choice import MODES, choose

__all__ = ["MODES", "Cooperation", "Separate", "choose"]
