"""``python -m gtddp_jax`` is the command ``gtddp``."""

from gtddp_cli.main import main

raise SystemExit(main())
