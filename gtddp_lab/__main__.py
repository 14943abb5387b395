"""``python -m gtddp_lab`` runs the command ``gtddp``."""

from gtddp_lab.cli.main import main

raise SystemExit(main())
