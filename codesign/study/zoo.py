"""The lists a user chooses from: built-in networks with what was published about them, and devices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codesign.errors import BadParameter, nearest
from codesign.registry import device, device_names
from codesign.report import units

if TYPE_CHECKING:
    from rich.table import Table

    from workloads.counts import Counts
    from workloads.facts import Figure, WorkloadInfo

PAGE_TITLE = """# The built-in networks

Parameters and multiply-accumulates (MACs) as counted on the graphs, at batch 1 and the default input size, beside the
published ones. A row *agrees* when parameters are within 1% and MACs within 3% of what was published, or when rounding
them gives the digits that were printed; else it is *explained* below its family's table. Written by
`codesign workloads --page FILE`.
"""


@dataclass(frozen=True)
class Row:
    """A built-in network: what was published of it, and what its graph holds."""

    info: WorkloadInfo
    counts: Counts

    @property
    def status(self) -> str:
        return self.info.status(self.counts.params, self.counts.macs)

    @property
    def published(self) -> str:
        """Published parameters/MACs."""
        figures = (self.info.params, self.info.macs)
        return "/".join(_short(figure.value) if figure else "-" for figure in figures) if any(figures) else "-"

    @property
    def difference(self) -> str:
        """Signed differences of the counts to those."""
        pairs = ((self.info.params, self.counts.params), (self.info.macs, self.counts.macs))
        return "/".join(_difference(*pair) for pair in pairs) if any(figure for figure, _ in pairs) else "-"

    @property
    def cells(self) -> tuple[str, ...]:
        """Parameters, MACs, published, difference, status."""
        return (_short(self.counts.params), _short(self.counts.macs), self.published, self.difference, self.status)


def chosen(patterns: Sequence[str]) -> list[str]:
    """Names of the networks that are called, or whose family is called, as one of `patterns`; all for none.

    Raises BadParameter for one that is neither.
    """
    from workloads.registry import index, module_of

    known = index()
    names: list[str] = []
    for pattern in patterns:
        family = [name for name, module in known.items() if module == pattern]
        if not family and pattern not in known and (close := nearest(pattern, set(known.values()))):
            raise BadParameter(f"unknown workload or family '{pattern}'{close}")
        names += family or [pattern] if family or module_of(pattern) else []
    return sorted(set(names)) if patterns else sorted(known)


def rows(names: Sequence[str]) -> Iterator[Row]:
    """Each network with its counts, made when they are not remembered from an earlier run."""
    import workloads

    for name, counts in zip(names, workloads.count_all(names), strict=True):
        yield Row(workloads.info(name), counts)


def zoo_json(counted: Sequence[Row]) -> str:
    """Name, catalogue number, parameters, MACs and input shapes of each network, and what was published."""
    return json.dumps([_document(row) for row in counted], indent=1)


def zoo_table(names: Sequence[str]) -> Table:
    """Name, year, published parameters and MACs, and title of each built-in network."""
    import workloads
    from codesign.report.tables import add_names, add_numbers, plain_table, shrinking

    table = plain_table()
    table.add_column("name", no_wrap=True)
    add_numbers(table, "year", "parameters", "MACs")
    add_names(table, "network")
    for name in names:
        info = workloads.info(name)
        figures = [units.count(figure.value) if figure else "-" for figure in (info.params, info.macs)]
        table.add_row(name, str(info.year), *figures, shrinking(info.title))
    return table


def count_table(counted: Sequence[Row]) -> Table:
    """Counts beside the published ones; what differs and is not explained is red, what is explained yellow."""
    from codesign.report.tables import add_numbers, plain_table, shrinking

    table = plain_table()
    table.add_column("name", no_wrap=True)
    table.add_column("paper")
    add_numbers(table, "params", "MACs", "published", "difference")
    table.add_column("status", no_wrap=True)
    styles = {"differs": "red", "explained": "yellow"}
    for row in counted:
        table.add_row(row.info.name, shrinking(row.info.citation), *row.cells, style=styles.get(row.status))
    return table


def count_page(counted: Sequence[Row]) -> str:
    """The same as a page of Markdown, a section a family."""
    families: dict[str, list[Row]] = {}
    for row in counted:
        families.setdefault(row.info.family, []).append(row)
    parts = [PAGE_TITLE]
    for family, members in sorted(families.items()):
        first = members[0].info
        parts.append(f"## {family}\n\n{first.paper}. {_sentence(first.convention)}".strip() + "\n")
        lines = ["| name | parameters | MACs | published | difference | status |", "|---|---:|---:|---:|---:|---|"]
        lines += [f"| {' | '.join((row.info.name, *row.cells))} |" for row in members]
        parts.append("\n".join(lines) + "\n")
        notes: dict[str | None, list[str]] = {}
        for row in members:
            if row.status == "explained":
                notes.setdefault(row.info.explanation, []).append(row.info.name)
        parts += [f"* {', '.join(names)}: {text}\n" for text, names in notes.items()]
    return "\n".join(parts)


def _document(row: Row) -> dict[str, Any]:
    facts = row.info.model_dump(mode="json", exclude={"name", "catalog_id", "params", "macs"})
    published = {"params": _value(row.info.params), "macs": _value(row.info.macs)}
    return {
        "name": row.info.name,
        "catalog_id": row.info.catalog_id,
        "params": row.counts.params,
        "macs": row.counts.macs,
        "input": row.counts.inputs,
        "published": published,
        "status": row.status,
        **facts,
    }


def _short(count: float) -> str:
    return units.count(count).replace(" ", "")


def _value(figure: Figure | None) -> float | None:
    return figure.value if figure else None


def _difference(figure: Figure | None, count: int) -> str:
    return f"{figure.difference(count):+.1%}" if figure else "-"


def _sentence(text: str) -> str:
    return f"Convention: {text}." if text else ""


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
