"""Workloads by name: which module defines each, the table of its variants, and the model built from it.

A family is a module of this package and the file `catalog/<module>.yaml` beside it. The module holds what builds the
networks (a table of variants and the definition below it), the file what was published about them. Both are read
when one of the family's names is asked for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import BadParameter, nearest

if TYPE_CHECKING:
    from onnx import ModelProto

CATALOG = Path(__file__).with_name("catalog")

VARIANTS_SECTION = re.compile(r"^variants:\n((?:^(?:[ #].*)?\n)*)", re.MULTILINE)
VARIANT = re.compile(r"^  ([A-Za-z0-9_.]+):", re.MULTILINE)

Definition = Callable[..., None]
"""`definition(builder, batch, <dimension>, ..., *, <configuration>, ...)` adds the network to the builder."""

Table = Mapping[str, Mapping[str, Any]]
"""Names of variants, and the parameters of each."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What builds one workload: its family's definition, every configuration parameter as this member has it, and the
    parameters of its reduced form (empty: it has none)."""

    definition: Definition
    configuration: Mapping[str, Any]
    reduced: Mapping[str, Any] = field(default_factory=dict)


_ENTRIES: dict[str, Entry] = {}


def variants(table: Table, reduced: Table) -> Callable[[Definition], Definition]:
    """Register the function below as the definition of every name in `table`, called with the parameters that stand
    there over its own defaults.

    `reduced` holds, for at least one of them, dimensions and parameters that leave the structure but make it small
    enough to execute in a second: every mechanism of the network must still do something there.
    """

    def register(definition: Definition) -> Definition:
        if strangers := reduced.keys() - table.keys():
            raise ValueError(f"reduced forms of {sorted(strangers)}, which the table does not hold")
        defaults = getattr(definition, "__kwdefaults__", None) or {}
        for name, configuration in table.items():
            if name in _ENTRIES:
                raise ValueError(f"workload '{name}' is defined twice")
            _ENTRIES[name] = Entry(definition, {**defaults, **configuration}, reduced.get(name, {}))
        return definition

    return register


@cache
def index() -> dict[str, str]:
    """The module that defines each workload, by name: read from the catalogue's files without parsing them."""
    found: dict[str, str] = {}
    for path in sorted(CATALOG.glob("*.yaml")):
        section = VARIANTS_SECTION.search(path.read_text(encoding="utf-8"))
        for name in VARIANT.findall(section[1]) if section else ():
            if name in found:
                raise ValueError(f"workload '{name}' is in the catalogue of '{found[name]}' and of '{path.stem}'")
            found[name] = path.stem
    return found


def names() -> list[str]:
    """Names of all workloads, sorted."""
    return sorted(index())


def representatives() -> list[str]:
    """The first workload of each family."""
    return list({module: name for name, module in reversed(index().items())}.values())[::-1]


def module_of(name: str) -> str:
    """The module that defines a workload. Raises BadParameter, naming what could be meant, when there is none."""
    known = index()
    if name in known:
        return known[name]
    meant = [other for other, module in known.items() if other == f"{module}_{name}"]
    if len(meant) > 1:
        families = " and ".join(known[other] for other in meant[:3])
        more = f" (and {len(meant) - 3} more families)" if len(meant) > 3 else ""
        raise BadParameter(f"workload '{name}' is ambiguous, {families} have one{more}: say {' or '.join(meant[:3])}")
    raise BadParameter(f"unknown workload '{name}'{nearest(name, [*meant, *known]) or '; see codesign workloads'}")


def entry(name: str) -> Entry:
    """What builds a workload. Raises BadParameter when there is none of that name."""
    importlib.import_module(f"workloads.{module_of(name)}")
    return _ENTRIES[name]


def build(
    name: str,
    batch: int = 1,
    bind: Mapping[str, int] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> ModelProto:
    """The workload as an ONNX model whose weights are absent (see `materialise` for values).

    `bind` replaces dimensions of `info(name).dimensions`, as in {"sequence": 512}; `configuration` replaces parts of
    the architecture, as in {"layers": 2}. Raises BadParameter for an unknown name or a size that cannot be meant.
    """
    from workloads.builder import Builder
    from workloads.facts import info

    found = entry(name)
    dimensions = _replaced(name, "dimension", info(name).dimensions, bind or {})
    for key, size in {"batch": batch, **dimensions}.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise BadParameter(f"workload '{name}': dimension '{key}' = {size!r}; expected an integer of at least 1")
    settings = _replaced(name, "configuration parameter", found.configuration, configuration or {})
    builder = Builder(name)
    found.definition(builder, batch=batch, **dimensions, **settings)
    return builder.model()


def build_reduced(name: str, batch: int = 1, **changes: Any) -> ModelProto:
    """The reduced form of a workload, with `changes` of dimensions or configuration over it.

    Raises BadParameter when the workload has no reduced form.
    """
    from workloads.facts import info

    stated = entry(name).reduced
    if not stated:
        raise BadParameter(f"workload '{name}' has no reduced form")
    sizes = {**stated, **changes}
    bind = {key: sizes.pop(key) for key in info(name).dimensions if key in sizes}
    return build(name, batch, bind, sizes)


def _replaced(name: str, what: str, known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key in changes:
        if key not in known:
            raise BadParameter(f"workload '{name}' has no {what} '{key}'{nearest(key, known) or _listed(known)}")
    return {**known, **changes}


def _listed(known: Iterable[str]) -> str:
    return f"; known: {', '.join(known) or 'none'}"
