"""Transforms: functions from Graph to Graph, one a file, each with its contract. `optimise` applies them in order."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from codesign.graph import Graph
from codesign.transforms.known_part import joined, known_part

Transform = Callable[[Graph], Graph]


@dataclass(frozen=True, slots=True)
class Pass:
    """A transform by name, imported when it is first called."""

    name: str
    module: str

    def __call__(self, graph: Graph) -> Graph:
        transform: Transform = getattr(importlib.import_module(f"codesign.transforms.{self.module}"), self.name)
        return transform(graph)


PIPELINE = (
    Pass("remove_dead_code", "dead_code"),
    Pass("remove_identities", "identities"),
    Pass("fold_views", "views"),
    Pass("fold_padding", "padding"),
    Pass("fold_batch_normalisation", "batch_normalisation"),
    Pass("fold_channel_affine", "channel_affine"),
    Pass("unflatten_gemm", "flattened_gemm"),
    Pass("fuse_normalisations", "normalisations"),
    Pass("fuse_group_normalisations", "group_normalisation"),
    Pass("fuse_activations", "activations"),
    Pass("fuse_rotary_embedding", "rotary"),
    Pass("fuse_attention", "attention"),
    Pass("fold_views", "views"),
    Pass("share_key_value_heads", "grouped_query"),
    Pass("fold_views", "views"),
    Pass("append_to_caches", "cache"),
    Pass("fold_head_transposes", "attention_layout"),
    Pass("fuse_quantised", "quantised"),
    Pass("remove_dead_code", "dead_code"),
    Pass("fold_views", "views"),
    Pass("hoist_over_views", "hoist"),
    Pass("fold_views", "views"),
    Pass("unflatten_gemm", "flattened_gemm"),
    Pass("fold_views", "views"),
    Pass("merge_common_subexpressions", "common_subexpressions"),
    Pass("fuse_epilogues", "epilogue"),
)
"""The default order. Views are folded before patterns are looked for, so that these need not know how an exporter
spells a transposition, and again after those that add views or bring two together, as at a Gemm between reshapes;
common subexpressions are merged after the patterns, since a shared piece would hide one; epilogues come last, since
what is fused is no longer matched."""


Quantised = Literal["fused", "standard"]
"""How dequantised values are computed on: `fused` on the integers, as devices and onnxruntime's optimiser do, or as the
`standard` spells it, in floats between DequantizeLinear and QuantizeLinear."""


def optimise(graph: Graph, quantised: Quantised = "fused", without: Collection[str] = ()) -> Graph:
    """The graph after all of PIPELINE, and that of each body of control flow alike; without the integer fusions when
    `quantised` is "standard", and `without` the transforms of these names.

    Graph inputs, outputs and their names stay, values agree to rounding, quantised ones to a step, and every operation
    names the ONNX nodes it came from. Of a graph with unknown shapes, what follows the first of them stays as it is.
    """
    without = {*without, "fuse_quantised"} if quantised == "standard" else without
    if graph.unknown:
        known, others = known_part(graph)
        return _optimised_bodies(joined(graph, _transformed(known, without), others), without)
    return _optimised_bodies(_transformed(graph, without), without)


def _transformed(graph: Graph, without: Collection[str]) -> Graph:
    for transform in PIPELINE:
        if transform.name not in without:
            graph = transform(graph)
    return graph


def _optimised_bodies(graph: Graph, without: Collection[str]) -> Graph:
    if not any(op.bodies for op in graph.ops):
        return graph
    ops = tuple(
        replace(op, bodies={name: optimise(body, without=without) for name, body in op.bodies.items()})
        if op.bodies
        else op
        for op in graph.ops
    )
    return graph.with_ops(ops)
