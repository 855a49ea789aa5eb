"""More threads for XLA than cores: the one place in qspjax that asks for them.

XLA's batched calls of LAPACK (of a model with linear algebra, or an implicit solver of diffrax) wait for threads of the
pool that they run in. The pool has one thread per core, so where that many calls run at a time, in the programs of
several threads or in one, they wait indefinitely. Importing qspjax asks for a larger pool by the environment variable
`NPROC`, which XLA reads when it starts, unless it is set: then that choice stands.
"""

import os

os.environ.setdefault("NPROC", str(max(16, 4 * (os.cpu_count() or 1))))
