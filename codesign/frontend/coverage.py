"""Which operators a model may hold: all that ONNX defines and all that are ours, each with what makes it run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx

from codesign.frontend.handlers import HANDLERS
from codesign.frontend.infer import implemented
from codesign.graph import Op
from codesign.ops.base import Operator, find, operators

if TYPE_CHECKING:
    from rich.console import RenderableType

KERNEL, GRAPH, FUNCTION, NONE = "kernel", "graph", "function", "none"
"""Computed by a kernel of ours; resolved into the graph while loading; replaced by the function that the standard
defines it as; not supported."""

INTERNAL = frozenset({("", "Refuse")})
"""Operators that only the front end writes."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """An operator: `versions` are those of its domain that define it anew, empty where ONNX has no definition; `by`
    says how it runs, `simulated` whether its work is known."""

    domain: str
    name: str
    versions: tuple[int, ...]
    by: str
    simulated: bool


def coverage() -> list[Coverage]:
    """All operators by domain and name: those that ONNX defines, and those of other domains that are ours."""
    versions: dict[tuple[str, str], list[int]] = {}
    functions: set[tuple[str, str]] = set()
    schemas: list[Any] = list(onnx.defs.get_all_schemas_with_history())
    for schema in schemas:
        key = (schema.domain, schema.name)
        versions.setdefault(key, []).append(schema.since_version)
        if schema.has_function or schema.has_context_dependent_function:
            functions.add(key)
    keys = {*versions, *HANDLERS, *(key for key in operators() if key not in INTERNAL)}
    return [_covered(key, tuple(sorted(versions.get(key, ()))), key in functions) for key in sorted(keys)]


def _covered(key: tuple[str, str], versions: tuple[int, ...], is_function: bool) -> Coverage:
    domain, name = key
    if implemented(domain, name):
        kind = type(find(Op("", name, (), (), domain=domain)))
        return Coverage(domain, name, versions, KERNEL, kind.work is not Operator.work or key in HANDLERS)
    by = GRAPH if key in HANDLERS else FUNCTION if is_function else NONE
    return Coverage(domain, name, versions, by, by != NONE)


def coverage_table(found: Sequence[Coverage]) -> RenderableType:
    """How many of each domain run and are simulated, and the names: what runs, and what does not."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, heading, plain_table

    table = plain_table()
    add_names(table, "domain")
    add_numbers(table, "versions", "operators", "executed", "simulated", "kernels of ours")
    parts: list[RenderableType] = []
    for domain in sorted({one.domain for one in found}):
        own = [one for one in found if one.domain == domain]
        runs = [one for one in own if one.by != NONE]
        newest = max((version for one in own for version in one.versions), default=0)
        counts = (len(own), len(runs), sum(one.simulated for one in runs), sum(one.by == KERNEL for one in runs))
        shown = f"1 to {_newest(domain, newest)}" if newest else ""
        table.add_row(domain or "ai.onnx", shown, *(f"{count:,}" for count in counts))
        parts += [Text(), heading(domain or "ai.onnx"), Columns([_label(one) for one in runs], padding=(0, 2))]
        missing = [one.name for one in own if one.by == NONE]
        if missing:
            parts.append(Text(f"not supported: {', '.join(missing)}", "dim"))
    return Group(table, *parts)


def _newest(domain: str, newest: int) -> int:
    """The newest version of a domain, which need not define any operator anew."""
    return max(newest, onnx.defs.onnx_opset_version() if not domain else 0)


def _label(one: Coverage) -> str:
    first = f" {one.versions[0]}" if one.versions else ""
    return f"{one.name}{first}"


def coverage_json(found: Sequence[Coverage]) -> str:
    return json.dumps([asdict(one) for one in found], indent=1)
