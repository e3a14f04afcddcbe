"""The lists a user chooses from: built-in networks and devices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from codesign.registry import device, device_names
from codesign.report import units

if TYPE_CHECKING:
    from rich.table import Table


def zoo_json() -> str:
    """Everything known of each built-in network."""
    import workloads

    return json.dumps([workloads.info(name).model_dump(mode="json") for name in workloads.names()], indent=1)


def zoo_table() -> Table:
    """Name, year, published parameters and MACs, and title of each built-in network."""
    import workloads
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    table.add_column("name", no_wrap=True)
    add_numbers(table, "year", "parameters", "MACs")
    add_names(table, "network")
    for name in workloads.names():
        info = workloads.info(name)
        sizes = (info.published.parameters, info.published.macs)
        table.add_row(
            name, str(info.year), *(units.count(size) if size else "-" for size in sizes), shrinking(info.title)
        )  # fmt: skip
    return table


def device_table() -> Table:
    """Name, class, own element type, validated mean error and description of each device."""
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    for heading in ("name", "class", "type"):
        table.add_column(heading, no_wrap=True)
    add_numbers(table, "mean error")
    add_names(table, "description", most=80)
    for name in device_names():
        found = device(name)
        band = found.provenance.error_band
        table.add_row(
            name, found.device_class, found.default_dtype, f"{band:.0%}" if band is not None else "unknown",
            shrinking(found.provenance.description),
        )  # fmt: skip
    return table
