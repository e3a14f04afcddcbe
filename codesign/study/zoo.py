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
    """Name, family, year, published parameters and MACs of each built-in network."""
    from rich.table import Table

    import workloads

    table = Table(box=None, header_style="bold")
    for heading in ("name", "family", "year", "parameters", "MACs", "title"):
        right = heading in ("year", "parameters", "MACs")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for name in workloads.names():
        info = workloads.info(name)
        published = info.published
        table.add_row(
            name, info.family, str(info.year),
            units.count(published.parameters) if published.parameters else "-",
            units.count(published.macs) if published.macs else "-",
            info.title,
        )  # fmt: skip
    return table


def device_table() -> Table:
    """Name, class, own element type, error band and description of each device."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for heading in ("name", "class", "type", "error band", "description"):
        table.add_column(heading, no_wrap=heading != "description")
    for name in device_names():
        found = device(name)
        band = found.provenance.error_band
        table.add_row(
            name, found.device_class, found.default_dtype, f"±{band:.0%}" if band is not None else "not validated",
            found.provenance.description,
        )  # fmt: skip
    return table
