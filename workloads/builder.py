"""A typed builder of ONNX graphs: every value knows its shape, every node says where in the network it stands.

Learned weights are declared, not stored: their initialisers point to an external file that does not exist, so that
the largest model is built in milliseconds. `workloads.storage` gives them values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 23
"""The first opset with Attention, RMSNormalization and RotaryEmbedding."""

IR_VERSION = 11
"""The ONNX file format that came with opset 23."""

ABSENT = "weights.absent"
"""External location of every declared weight."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph being built: name, shape, ONNX element type."""

    name: str
    shape: tuple[int, ...]
    data_type: int = TensorProto.FLOAT

    @property
    def rank(self) -> int:
        return len(self.shape)


class Builder:
    """Collects nodes, weights, inputs and outputs; `scope` nests their names as `layer3/attention/query`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scopes: list[str] = []
        self._names: dict[str, int] = {}
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._values: list[Value] = []
        self._inputs: list[Value] = []
        self._outputs: dict[str, Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes and weights made inside are named under `name`."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(self, name: str, shape: Sequence[int], data_type: int = TensorProto.FLOAT) -> Value:
        """A graph input."""
        value = Value(name, tuple(shape), data_type)
        self._inputs.append(value)
        return value

    def output(self, value: Value, name: str) -> None:
        """Make `value`, which a node computes, a graph output called `name`. Raises ValueError when it is one."""
        if value.name in self._outputs:
            raise ValueError(f"'{value.name}' is already the output '{self._outputs[value.name].name}'")
        self._outputs[value.name] = Value(name, value.shape, value.data_type)

    def weight(self, name: str, *shape: int) -> Value:
        """A learned tensor in float32, its values absent."""
        value = Value(self._unique(name), shape)
        tensor = TensorProto(name=value.name, data_type=value.data_type, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=ABSENT)
        self._initializers.append(tensor)
        return value

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> Value:
        """A tensor whose values belong to the architecture (shapes, indices, scales, tables): a Constant node."""
        tensor = numpy_helper.from_array(array)
        [value] = self.node("Constant", [], [array.shape], name=name, data_type=tensor.data_type, value=tensor)
        return value

    def integers(self, name: str, values: Sequence[int] | int) -> Value:
        """A constant of 64-bit integers: a shape, axes, or an index."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def node(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[Sequence[int]],
        name: str = "",
        data_type: int | None = None,
        **attributes: Any,
    ) -> list[Value]:
        """A node of ONNX operator `kind` whose outputs have the shapes stated.

        The node is called `name` (by default the operator's) within the scope, and its outputs after it. `data_type`
        defaults to the first input's.
        """
        unique = self._unique(name or kind)
        if data_type is None:
            data_type = next(value.data_type for value in inputs if value is not None)
        names = [unique] if len(shapes) == 1 else [f"{unique}:{index}" for index in range(len(shapes))]
        arguments = [value.name if value is not None else "" for value in inputs]
        self._nodes.append(helper.make_node(kind, arguments, names, name=unique, **attributes))
        outputs = [Value(output, tuple(shape), data_type) for output, shape in zip(names, shapes, strict=True)]
        self._values.extend(outputs)
        return outputs

    def unary(self, kind: str, value: Value, name: str = "", **attributes: Any) -> Value:
        """A node with one input and an output of the same shape and type."""
        [result] = self.node(kind, [value], [value.shape], name, **attributes)
        return result

    def binary(self, kind: str, left: Value, right: Value, name: str = "") -> Value:
        """An elementwise node with numpy's broadcasting."""
        [result] = self.node(kind, [left, right], [np.broadcast_shapes(left.shape, right.shape)], name)
        return result

    def add(self, left: Value, right: Value, name: str = "") -> Value:
        return self.binary("Add", left, right, name)

    def multiply(self, left: Value, right: Value, name: str = "") -> Value:
        return self.binary("Mul", left, right, name)

    def scalar(self, name: str, number: float) -> Value:
        """A float32 constant without dimensions."""
        return self.constant(name, np.asarray(number, dtype=np.float32))

    def matmul(self, left: Value, right: Value, name: str = "") -> Value:
        """Matrix product over the last two dimensions. Raises ValueError when inner sizes differ."""
        if left.shape[-1] != right.shape[-2]:
            raise ValueError(f"{self._path(name)}: inner dimensions of {left.shape} and {right.shape} differ")
        leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        [result] = self.node("MatMul", [left, right], [(*leading, left.shape[-2], right.shape[-1])], name)
        return result

    def reshape(self, value: Value, shape: Sequence[int], name: str = "") -> Value:
        """`value` in another shape; an unchanged leading dimension (the batch) is copied, not written as a number,
        so that the graph can be given another batch. Raises ValueError when element counts differ."""
        if math.prod(value.shape) != math.prod(shape):
            raise ValueError(f"{self._path(name)}: {value.shape} cannot be reshaped to {tuple(shape)}")
        stated = [0, *shape[1:]] if shape and value.shape and shape[0] == value.shape[0] else list(shape)
        return self._reshaped(value, stated, shape, name)

    def flatten_rows(self, value: Value, name: str = "") -> Value:
        """All dimensions but the last made one."""
        shape = (math.prod(value.shape[:-1]), value.shape[-1])
        return self._reshaped(value, [-1, shape[1]], shape, name)

    def unflatten_rows(self, value: Value, leading: Sequence[int], name: str = "") -> Value:
        """The reverse of `flatten_rows`: rows made the dimensions `leading`, the first of them inferred."""
        shape = (*leading, value.shape[-1])
        return self._reshaped(value, [-1, *shape[1:]], shape, name)

    def transpose(self, value: Value, axes: Sequence[int], name: str = "") -> Value:
        shape = [value.shape[axis] for axis in axes]
        [result] = self.node("Transpose", [value], [shape], name, perm=list(axes))
        return result

    def concat(self, values: Sequence[Value], axis: int, name: str = "") -> Value:
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        [result] = self.node("Concat", values, [shape], name, axis=axis)
        return result

    def split(self, value: Value, parts: int, axis: int = -1, name: str = "") -> list[Value]:
        """`parts` equal pieces along `axis`."""
        shape = list(value.shape)
        shape[axis] //= parts
        return self.node("Split", [value], [shape] * parts, name, axis=axis, num_outputs=parts)

    def take(self, value: Value, index: int, axis: int, name: str = "") -> Value:
        """The slice at `index` of `axis`, that dimension dropped."""
        shape = [extent for position, extent in enumerate(value.shape) if position != axis % value.rank]
        index_value = self.integers(f"{name or 'Gather'}.index", index)
        [result] = self.node("Gather", [value, index_value], [shape], name, axis=axis)
        return result

    def lookup(self, table: Value, indices: Value, name: str = "") -> Value:
        """Rows of `table` at `indices`: an embedding."""
        shape = (*indices.shape, *table.shape[1:])
        [result] = self.node("Gather", [table, indices], [shape], name, data_type=table.data_type, axis=0)
        return result

    def mean(self, value: Value, axes: Sequence[int], name: str = "") -> Value:
        """The mean over `axes`, which are dropped."""
        shape = [extent for position, extent in enumerate(value.shape) if position not in axes]
        axes_value = self.integers(f"{name or 'ReduceMean'}.axes", list(axes))
        [result] = self.node("ReduceMean", [value, axes_value], [shape], name, keepdims=0)
        return result

    def model(self) -> ModelProto:
        """The finished model."""
        self._rename_outputs()
        graph = helper.make_graph(
            self._nodes,
            self.name,
            _described(self._inputs),
            _described(self._outputs.values()),
            self._initializers,
            value_info=_described(value for value in self._values if value.name not in self._outputs),
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="codesign.workloads"
        )

    def _rename_outputs(self) -> None:
        """Give the tensors that are graph outputs their names, where they are written and read."""
        renamed = {internal: output.name for internal, output in self._outputs.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name in renamed:
                        names[index] = renamed[name]

    def _reshaped(self, value: Value, stated: Sequence[int], shape: Sequence[int], name: str) -> Value:
        target = self.integers(f"{name or 'Reshape'}.shape", list(stated))
        [result] = self.node("Reshape", [value, target], [shape], name)
        return result

    def _path(self, name: str) -> str:
        return "/".join([*self._scopes, name] if name else self._scopes)

    def _unique(self, name: str) -> str:
        """`name` under the current scopes, numbered from its second use on."""
        path = self._path(name)
        count = self._names.get(path, 0)
        self._names[path] = count + 1
        return path if not count else f"{path}_{count}"


def _described(values: Iterable[Value]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(value.name, value.data_type, value.shape) for value in values]
