"""A typed builder of ONNX graphs: every value knows its shape, every node says where in the network it stands.

Learned weights are declared, not stored: their initialisers point to an external file that does not exist, so that
the largest model is built in milliseconds. `workloads.storage` gives them values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 23
"""The first opset with Attention, RMSNormalization and RotaryEmbedding."""

IR_VERSION = 11
"""The ONNX file format that came with opset 23."""

ABSENT = "weights.absent"
"""External location of every declared weight."""

Made = TypeVar("Made")

Step = Callable[[list["Value"], list["Value"]], tuple[list["Value"], list["Value"]]]
"""One step of a recurrence: the states before it and this step's slices, to the states after it and its results."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph being built: name, shape, ONNX element type."""

    name: str
    shape: tuple[int, ...]
    data_type: int = TensorProto.FLOAT

    @property
    def rank(self) -> int:
        return len(self.shape)


class _WeightSet:
    """Weights by their names below the scope that uses them, and the how-manieth of that name each is in one use."""

    def __init__(self) -> None:
        self._weights: dict[tuple[str, int], Value] = {}
        self._seen: Counter[str] = Counter()
        self._scope = ""

    def begin(self, scope: str) -> None:
        """Start a use, inside `scope`."""
        self._scope = scope
        self._seen.clear()

    def weight(self, path: str, declare: Callable[[], Value]) -> Value:
        below = path.removeprefix(f"{self._scope}/")
        key = (below, self._seen[below])
        self._seen[below] += 1
        if key not in self._weights:
            self._weights[key] = declare()
        return self._weights[key]


class Builder:
    """Collects nodes, weights, inputs and outputs; `scope` nests their names as `layer3/attention/query`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scopes: list[str] = []
        self._names: dict[str, int] = {}
        self._shared: dict[str, Any] = {}
        self._sets: dict[str, _WeightSet] = {}
        self._sharing: _WeightSet | None = None
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
        """A learned tensor in float32, its values absent. Inside `sharing` it is the one that stands there already."""
        if self._sharing is not None:
            return self._sharing.weight(self.path(name), lambda: self._declared(name, shape))
        return self._declared(name, shape)

    def _declared(self, name: str, shape: tuple[int, ...]) -> Value:
        value = Value(self._unique(name), shape)
        tensor = TensorProto(name=value.name, data_type=value.data_type, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=ABSENT)
        self._initializers.append(tensor)
        return value

    @contextmanager
    def sharing(self, name: str) -> Iterator[None]:
        """Weights made inside are those made inside the first `sharing` of this name, by their names below this scope:
        one set of weights that runs several times. Nodes are each use's own."""
        outer, self._sharing = self._sharing, self._sets.setdefault(name, _WeightSet())
        self._sharing.begin(self.path(""))
        try:
            yield
        finally:
            self._sharing = outer

    def frozen(self, name: str, array: np.ndarray[Any, Any]) -> Value:
        """A tensor that was never trained but stands among the parameters, and is counted with them: its values are in
        the file."""
        unique = self._unique(name)
        tensor = numpy_helper.from_array(array, unique)
        self._initializers.append(tensor)
        return Value(unique, array.shape, tensor.data_type)

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> Value:
        """A tensor whose values belong to the architecture (shapes, indices, scales, tables): a Constant node."""
        tensor = numpy_helper.from_array(array)
        [value] = self.node("Constant", [], [array.shape], name=name, data_type=tensor.data_type, value=tensor)
        return value

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` builds, built the first time and shared by all who ask for the same `name`, which stands outside
        every scope: tables, masks and indices that layers have in common. Not inside the body of a `scan`."""
        if name not in self._shared:
            scopes, self._scopes = self._scopes, []
            with self.scope(name):
                self._shared[name] = make()
            self._scopes = scopes
        return self._shared[name]

    def integers(self, name: str, values: Sequence[int] | np.ndarray[Any, Any] | int) -> Value:
        """A constant of 64-bit integers: a shape, axes, or an index."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def node(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[Sequence[int]],
        name: str = "",
        data_type: int | Sequence[int] | None = None,
        **attributes: Any,
    ) -> list[Value]:
        """A node of ONNX operator `kind` whose outputs have the shapes stated.

        The node is called `name` (by default the operator's) within the scope, and its outputs after it. `data_type`,
        one or one for each output, defaults to the first input's.
        """
        unique = self._unique(name or kind)
        if data_type is None:
            data_type = next(value.data_type for value in inputs if value is not None)
        names = [unique] if len(shapes) == 1 else [f"{unique}:{index}" for index in range(len(shapes))]
        arguments = [value.name if value is not None else "" for value in inputs]
        self._nodes.append(helper.make_node(kind, arguments, names, name=unique, **attributes))
        types = [data_type] * len(shapes) if isinstance(data_type, int) else data_type
        outputs = [Value(*described) for described in zip(names, map(tuple, shapes), types, strict=True)]
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
            raise ValueError(f"{self.path(name)}: inner dimensions of {left.shape} and {right.shape} differ")
        leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        [result] = self.node("MatMul", [left, right], [(*leading, left.shape[-2], right.shape[-1])], name)
        return result

    def reshape(self, value: Value, shape: Sequence[int], name: str = "") -> Value:
        """`value` in another shape; its leading dimension (the batch) is copied or inferred, not written as a number,
        so that the graph can be given another batch. Raises ValueError when element counts differ."""
        if math.prod(value.shape) != math.prod(shape):
            raise ValueError(f"{self.path(name)}: {value.shape} cannot be reshaped to {tuple(shape)}")
        unchanged = shape and value.shape and shape[0] == value.shape[0]
        stated = [0 if unchanged else -1, *shape[1:]] if shape else []
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

    def pick(self, value: Value, order: np.ndarray[Any, Any], axis: int, name: str = "") -> Value:
        """`value` with the positions `order` of `axis`, known when the graph is built."""
        shape = [*value.shape]
        shape[axis] = order.size
        index = self.integers(f"{name or 'Gather'}.order", [int(position) for position in order])
        [result] = self.node("Gather", [value, index], [shape], name, axis=axis)
        return result

    def gather_rows(self, value: Value, places: Value, name: str = "") -> Value:
        """`value` (batch, rows, n) in the order of `places` (batch, rows'), each batch its own: (batch, rows', n)."""
        index = self._per_element(places, value.shape[-1], name)
        [result] = self.node("GatherElements", [value, index], [index.shape], name, axis=1)
        return result

    def scatter_rows(self, value: Value, places: Value, name: str = "") -> Value:
        """The reverse of `gather_rows` by a permutation: row i goes to the place that stands i-th in `places`."""
        index = self._per_element(places, value.shape[-1], name)
        [result] = self.node("ScatterElements", [value, index, value], [value.shape], name, axis=1)
        return result

    def _per_element(self, places: Value, features: int, name: str) -> Value:
        """`places` (batch, rows) repeated for every feature."""
        with self.scope(f"{name or 'rows'}.index"):
            return self.expand(self.unsqueeze(places, [2]), (*places.shape, features))

    def lookup(self, table: Value, indices: Value, name: str = "") -> Value:
        """Rows of `table` at `indices`: an embedding."""
        shape = (*indices.shape, *table.shape[1:])
        [result] = self.node("Gather", [table, indices], [shape], name, data_type=table.data_type, axis=0)
        return result

    def mean(self, value: Value, axes: Sequence[int], name: str = "") -> Value:
        """The mean over `axes`, which are dropped."""
        return self.reduce("ReduceMean", value, axes, name)

    def sum(self, value: Value, axes: Sequence[int], name: str = "", keepdims: bool = False) -> Value:
        """The sum over `axes`, which are dropped or kept with extent 1."""
        return self.reduce("ReduceSum", value, axes, name, keepdims)

    def reduce(self, kind: str, value: Value, axes: Sequence[int], name: str = "", keepdims: bool = False) -> Value:
        """A reduction ("ReduceSum", "ReduceMax", ...) over `axes`, which are dropped or kept with extent 1."""
        axes = [axis % value.rank for axis in axes]
        shape = [
            1 if axis in axes else extent for axis, extent in enumerate(value.shape) if keepdims or axis not in axes
        ]
        axes_value = self.integers(f"{name or kind}.axes", axes)
        [result] = self.node(kind, [value, axes_value], [shape], name, keepdims=int(keepdims))
        return result

    def slice(self, value: Value, start: int, stop: int, axis: int, name: str = "") -> Value:
        """Positions `start` to `stop` (not included) of `axis`; negative bounds count from the end, as in Python."""
        start, stop, _ = slice(start, stop).indices(value.shape[axis])
        shape = [*value.shape]
        shape[axis] = stop - start
        bounds = [
            self.integers(f"{name or 'Slice'}.{part}", [at])
            for part, at in (("start", start), ("stop", stop), ("axis", axis % value.rank))
        ]
        [result] = self.node("Slice", [value, *bounds], [shape], name)
        return result

    def pad(self, value: Value, amounts: Mapping[int, tuple[int, int]], name: str = "") -> Value:
        """`value` with zeros before and after it along each axis of `amounts`; itself where there are none."""
        if not any(before or after for before, after in amounts.values()):
            return value
        shape = [*value.shape]
        for axis, (before, after) in amounts.items():
            shape[axis] += before + after
        pads = [before for before, _ in amounts.values()] + [after for _, after in amounts.values()]
        stated = [
            self.integers(f"{name or 'Pad'}.pads", pads),
            None,
            self.integers(f"{name or 'Pad'}.axes", [*amounts]),
        ]
        [result] = self.node("Pad", [value, *stated], [shape], name)
        return result

    def reversed(self, value: Value, first: int, last: int, axis: int, name: str = "") -> Value:
        """Positions `last` - 1 down to `first` of `axis`."""
        shape = [*value.shape]
        shape[axis] = last - first
        end = first - 1 if first else -value.shape[axis] - 1
        bounds = [
            self.integers(f"{name or 'Slice'}.{part}", [at])
            for part, at in (("start", last - 1), ("stop", end), ("axis", axis % value.rank), ("step", -1))
        ]
        [result] = self.node("Slice", [value, *bounds], [shape], name)
        return result

    def split_sizes(self, value: Value, sizes: Sequence[int], axis: int = -1, name: str = "") -> list[Value]:
        """Pieces of the extents `sizes` along `axis`. Raises ValueError when they do not add up."""
        if sum(sizes) != value.shape[axis]:
            raise ValueError(f"{self.path(name)}: {value.shape} cannot be split into {list(sizes)} along {axis}")
        axis %= value.rank
        shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in sizes]
        sizes_value = self.integers(f"{name or 'Split'}.sizes", list(sizes))
        return self.node("Split", [value, sizes_value], shapes, name, axis=axis)

    def unsqueeze(self, value: Value, axes: Sequence[int], name: str = "") -> Value:
        """`value` with dimensions of extent 1 at `axes` of the result."""
        rank = value.rank + len(axes)
        axes = [axis % rank for axis in axes]
        extents = iter(value.shape)
        shape = [1 if axis in axes else next(extents) for axis in range(rank)]
        [result] = self.node("Unsqueeze", [value, self.integers(f"{name or 'Unsqueeze'}.axes", axes)], [shape], name)
        return result

    def expand(self, value: Value, shape: Sequence[int], name: str = "") -> Value:
        """`value` repeated along its dimensions of extent 1."""
        target = self.integers(f"{name or 'Expand'}.shape", list(shape))
        [result] = self.node("Expand", [value, target], [shape], name)
        return result

    def zeros(self, name: str, shape: Sequence[int]) -> Value:
        """Zeros in float32, made in the graph and not stored."""
        extents = self.integers(f"{name}.shape", list(shape))
        [result] = self.node("ConstantOfShape", [extents], [shape], name, data_type=TensorProto.FLOAT)
        return result

    def compare(self, kind: str, left: Value, right: Value, name: str = "") -> Value:
        """A comparison ("Less", "GreaterOrEqual", ...) with numpy's broadcasting: true or false."""
        shape = np.broadcast_shapes(left.shape, right.shape)
        [result] = self.node(kind, [left, right], [shape], name, data_type=TensorProto.BOOL)
        return result

    def where(self, condition: Value, chosen: Value, other: Value, name: str = "") -> Value:
        """`chosen` where the condition is true, else `other`, with numpy's broadcasting."""
        shape = np.broadcast_shapes(condition.shape, chosen.shape, other.shape)
        [result] = self.node("Where", [condition, chosen, other], [shape], name, data_type=chosen.data_type)
        return result

    def cast(self, value: Value, data_type: int, name: str = "") -> Value:
        [result] = self.node("Cast", [value], [value.shape], name, data_type=data_type, to=int(data_type))
        return result

    def top_k(
        self, value: Value, count: int, axis: int = -1, name: str = "", in_order: bool = True
    ) -> tuple[Value, Value]:
        """The `count` largest along `axis` and their positions: the largest first, or not `in_order`."""
        shape = [*value.shape]
        shape[axis] = count
        types = (value.data_type, int(TensorProto.INT64))
        inputs = [value, self.integers(f"{name or 'TopK'}.count", [count])]
        values, positions = self.node("TopK", inputs, [shape, shape], name, types, axis=axis, sorted=int(in_order))
        return values, positions

    def cumulative_sum(self, value: Value, axis: int, name: str = "", **attributes: int) -> Value:
        """Sums up to and including each position; `exclusive=1` leaves its own out, `reverse=1` sums from the end."""
        axis_value = self.integers(f"{name or 'CumSum'}.axis", axis % value.rank)
        [result] = self.node("CumSum", [value, axis_value], [value.shape], name, **attributes)
        return result

    def einsum(self, equation: str, *values: Value, name: str = "") -> Value:
        """Einstein summation with every index written out. Raises ValueError when an index has two extents."""
        operands, result = equation.replace(" ", "").split("->")
        extents: dict[str, int] = {}
        for indices, value in zip(operands.split(","), values, strict=True):
            for index, extent in zip(indices, value.shape, strict=True):
                if extents.setdefault(index, extent) != extent:
                    raise ValueError(
                        f"{self.path(name)}: index {index} of '{equation}' is {extents[index]} and {extent}"
                    )
        [output] = self.node("Einsum", values, [[extents[index] for index in result]], name, equation=equation)
        return output

    def scan(
        self, step: Step, states: Sequence[Value], sequences: Sequence[Value], axis: int, name: str = "scan"
    ) -> tuple[list[Value], list[Value]]:
        """A recurrence as one Scan node: `step` for each position along `axis` of `sequences`, one after another.

        Returns the states after the last step and, for each result of a step, all of them stacked along `axis`. What
        `step` reads of the graph around it (weights, say) the body captures.
        """
        unique = self._unique(f"{name}/body")
        length = sequences[0].shape[axis]
        body_states = [Value(f"{unique}/state{i}", v.shape, v.data_type) for i, v in enumerate(states)]
        slices = [
            Value(f"{unique}/slice{i}", (*v.shape[:axis], *v.shape[axis + 1 :]), v.data_type)
            for i, v in enumerate(sequences)
        ]
        outer_nodes, outer_values, self._nodes, self._values = self._nodes, self._values, [], []
        with self.scope(name):
            after, results = step(list(body_states), list(slices))
            results = [self.unary("Identity", v, "result") if v in (*after, *slices) else v for v in results]
        body = helper.make_graph(
            self._nodes, unique, _described([*body_states, *slices]), _described([*after, *results]),
            value_info=_described(v for v in self._values if v not in (*after, *results)),
        )  # fmt: skip
        self._nodes, self._values = outer_nodes, outer_values
        shapes = [v.shape for v in after] + [(*v.shape[:axis], length, *v.shape[axis:]) for v in results]
        attributes: dict[str, Any] = {"scan_input_axes": [axis] * len(sequences)} | (
            {"scan_output_axes": [axis] * len(results)} if results else {}
        )
        outputs = self.node(
            "Scan", [*states, *sequences], shapes, name, body=body, num_scan_inputs=len(sequences), **attributes
        )
        return outputs[: len(states)], outputs[len(states) :]

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
        _rename(self._nodes, {internal: output.name for internal, output in self._outputs.items()})

    def _reshaped(self, value: Value, stated: Sequence[int], shape: Sequence[int], name: str) -> Value:
        target = self.integers(f"{name or 'Reshape'}.shape", list(stated))
        [result] = self.node("Reshape", [value, target], [shape], name)
        return result

    def path(self, name: str) -> str:
        """`name` with the scopes around it."""
        return "/".join([*self._scopes, name] if name else self._scopes)

    def _unique(self, name: str) -> str:
        """`name` under the current scopes, numbered from its second use on."""
        path = self.path(name)
        count = self._names.get(path, 0)
        self._names[path] = count + 1
        return path if not count else f"{path}_{count}"


def _rename(nodes: Iterable[NodeProto], renamed: dict[str, str]) -> None:
    """Replace names of tensors where they are written and read, in bodies too."""
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = renamed[name]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g.node, renamed)


def _described(values: Iterable[Value]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(value.name, value.data_type, value.shape) for value in values]
