"""``python -m gtddp_lab`` runs the command ``gtddp``."""

import sys
from pathlib import Path

# Python puts the working directory first on its path, and a folder that comes from a stranger may
# hold a numpy.py. Only a working directory that holds this package itself is kept.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from gtddp_lab.cli.main import main  # after the path is set

raise SystemExit(main())
