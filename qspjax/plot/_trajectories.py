"""Several outputs of one solution over time, each in its own panel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qspjax._checks import check_instance
from qspjax._extras import require
from qspjax._solution import Solution
from qspjax.plot._figures import new_figure
from qspjax.plot._trajectory import trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS = 16


def trajectories(solution: Solution, outputs: Sequence[str] | None = None, *, title: str | None = None) -> "Figure":
    """Draw observed values over time, each in its own panel.

    Args:
        solution: The solution of one patient or of a cohort.
        outputs: The names of observed values; by default at most 16 of all, or of the species of a network: first
            states, in the order of the model.
        title: The title of the figure.

    Returns:
        A matplotlib Figure; `figure.savefig("simulation.png", dpi=200)` saves it.

    Raises:
        ValueError: If the solution has no such output.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> solution = qsp.simulate(patient, qsp.bolus(200.0, to="depot"), [0.0, 1.0, 2.0, 4.0, 8.0])
        >>> len(qsp.plot.trajectories(solution).axes)
        1
    """
    check_instance("solution", solution, Solution, "a solution of one patient or of a cohort")
    outputs = list(_in_order(solution)[:_MOST_PANELS] if outputs is None else outputs)
    columns = min(2 if len(outputs) <= 4 else 3, max(len(outputs), 1))
    rows = max(-(-len(outputs) // columns), 1)
    with require("matplotlib", extra="plot").rc_context({"text.parse_math": False}):
        figure = new_figure(4.0 * columns + (1.0 if columns == 1 else 0.0), 2.75 * rows + 0.3)
        for number, output in enumerate(outputs, start=1):
            trajectory(solution, output, figure.add_subplot(rows, columns, number))
        if title:
            figure.suptitle(title)
    return figure


def _in_order(solution: Solution) -> list[str]:
    """Return the main observed values in the order of the model: states, those with units, then the others."""
    names, labels = solution.main(), solution.labels
    return [name for name in dict.fromkeys([*labels.states, *labels.units.observed, *names]) if name in names]
