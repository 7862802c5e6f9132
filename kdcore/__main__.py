"""`python -m kdcore`: see `kdcore.cli`."""

import sys

from kdcore.cli import main
from kdcore.distributed.torchrun import TorchrunEnv, end_at_once

status = main()
if TorchrunEnv.from_environment() is not None:
    # An ordinary exit destroys the threads of the collectives, which may abort a process whose
    # run has succeeded ("terminate called without an active exception").
    end_at_once(status)
sys.exit(status)
