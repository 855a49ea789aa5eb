"""Python looks for garbage while modules are imported and programs are traced, and finds next to none: less often here.

A search visits every object of JAX again, and JAX searches in XLA with it.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = 200_000, 20, 1000
"""So many new objects, then searches among young objects, then among older ones, let Python search further."""

_lock = threading.Lock()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Let Python look for garbage less often meanwhile, unless it does not look at all."""
    usual = gc.get_threshold()
    if not gc.isenabled() or usual == SELDOM or usual[0] == 0 or not _lock.acquire(blocking=False):
        yield  # another thread, or a call around this one, changed it
        return
    try:
        gc.set_threshold(*SELDOM)
        yield
    finally:
        gc.set_threshold(*usual)
        _lock.release()
