"""Pictures of results: every function takes results and returns matplotlib Axes or a Figure; none saves or shows."""

from qspjax.plot._trajectories import trajectories as trajectories
from qspjax.plot._trajectory import quantiles as quantiles, trajectory as trajectory
from qspjax.plot._trial import Panel as Panel, bands as bands, trial as trial
