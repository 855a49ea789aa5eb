"""Whole families of hybrid models: mechanisms of which a part is learned.

A network is any equinox module; its weights are leaves of the model, so that doses, populations, the kernel and
derivatives are those of any other model.

Example:
    >>> import equinox as eqx, jax, qspjax as qsp
    >>> network = eqx.nn.MLP("scalar", "scalar", width_size=8, depth=1, key=jax.random.key(0))
    >>> typical = qsp.models.OneCompartment(CL=3.0, V=30.0)
    >>> hybrid = qsp.models.UniversalDifferentialEquation(typical, network, of=("central",), into=("central",))
    >>> hybrid.observe(0.0, hybrid.initial())["concentration"].shape
    ()
"""

from qspjax.models.hybrid._encoder import RecurrentEncoder as RecurrentEncoder
from qspjax.models.hybrid._latent import LatentHybrid as LatentHybrid
from qspjax.models.hybrid._low_dimensional import LowDimensionalNeuralODE as LowDimensionalNeuralODE
from qspjax.models.hybrid._time_varying import PiecewiseConstant as PiecewiseConstant, TimeVarying as TimeVarying
from qspjax.models.hybrid._universal import UniversalDifferentialEquation as UniversalDifferentialEquation
