"""Where the patients of a cohort are computed: all at once (`Vmap`), or in parts of bounded memory (`Chunked`), which a
folder may keep (`Stored`) and a cluster may compute (`Dask`); and what is kept where there are too many patients to
keep a number of each (`Quantiles`, `Histogram`).

Example:
    >>> import jax, qspjax as qsp
    >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
    >>> cohort = qsp.Population(patient, between={"CL": qsp.LogNormal(cv=0.3)}).sample(key=jax.random.key(0), size=10)
    >>> dose, parts = qsp.bolus(100.0, to="central"), qsp.execute.Chunked(4)
    >>> qsp.simulate_cohort(cohort, dose, [1.0, 2.0], executor=parts).observed["concentration"].shape
    (10, 2)
"""

from qspjax.execute._dask import Dask as Dask
from qspjax.execute._executor import (
    AbstractChunks as AbstractChunks,
    AbstractExecutor as AbstractExecutor,
    Chunked as Chunked,
    Vmap as Vmap,
)
from qspjax.execute._sketch import Histogram as Histogram, Quantiles as Quantiles
from qspjax.execute._stored import Stored as Stored
