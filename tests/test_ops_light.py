"""Elementwise, reducing, moving, indexing, control and spectral operators against ONNX's own cases."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops import (
    activations,
    casts,
    constants,
    elementwise,
    image,
    indexing,
    movement,
    pooling,
    rearrangement,
    reduction,
    regions,
    resize,
    scatter,
    signal,
    sorting,
    spectral,
    views,
)
from codesign.ops.base import Value, find, operators
from codesign.work import Gather, Move, Work

FAMILIES = {
    module.__name__
    for module in (
        activations,
        casts,
        constants,
        elementwise,
        image,
        indexing,
        movement,
        pooling,
        rearrangement,
        reduction,
        regions,
        resize,
        scatter,
        signal,
        sorting,
        spectral,
        views,
    )
}

_NUMBERS = "the standard leaves the random numbers to the runtime"
_SEQUENCE = "a sequence or an optional is not a tensor"
EXCLUDED = {
    **{
        f"test_bernoulli{form}{expanded}": _NUMBERS
        for form in ("", "_double", "_seed")
        for expanded in ("", "_expanded")
    },
    "test_identity_opt": _SEQUENCE,
    "test_identity_sequence": _SEQUENCE,
}

# Functions written out as nodes round after each; in 16 bits the result may be two units in the last place away.
LAST_PLACE = {"bfloat16": 2.0**-7, "float16": 2.0**-10}


def owned_kinds() -> set[str]:
    """Kinds of the standard domain whose class stands in one of the families tested here."""
    return {kind for (domain, kind), found in operators().items() if not domain and type(found).__module__ in FAMILIES}


@cache
def all_cases() -> tuple[Any, ...]:
    """The standard's cases of any number of nodes: functions come written out as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return tuple(collect_testcases(None))


@cache
def cases() -> dict[str, Any]:
    owned, known_kinds = owned_kinds(), {kind for domain, kind in operators() if not domain} - {"If", "Loop", "Scan"}
    return {
        case.name: case
        for case in all_cases()
        if owned & {node.op_type for node in case.model.graph.node}
        and {node.op_type for node in case.model.graph.node} <= known_kinds
        and all(node.domain in ("", "ai.onnx") for node in case.model.graph.node)
    }


def attribute(proto: onnx.AttributeProto) -> Any:
    found = onnx.helper.get_attribute_value(proto)
    if isinstance(found, onnx.TensorProto):
        return numpy_helper.to_array(found)
    if isinstance(found, bytes):
        return found.decode()
    return found


def op_of(node: onnx.NodeProto, opset: int) -> Op:
    attributes = {proto.name: attribute(proto) for proto in node.attribute}
    name = node.name or node.op_type
    return Op(name, node.op_type, tuple(node.input), tuple(node.output), attributes, opset=opset)


def known(array: np.ndarray[Any, Any]) -> Value:
    return Value(array.shape, name_of(array.dtype), constant=array)


def run(op: Op, *arrays: Any) -> list[np.ndarray[Any, Any]]:
    """Infer, cost and compute one operation; every output must have the shape and type that was inferred."""
    values = [None if array is None else known(np.asarray(array)) for array in arrays]
    inferred = find(op).infer(op, values)
    results = find(op).compute(op, [None if array is None else np.asarray(array) for array in arrays])
    assert [(result.shape, name_of(result.dtype)) for result in results[: len(inferred)]] == inferred[: len(results)]
    outputs = [Value(shape, kind) for shape, kind in inferred]
    check_work(find(op).work(op, values, outputs), outputs)
    return results


def check_work(work: Work, outputs: list[Value]) -> None:
    """A view moves no byte; all else writes its outputs whole, and computes unless it only moves data."""
    if isinstance(work, Move) and work.free:
        assert work.bytes == work.flops == 0
        return
    written = sum(output.operand().bytes for output in outputs)
    assert work.write_bytes == written or work.kind == "TensorScatter"
    if not written or not work.read_bytes:
        return
    if isinstance(work, Move):
        assert 0 < work.contiguous_bytes <= work.bytes
    elif isinstance(work, Gather):
        assert work.lookups * work.run_bytes > 0
    else:
        assert work.flops > 0


def numbers(array: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(array)
    return array if array.dtype.kind in "biucOUS" else array.astype(np.float64)


def to_array(found: Any) -> Any:
    return numpy_helper.to_array(found) if isinstance(found, onnx.TensorProto) else found


@pytest.mark.parametrize("name", sorted(set(cases()) - set(EXCLUDED)))
def test_operator_agrees_with_the_standard(name: str) -> None:
    case = cases()[name]
    graph, opset = case.model.graph, case.model.opset_import[0].version
    inputs, expected = case.data_sets[0]
    tensors = {info.name: to_array(array) for info, array in zip(graph.input, inputs, strict=True)}
    for node in graph.node:
        results = run(op_of(node, opset), *(tensors[name] if name else None for name in node.input))
        tensors.update(zip(node.output, results, strict=False))
    for info, want in zip(graph.output, expected, strict=True):
        got, wanted = tensors[info.name], to_array(want)
        assert got.shape == wanted.shape
        assert name_of(got.dtype) == name_of(wanted.dtype)
        if wanted.dtype.kind in "OUS":
            assert got.astype(str).tolist() == wanted.astype(str).tolist()
        else:
            rtol = max(case.rtol, 2 * LAST_PLACE.get(name_of(got.dtype), 0.0)) if len(graph.node) > 1 else case.rtol
            np.testing.assert_allclose(numbers(got), numbers(wanted), rtol=rtol, atol=case.atol)


def test_every_excluded_case_exists() -> None:
    assert set(EXCLUDED) <= set(cases())
