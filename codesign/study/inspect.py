"""What a model is, before any device: operations, parameters, MACs, bytes, arithmetic intensity, live memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from codesign.dtypes import dtype as element_type
from codesign.graph import Graph
from codesign.lower import values_of, work_of
from codesign.memory import live_bytes, stored_weight_bytes
from codesign.report import units
from codesign.transforms import optimise

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class OpInspection:
    """One operation. `intensity` is scalar operations a byte of operands; `live_bytes` what is alive while it runs."""

    name: str
    op: str
    onnx_nodes: tuple[str, ...]
    shape: tuple[int, ...]
    macs: int
    flops: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    intensity: float
    live_bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's totals and its operations in order.

    `parameters` are the learned values of the graph as loaded; `weight_bytes` is what is stored after the transforms.
    """

    model: str
    dtype: str
    batch: int
    parameters: int
    macs: int
    flops: int
    weight_bytes: int
    activation_bytes: int
    intensity: float
    peak_live_bytes: int
    ops: tuple[OpInspection, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def table(self, top: int = 20) -> RenderableType:
        """The totals, and the `top` operations with the most arithmetic, in the model's order."""
        return _table(self, top)


def inspect(graph: Graph, dtype: str | None = None, fused: bool = True) -> Inspection:
    """Count the graph's work. `dtype` replaces its floating types; `fused` counts it after the transforms."""
    chosen = optimise(graph) if fused else graph
    values = values_of(chosen, dtype)
    live = live_bytes(chosen, values)
    rows = []
    for op, alive in zip(chosen.ops, live, strict=True):
        work = work_of(op, values)
        learned = {name for name in op.reads() if name in chosen.weights and chosen.weights[name].is_parameter}
        rows.append(
            OpInspection(
                name=op.name,
                op=op.kind + "".join(f"+{follower.kind}" for follower in op.epilogue),
                onnx_nodes=op.sources,
                shape=values[op.outputs[0]].shape if op.outputs and op.outputs[0] else (),
                macs=work.macs,
                flops=work.flops,
                parameters=sum(chosen.weights[name].tensor.elements for name in learned),
                weight_bytes=work.weight_bytes,
                activation_bytes=work.bytes - work.weight_bytes,
                intensity=work.flops / work.bytes if work.bytes else 0.0,
                live_bytes=alive,
            )
        )
    flops, moved = sum(row.flops for row in rows), sum(row.weight_bytes + row.activation_bytes for row in rows)
    return Inspection(
        model=graph.source or graph.name,
        dtype=element_type(dtype).name if dtype else "as stored",
        batch=graph.batch,
        parameters=graph.parameters,
        macs=sum(row.macs for row in rows),
        flops=flops,
        weight_bytes=stored_weight_bytes(chosen, values),
        activation_bytes=sum(row.activation_bytes for row in rows),
        intensity=flops / moved if moved else 0.0,
        peak_live_bytes=max(live, default=0),
        ops=tuple(rows),
    )


def _table(found: Inspection, top: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, heading, plain_table, shrinking

    title = heading(f"{found.model}, batch {found.batch}, types {found.dtype}")
    totals = Text(
        f"{len(found.ops)} operations, {units.count(found.parameters)} parameters "
        f"({units.bytes_(found.weight_bytes)}), {units.count(found.macs)} MACs, "
        f"{units.bytes_(found.activation_bytes)} of activations moved, {found.intensity:.1f} operations a byte, "
        f"{units.bytes_(found.peak_live_bytes)} live at most"
    )
    shown = sorted(sorted(range(len(found.ops)), key=lambda i: (-found.ops[i].flops, i))[:top])
    few = len(shown) < len(found.ops)
    table = plain_table()
    add_names(table, "operation")
    add_names(table, "kind", 22)
    add_numbers(table, "MACs", "params", "weights", "activations", "op/byte", "live")
    for row in (found.ops[index] for index in shown):
        table.add_row(
            shrinking(row.name), shrinking(row.op), units.count(row.macs), units.count(row.parameters),
            units.bytes_(row.weight_bytes), units.bytes_(row.activation_bytes), f"{row.intensity:.1f}",
            units.bytes_(row.live_bytes),
        )  # fmt: skip
    part = "Operations with the most arithmetic, in order" if few else "Operations, in order"
    return Group(title, totals, Text(""), heading(part), table)
