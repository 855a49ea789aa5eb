"""When this process began to read the package, and from where: the first of its modules to be imported."""

import os
import time

BEGUN = time.time()
FOLDER = os.path.dirname(__file__)  # noqa: PTH120 (pathlib is imported later)
try:
    FOUND = os.stat(FOLDER)  # noqa: PTH116
except OSError:  # in an archive
    FOUND = None
