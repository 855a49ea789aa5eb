"""Where the patients of a cohort are computed."""

from qspjax.execute._executor import AbstractExecutor as AbstractExecutor, Chunked as Chunked, Vmap as Vmap
