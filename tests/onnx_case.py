"""ONNX nodes as tests: any node against onnxruntime, and the node cases that the standard brings with it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from codesign.dtypes import name_of
from codesign.graph import Op
from codesign.ops.base import Array, Value, find
from codesign.work import Work


class NodeCase:
    """A node with its inputs (None for an absent optional) and `outputs` results."""

    def __init__(
        self,
        kind: str,
        inputs: Sequence[Array | None],
        outputs: int = 1,
        domain: str = "",
        opset: int = 20,
        constants: Sequence[int] = (),
        typed: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        """`constants` are the positions of inputs that the model holds: kernels pack weights in advance, and
        onnxruntime takes no 4-bit arrays from outside; `typed` are the types of the outputs, for the few operators
        whose rule does not tell."""
        self.typed = typed
        self.arrays = list(inputs)
        self.constants = frozenset(f"x{index}" for index in constants)
        self.names = [f"x{index}" if array is not None else "" for index, array in enumerate(inputs)]
        self.outputs = [f"y{index}" for index in range(outputs)]
        self.node = helper.make_node(kind, self.names, self.outputs, name="node", domain=domain, **attributes)
        self.opset = opset
        self.domain = domain
        self.op = Op("node", kind, tuple(self.names), tuple(self.outputs), attributes, domain, 0 if domain else opset)

    def model(self) -> onnx.ModelProto:
        types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in self._given()}
        graph = helper.make_graph(
            [self.node],
            "case",
            [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in self._given()],
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(self.typed[index])), None)
                if index < len(self.typed)
                else onnx.ValueInfoProto(name=name)
                for index, name in enumerate(self.outputs)
            ],
            [numpy_helper.from_array(array, name) for name, array in self._held() if name in self.constants],
        )
        versions = {"": self.opset, "com.microsoft": 1, "ai.onnx.ml": 3}
        imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _held(self) -> list[tuple[str, Array]]:
        return [(name, array) for name, array in zip(self.names, self.arrays, strict=True) if array is not None]

    def _given(self) -> list[tuple[str, Array]]:
        return [(name, array) for name, array in self._held() if name not in self.constants]

    def expected(self) -> list[Array]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            self.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return [np.asarray(value) for value in session.run(None, dict(self._given()))]

    def values(self) -> list[Value | None]:
        return [
            None
            if array is None
            else Value(array.shape, name_of(array.dtype), constant=array if array.size < 64 else None)
            for array in self.arrays
        ]

    def computed(self) -> list[Array]:
        return find(self.op).compute(self.op, self.arrays)

    def inferred(self) -> list[tuple[tuple[int, ...], str]]:
        return find(self.op).infer(self.op, self.values())

    def work(self) -> Work:
        results = [Value(shape, dtype) for shape, dtype in self.inferred()]
        return find(self.op).work(self.op, self.values(), results)

    def check(self, tolerance: float = 1e-4) -> None:
        """Values agree with onnxruntime; shapes and types agree with those inferred; the work has operands."""
        before = [None if array is None else array.copy() for array in self.arrays]
        computed, expected, inferred = self.computed(), self.expected(), self.inferred()
        assert len(computed) == len(expected) == len(inferred)
        for mine, theirs, (shape, dtype) in zip(computed, expected, inferred, strict=True):
            assert mine.shape == theirs.shape == shape
            assert name_of(mine.dtype) == name_of(theirs.dtype) == dtype
            assert relative_error(mine, theirs) < tolerance
        for array, copy in zip(self.arrays, before, strict=True):
            if array is not None and copy is not None:
                np.testing.assert_array_equal(array, copy)
        work = self.work()
        assert work.reads
        assert work.writes
        assert work.flops >= work.macs


def relative_error(mine: Array, theirs: Array) -> float:
    """Largest difference over the spread (largest less smallest) of what was expected."""
    if theirs.size == 0:
        return 0.0
    difference = float(np.max(np.abs(mine.astype(np.float64) - theirs.astype(np.float64))))
    spread = float(np.ptp(theirs.astype(np.float64))) or max(float(np.max(np.abs(theirs))), 1.0)
    return difference / spread


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal values of this shape, float32, reproducible."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


@cache
def standard_cases() -> dict[str, Any]:
    """The standard's own cases of one operator, of ONNX's default domain, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {
        case.name: case
        for case in found
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].domain in ("", "ai.onnx")
    }


def standard_case_names(*kinds: str) -> list[str]:
    """Names of the standard's cases of these operators."""
    return [name for name, case in standard_cases().items() if case.model.graph.node[0].op_type in kinds]


def check_standard_case(name: str) -> None:
    """Values, shapes and types agree with the standard's, within the tolerance that the case states.

    bfloat16 may differ by two units in the last place: the standard's cases round each intermediate result to it.
    """
    case = standard_cases()[name]
    node = case.model.graph.node[0]
    attributes = {proto.name: _plain(helper.get_attribute_value(proto)) for proto in node.attribute}
    opset = case.model.opset_import[0].version
    op = Op(node.name or name, node.op_type, tuple(node.input), tuple(node.output), attributes, "", opset)
    inputs, expected = case.data_sets[0]
    given = dict(zip((info.name for info in case.model.graph.input), map(_plain, inputs), strict=True))
    arrays = [given[one] if one else None for one in node.input]
    values = [None if array is None else Value(array.shape, name_of(array.dtype), constant=array) for array in arrays]
    inferred = find(op).infer(op, values)
    computed = dict(zip(node.output, find(op).compute(op, arrays), strict=False))
    shapes = dict(zip(node.output, inferred, strict=False))
    for info, result in zip(case.model.graph.output, map(_plain, expected), strict=True):
        mine = computed[info.name]
        assert (mine.shape, name_of(mine.dtype)) == (result.shape, name_of(result.dtype)) == shapes[info.name]
        if mine.dtype == object:
            assert mine.tolist() == result.tolist()
            continue
        rtol = 2 * 2.0**-7 if name_of(mine.dtype) == "bfloat16" else case.rtol
        np.testing.assert_allclose(mine.astype(np.float64), result.astype(np.float64), rtol, max(case.atol, 1e-6))
    results = [Value(*described) for described, output in zip(inferred, node.output, strict=True) if output]
    work = find(op).work(op, values, results)
    assert work.reads
    assert work.writes


def _plain(found: Any) -> Any:
    if isinstance(found, onnx.TensorProto):
        return numpy_helper.to_array(found)
    if isinstance(found, list):
        return [_plain(item) for item in found]
    return found.decode() if isinstance(found, bytes) else found


__all__ = ["NodeCase", "check_standard_case", "normal", "relative_error", "standard_case_names", "standard_cases"]
