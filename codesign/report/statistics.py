"""Statistics for people: a table of tensors with a small picture of each distribution, and where indices point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codesign.graph import Graph
from codesign.lower import lower
from codesign.report import units
from codesign.report.tables import add_names, add_numbers, heading, plain_table, shrinking
from codesign.statistics.document import Histogram, Routing, Statistics, TensorStatistics
from codesign.transforms import optimise
from codesign.work import Contraction

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_BARS = " ▁▂▃▄▅▆▇█"
_PICTURE = 12
"""Characters of a distribution's picture."""


def statistics_view(graph: Graph, top: int = 20) -> RenderableType:
    """Totals, and in the order they are made the `top` largest tensors and the first `top` tensors of indices.

    The graph must have statistics.
    """
    from rich.console import Group
    from rich.text import Text

    statistics = graph.statistics
    assert statistics is not None
    shown = _largest(statistics, top)
    part = "Largest tensors, in order" if len(shown) < len(statistics.tensors) else "Tensors, in order"
    parts: list[RenderableType] = [
        heading(f"{statistics.model}, {statistics.samples} sample{'s' if statistics.samples > 1 else ''}"),
        Text(_totals(graph, statistics)),
        Text(""),
        heading(part),
        _tensors(shown),
    ]
    if statistics.routing:
        few = dict(list(statistics.routing.items())[:top])
        left = len(statistics.routing) - len(few)
        parts += [Text(""), heading("Where indices point" + (f", the first {top}" if left else "")), _routing(few)]
    return Group(*parts)


def _largest(statistics: Statistics, top: int) -> dict[str, TensorStatistics]:
    size = {name: found.elements for name, found in statistics.tensors.items()}
    chosen = set(sorted(size, key=lambda name: -size[name])[:top])
    return {name: found for name, found in statistics.tensors.items() if name in chosen}


def _totals(graph: Graph, statistics: Statistics) -> str:
    parts = []
    for role, plural in (("activation", "activations"), ("weight", "weights")):
        group = [found for found in statistics.tensors.values() if found.role == role]
        elements = sum(found.elements for found in group)
        if elements:
            filled = sum(found.density * found.elements for found in group) / elements
            parts.append(f"{len(group)} {plural}, {units.percent(filled)} of their values not zero")
    products = [work for work in lower(optimise(graph)) if isinstance(work, Contraction)]
    macs = sum(work.macs for work in products)
    if macs:
        needed = sum(work.macs * work.reads[0].density * work.reads[1].density for work in products) / macs
        parts.append(f"{units.percent(needed)} of {units.count(macs)} MACs with no operand zero")
    return "; ".join(parts)


def _tensors(tensors: dict[str, TensorStatistics]) -> Table:
    table = plain_table()
    add_names(table, "tensor", 40)
    table.add_column("role", no_wrap=True)
    add_numbers(table, "not zero", "min", "max", "N:M")
    table.add_column("distribution", no_wrap=True)
    for name, found in tensors.items():
        table.add_row(
            shrinking(name), found.role, units.percent(found.density),
            *("-" if value is None else f"{value:.3g}" for value in (found.minimum, found.maximum)),
            tightest(found.patterns), picture(found.histogram),
        )  # fmt: skip
    return table


def tightest(patterns: tuple[tuple[int, int], ...]) -> str:
    """The pattern that leaves the fewest places, in the shortest groups of those that do; "" when there is none."""
    if not patterns:
        return ""
    most, size = min(patterns, key=lambda pattern: (pattern[0] / pattern[1], pattern[1]))
    return f"{most}:{size}"


def picture(histogram: Histogram | None, width: int = _PICTURE) -> str:
    """Bars from the least to the greatest value; their heights are roots of the counts, so that tails show."""
    if histogram is None:
        return ""
    counts = histogram.counts
    joined = -(-len(counts) // width)
    bars = [sum(counts[start : start + joined]) ** 0.5 for start in range(0, len(counts), joined)]
    highest = max(bars)
    return "".join(_BARS[-(-int(8 * bar / highest * 1000) // 1000)] for bar in bars)


def _routing(routing: dict[str, Routing]) -> Table:
    table = plain_table()
    add_names(table, "indices", 40)
    add_numbers(table, "choices", "per sample", "distinct", "never", "busiest", "imbalance")
    for name, found in routing.items():
        busiest = max(found.counts, key=lambda choice: found.counts[choice])
        share = found.counts[busiest] / sum(found.counts.values())
        table.add_row(
            shrinking(name), str(found.choices), str(found.indices), f"{found.distinct:.3g}",
            units.percent(1 - len(found.counts) / found.choices), f"{busiest} ({units.percent(share)})",
            f"{found.imbalance:.1f}x",
        )  # fmt: skip
    return table
