"""Small graphs written down operation by operation, and the check that a transform keeps their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from codesign.dtypes import name_of
from codesign.executor.executor import Executor
from codesign.graph import Graph, Op, Tensor, Weight
from codesign.ops.base import Value, find

Array = np.ndarray[Any, Any]


class Build:
    """A graph under construction; each operation's shape comes from its own rule."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.weights: dict[str, Weight] = {}
        self.ops: list[Op] = []
        self.inputs: list[str] = []
        self.random = np.random.default_rng(7)

    def input(self, *shape: int, dtype: str = "float32") -> str:
        name = f"in{len(self.inputs)}"
        self.tensors[name] = Tensor(name, shape, dtype)
        self.inputs.append(name)
        return name

    def constant(self, values: Any, dtype: Any = np.float32, parameter: bool = False) -> str:
        array = np.array(values, dtype)
        name = f"c{len(self.weights)}"
        self.tensors[name] = Tensor(name, array.shape, name_of(array.dtype))
        self.weights[name] = Weight(self.tensors[name], array, is_parameter=parameter)
        return name

    def parameter(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape), parameter=True)

    def absent(self, *shape: int) -> str:
        """A parameter whose values the model does not hold."""
        name = f"c{len(self.weights)}"
        self.tensors[name] = Tensor(name, shape, "float32")
        self.weights[name] = Weight(self.tensors[name])
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Names of the results; one name when there is one."""
        index = len(self.ops)
        names = tuple(f"t{index}_{number}" for number in range(outputs))
        opset = attributes.pop("opset", 18)
        op = Op(f"n{index}", kind, inputs, names, attributes, domain, opset, (f"n{index}",))
        self.ops.append(op)
        for name, (shape, dtype) in zip(names, find(op).infer(op, [self._value(one) for one in inputs]), strict=True):
            self.tensors[name] = Tensor(name, tuple(shape), dtype)
        return names[0] if outputs == 1 else names

    def _value(self, name: str) -> Value | None:
        if not name:
            return None
        tensor, weight = self.tensors[name], self.weights.get(name)
        return Value(tensor.shape, tensor.dtype, constant=weight.inline if weight else None)

    def reshape(self, value: str, *shape: int) -> str:
        return str(self.op("Reshape", value, self.constant(shape, np.int64)))

    def graph(self, *outputs: str) -> Graph:
        return Graph("case", self.tensors, self.weights, tuple(self.ops), tuple(self.inputs), outputs)


def kinds(graph: Graph) -> dict[str, int]:
    """How many operations of each kind the graph has, epilogues not counted."""
    return dict(Counter(op.kind for op in graph.ops))


def epilogues(graph: Graph) -> dict[str, list[str]]:
    """Kinds of the followers of each operation, by the operation's own kind."""
    return {op.kind: [follower.kind for follower in op.epilogue] for op in graph.ops}


def seeded_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Normal values for floats, all values for 8-bit integers, both truth values, and small whole numbers."""
    random = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        if tensor.dtype.startswith("float"):
            values[name] = random.standard_normal(tensor.shape).astype(tensor.dtype)
        else:
            low, high = {"uint8": (0, 256), "int8": (-128, 128), "bool": (0, 2)}.get(tensor.dtype, (0, 8))
            values[name] = random.integers(low, high, tensor.shape).astype(tensor.dtype)
    return values


def keeps_values(graph: Graph, transform: Callable[[Graph], Graph], tolerance: float = 1e-5) -> Graph:
    """The transformed graph, after checking that it computes the same outputs from the same inputs.

    The largest difference is at most `tolerance` of the largest value. Outputs keep names, shapes and types, every
    operation reads what is there, and no ONNX node that a needed operation came from is lost.
    """
    result = transform(graph)
    inputs = seeded_inputs(graph)
    before, after = Executor(graph).run(inputs), Executor(result).run(inputs)
    assert result.inputs == graph.inputs
    assert result.outputs == graph.outputs
    assert_consistent(result)
    for name, expected in before.items():
        found = after[name]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        scale = float(np.max(np.abs(expected.astype(np.float64)), initial=1e-30))
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        assert float(np.max(difference, initial=0.0)) <= tolerance * scale, name
    return result


def assert_consistent(graph: Graph) -> None:
    """Operations stand in order, write each name once, and all tensors are described."""
    known = set(graph.inputs) | set(graph.weights)
    for op in graph.ops:
        assert known.issuperset(op.reads()), op
        written = [name for name in op.outputs if name]
        assert known.isdisjoint(written), op
        known.update(written)
        assert op.sources
    assert known.issuperset(graph.outputs)
    assert known.issubset(graph.tensors)
