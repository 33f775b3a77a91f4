"""`python tests/faults [--only WORDS] [--seed N]`: what `make faults` runs."""

import sys

from faultlab.cli import main

sys.exit(main())
