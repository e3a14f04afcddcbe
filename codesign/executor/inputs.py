"""Inputs of a graph: checked against what it expects, or made up from a seed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from codesign.dtypes import dtype, name_of, numpy_dtype
from codesign.errors import BadParameter, nearest
from codesign.graph import Graph, Op, Tensor
from codesign.ops.base import Array

LARGEST_INDEX = 1000
"""Integers made up for an input stay below this, and below the length of every table they index."""

_KEEPS_VALUES = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"}


def checked_inputs(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs as arrays, lists of them for sequences.

    Raises BadParameter naming the input that is missing, unknown or ill-shaped or -typed.
    """
    for name in inputs:
        if name not in graph.inputs:
            raise BadParameter(
                f"graph '{graph.name}' has no input '{name}'{nearest(name, graph.inputs)}; "
                f"its inputs are {', '.join(graph.inputs) or 'none'}"
            )
    arrays = {}
    for name in graph.inputs:
        if name in graph.unknown:
            arrays[name] = _as_given(name, inputs)
            continue
        expected = graph.tensors[name]
        if name not in inputs:
            raise BadParameter(f"input '{name}' is missing; expected {_described(expected)}")
        array = np.asarray(inputs[name])
        if array.shape != expected.shape or name_of(array.dtype) != name_of(numpy_dtype(expected.dtype)):
            raise BadParameter(
                f"input '{name}' has shape {list(array.shape)} and type {name_of(array.dtype)}; "
                f"expected {_described(expected)}"
            )
        arrays[name] = array
    return arrays


def _as_given(name: str, inputs: Mapping[str, Any]) -> Any:
    """An input of any shape: a tensor, a sequence (a list of them) or an optional that may be None."""
    if name not in inputs:
        raise BadParameter(f"input '{name}' is missing; its shape is not stated")
    found = inputs[name]
    if found is None:
        return None
    return [np.asarray(item) for item in found] if isinstance(found, list | tuple) else np.asarray(found)


def _described(tensor: Tensor) -> str:
    return f"shape {list(tensor.shape)} and type {tensor.dtype}"


def random_inputs(graph: Graph, seed: int) -> dict[str, Array]:
    """Reproducible inputs by name: floats standard normal, integers valid as indices of the tables they look up,
    integer masks and booleans one. The stream depends on the input's name, not on its place.

    Raises BadParameter for an input whose shape the graph does not state."""
    for name in graph.inputs:
        if name in graph.unknown:
            raise BadParameter(f"{graph.unknown[name]}: give its values, or its shape, by name")
    limits = _index_limits(graph)
    return {name: _random(graph.tensors[name], limits.get(name, 2), seed) for name in graph.inputs}


def _random(tensor: Tensor, limit: int, seed: int) -> Array:
    generator = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    kind, numpy_type = dtype(tensor.dtype).kind, numpy_dtype(tensor.dtype)
    if kind in ("float", "complex"):
        return generator.standard_normal(tensor.shape, dtype=np.float32).astype(numpy_type)
    if kind == "bool" or "mask" in tensor.name.lower():
        return np.ones(tensor.shape, numpy_type)
    if kind == "string":
        return np.full(tensor.shape, "a", numpy_type)
    return generator.integers(0, limit, tensor.shape).astype(numpy_type)


def _index_limits(graph: Graph) -> dict[str, int]:
    """One more than the largest index each integer input may hold, from the tables that its values look up."""
    consumers = graph.consumers()
    limits = {}
    for name in graph.inputs:
        if dtype(graph.tensors[name].dtype).kind in ("int", "uint"):
            found = _table_lengths(graph, consumers, name)
            if found:
                limits[name] = max(1, min(*found, LARGEST_INDEX))
    return limits


def _table_lengths(graph: Graph, consumers: Mapping[str, list[Op]], name: str) -> list[int]:
    lengths = []
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        for op in consumers.get(current, []):
            if op.kind == "Gather" and op.inputs[1] == current and op.inputs[0] in graph.tensors:
                lengths.append(graph.tensors[op.inputs[0]].shape[int(op.attributes.get("axis", 0))])
            elif op.kind in _KEEPS_VALUES and op.inputs[0] == current and op.outputs[0] not in seen:
                seen.add(op.outputs[0])
                pending.append(op.outputs[0])
    return lengths
