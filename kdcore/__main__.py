"""`python -m kdcore`: see `kdcore.cli`."""

import sys

from kdcore.cli import main

sys.exit(main())
