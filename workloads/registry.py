"""Workloads by name: the facts of catalog.yaml and the functions that build them, imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import BadParameter, nearest

if TYPE_CHECKING:
    from onnx import ModelProto

    from workloads.facts import WorkloadInfo

CATALOG = Path(__file__).with_name("catalog.yaml")

Definition = Callable[..., None]
"""`definition(builder, batch, <dimension>, ..., *, <configuration>, ...)` adds the network to the builder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What builds one workload: its family's definition, and every configuration parameter as this member has it."""

    definition: Definition
    configuration: Mapping[str, Any]


_ENTRIES: dict[str, Entry] = {}


def workload(name: str, **configuration: Any) -> Callable[[Definition], Definition]:
    """Register the function below as the definition of `name`, called with `configuration` over its own defaults."""

    def register(definition: Definition) -> Definition:
        if name in _ENTRIES:
            raise ValueError(f"workload '{name}' is defined twice")
        defaults = getattr(definition, "__kwdefaults__", None) or {}
        _ENTRIES[name] = Entry(definition, {**defaults, **configuration})
        return definition

    return register


@cache
def catalog() -> dict[str, dict[str, Any]]:
    """Facts of each workload by name: its own over its family's, the source written out."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(CATALOG.read_text(encoding="utf-8"), loader)
    return {
        name: {
            **document["families"][entry["family"]],
            **entry,
            "published": {**entry["published"], "source": document["sources"][entry["published"]["source"]]},
        }
        for name, entry in document["workloads"].items()
    }


def names() -> list[str]:
    """Names of all workloads, sorted."""
    return sorted(catalog())


def info(name: str) -> WorkloadInfo:
    """What was published about a workload. Raises BadParameter, with the nearest names, when there is none."""
    from workloads.facts import WorkloadInfo

    return WorkloadInfo(name=name, **_facts(name))


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

    facts = _facts(name)
    importlib.import_module(f"workloads.{facts['family']}")
    entry = _ENTRIES[name]
    dimensions = _replaced(name, "dimension", facts.get("dimensions") or {}, bind or {})
    for key, size in {"batch": batch, **dimensions}.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise BadParameter(f"workload '{name}': dimension '{key}' = {size!r}; expected an integer of at least 1")
    builder = Builder(name)
    settings = _replaced(name, "configuration parameter", entry.configuration, configuration or {})
    entry.definition(builder, batch=batch, **dimensions, **settings)
    return builder.model()


def _facts(name: str) -> dict[str, Any]:
    facts = catalog().get(name)
    if facts is None:
        raise BadParameter(f"unknown workload '{name}'{nearest(name, names()) or _listed(names())}")
    return facts


def _replaced(name: str, what: str, known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key in changes:
        if key not in known:
            raise BadParameter(f"workload '{name}' has no {what} '{key}'{nearest(key, known) or _listed(known)}")
    return {**known, **changes}


def _listed(known: Iterable[str]) -> str:
    return f"; known: {', '.join(known) or 'none'}"
