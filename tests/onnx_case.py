"""One ONNX node as a test: run by onnxruntime and by our operator, with the error relative to the output's spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

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
        **attributes: Any,
    ) -> None:
        self.arrays = list(inputs)
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
            [onnx.ValueInfoProto(name=name) for name in self.outputs],
        )
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _given(self) -> list[tuple[str, Array]]:
        return [(name, array) for name, array in zip(self.names, self.arrays, strict=True) if array is not None]

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


__all__ = ["NodeCase", "normal", "relative_error"]
