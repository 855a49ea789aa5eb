"""From data and trained terms to mechanisms: formulas for learned terms, sparse dynamics, missing edges.

Example:
    >>> import jax.numpy as jnp, qspjax as qsp
    >>> learned = lambda c: 2.0 * c / (5.0 + c)  # a trained network, say
    >>> qsp.discover.distil(learned, {"c": jnp.linspace(0.0, 20.0, 40)}).best
    2 * c / (5 + c)
"""

from qspjax.discover._confirm import Confirmed as Confirmed, confirm as confirm, into as into
from qspjax.discover._distil import Candidate as Candidate, Distilled as Distilled, distil as distil
from qspjax.discover._dynamics import (
    Dynamics as Dynamics,
    rate_terms as rate_terms,
    sparse_dynamics as sparse_dynamics,
)
from qspjax.discover._edges import AbstractEdge as AbstractEdge, Modifier as Modifier, NewReaction as NewReaction
from qspjax.discover._forms import Form as Form, Library as Library
from qspjax.discover._missing import (
    MissingEdges as MissingEdges,
    Step as Step,
    candidate_edges as candidate_edges,
    missing_edges as missing_edges,
)
from qspjax.discover._score import EdgeScores as EdgeScores, edge_scores as edge_scores
from qspjax.discover._visited import visited as visited
