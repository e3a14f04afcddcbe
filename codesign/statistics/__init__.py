"""What the values of a graph are like when it runs: ranges, densities, patterns of zeros, and where indices point."""

from codesign.statistics.document import Histogram, Routing, Statistics, TensorStatistics, attach, read_statistics
from codesign.statistics.observer import measure

__all__ = ["Histogram", "Routing", "Statistics", "TensorStatistics", "attach", "measure", "read_statistics"]
