"""Several reports side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from codesign.errors import BadParameter
from codesign.report import units
from codesign.report.report import Report
from codesign.report.verdict import dominant_bound

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_COPIED = (
    "model", "device", "dtype", "batch", "fidelity", "latency_s", "energy_J", "power_W", "area_mm2", "macs",
    "utilisation", "fits", "error_band",
)  # fmt: skip


def compare(reports: Iterable[Report]) -> pd.DataFrame:
    """One row a report: its totals in SI, what bounds it, and its speed and energy relative to the first report.

    `speedup` is the first latency over this one, `energy_ratio` this energy over the first. Raises BadParameter when
    there is no report.
    """
    import pandas as pd

    documents = [report.document for report in reports]
    if not documents:
        raise BadParameter("compare: no report was given, expected at least one")
    frame = pd.DataFrame([{column: getattr(document, column) for column in _COPIED} for document in documents])
    frame["bound"] = [dominant_bound(document) for document in documents]
    frame["energy_delay_product_Js"] = frame.energy_J * frame.latency_s
    frame["speedup"] = frame.latency_s.iloc[0] / frame.latency_s
    frame["energy_ratio"] = frame.energy_J / frame.energy_J.iloc[0]
    return frame


def comparison_table(reports: Iterable[Report]) -> Table:
    """The comparison as a table for the terminal, columns that are equal in all rows moved to the title."""
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, add_words, plain_table, shrinking

    frame = compare(reports)
    identity = ("model", "device", "dtype", "batch")
    varying = [column for column in identity if frame[column].nunique() > 1] or ["device"]
    shared = [f"{frame[column].iloc[0]}" for column in identity if column not in varying]
    table = plain_table()
    table.title, table.title_justify = " · ".join(shared) or None, "left"
    for column in varying:
        add_names(table, column, 22)
    add_numbers(table, "latency", "speedup", "energy", "ratio", "compute busy")
    add_words(table, "bound")
    add_words(table, "fits")
    for row in frame.to_dict("records"):
        table.add_row(
            *(shrinking(str(row[column])) for column in varying),
            units.seconds(row["latency_s"]), f"{row['speedup']:.2f}x",
            units.joules(row["energy_J"]), f"{row['energy_ratio']:.2f}x",
            units.percent(row["utilisation"]), Text(str(row["bound"])),
            Text("yes", "green") if row["fits"] else Text("no", "red"),
        )  # fmt: skip
    return table
