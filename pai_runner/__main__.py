"""`python -m pai_runner` is `pai`."""

import sys

from pai_runner.cli.main import main

sys.exit(main())
