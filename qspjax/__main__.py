"""Run the command line as `python -m qspjax`."""

import sys

from qspjax.cli import main

sys.exit(main())
