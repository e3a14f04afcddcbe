"""The walk over the nodes that writes the Graph: one pass in topological order, shapes and constants known.

A `dynamic` walk goes on where a shape depends on data: what follows is unknown until the graph runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from codesign.dtypes import dtype, name_of
from codesign.errors import BadModel, UnboundDimension, UnsupportedOperator
from codesign.frontend import check, fold, legacy
from codesign.frontend.attributes import absorbed, bound_attributes, dense, plain_attributes
from codesign.frontend.external import WeightReader
from codesign.frontend.functions import standard_function
from codesign.frontend.infer import implemented, infer_outputs
from codesign.frontend.scope import Meaning, Scope
from codesign.graph import Op, Tensor, Weight
from codesign.ops.base import Array, ShapeAndType, Value, find

Handler = Callable[["Walk", onnx.NodeProto, str, Scope], bool]
"""Deals with a node that is more than one operation. Returns False when it is an ordinary operation after all."""
Adjust = Callable[["Walk", Op], Op]
"""Changes an operation before its shapes are inferred."""
SEQUENCE_READERS = frozenset(
    ("SequenceAt", "SequenceInsert", "SequenceErase", "SequenceLength", "ConcatFromSequence", "SequenceMap", "Identity",
     "Optional", "OptionalGetElement", "OptionalHasElement")
)  # fmt: skip
"""Operators that take a sequence as one value."""
MOST_OPERATIONS = 200_000
"""Operations of one graph; unrolled loops and nested functions could ask for any number."""


@dataclass
class Walk:
    """What is known so far. `declared` holds shapes the model states, `functions` its own operators, `unknown` why the
    shape of a value is not known, `trips` numbers to count loops with by node; `adjust` serves re-batching."""

    reader: WeightReader
    handlers: Mapping[tuple[str, str], Handler]
    functions: Mapping[tuple[str, str, str], onnx.FunctionProto] = field(default_factory=dict)
    declared: Mapping[str, ShapeAndType] = field(default_factory=dict)
    adjust: Adjust | None = None
    dynamic: bool = False
    trips: Mapping[str, int] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    # What is known of tensors

    def add_tensor(self, tensor: Tensor) -> str:
        self.tensors[tensor.name] = tensor
        self.values[tensor.name] = Value(tensor.shape, tensor.dtype)
        return tensor.name

    def add_unknown(self, name: str, reason: str) -> str:
        """Register a value whose shape, or number of items, is known only when the graph runs."""
        self.unknown[name] = reason
        return name

    def add_weight(self, weight: Weight, origins: Iterable[str] = ()) -> str:
        """Register a constant. `origins` names the stored weights it was derived from."""
        tensor = weight.tensor
        self.tensors[tensor.name] = tensor
        self.weights[tensor.name] = weight
        self.values[tensor.name] = Value(tensor.shape, tensor.dtype, "weight", 1.0, weight.inline)
        self.origins[tensor.name] = tuple(origins)
        return tensor.name

    def add_constant(self, name: str, array: Array) -> str:
        """Register values as a constant called `name`, or a name like it that is free."""
        unique = self.unique(name)
        return self.add_weight(Weight(Tensor(unique, array.shape, name_of(array.dtype)), value=array))

    def constant(self, name: str) -> Array | None:
        """The values of a tensor when they are known and small; None otherwise, and for the absent input ""."""
        found = self.values.get(name)
        return found.constant if found is not None else None

    def unique(self, name: str) -> str:
        """`name`, or with a number when it is taken; taken from now on."""
        chosen, number = name, 0
        while chosen in self.names:
            number += 1
            chosen = f"{name}_{number}"
        self.names.add(chosen)
        return chosen

    def mark(self) -> tuple[int, int]:
        """Where the walk stands, to come back to when an attempt fails."""
        return len(self.ops), len(self.warnings)

    def restore(self, mark: tuple[int, int]) -> None:
        """Forget the operations since `mark`; their tensors are dropped at the end, since nothing reads them."""
        del self.ops[mark[0] :], self.warnings[mark[1] :]

    # Graphs and nodes

    def add_initializers(self, graph: onnx.GraphProto, scope: Scope) -> None:
        for tensor in graph.initializer:
            name = self.unique(scope.prefix + tensor.name)
            scope.names[tensor.name] = self.add_weight(self.reader.weight(name, tensor))
        for sparse in graph.sparse_initializer:
            values = dense(sparse, f"sparse initialiser '{sparse.values.name}'")
            scope.names[sparse.values.name] = self.add_constant(scope.prefix + sparse.values.name, values)

    def run(self, nodes: Sequence[onnx.NodeProto], scope: Scope) -> None:
        """Convert `nodes`, in any order that can be sorted."""
        for index, node in enumerate(check.in_order(nodes, scope.names)):
            self.node(node, index, scope)

    def node(self, node: onnx.NodeProto, index: int, scope: Scope) -> None:
        if not all(isinstance(text, str) for text in (node.name, node.op_type, node.domain)):
            raise BadModel(f"node {index}: its name, operator or domain is not text")
        name = self.unique(scope.prefix + (node.name or f"{node.op_type}_{index}"))
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not node.op_type:
            raise BadModel(f"node '{name}' names no operator")
        if len(self.ops) > MOST_OPERATIONS:
            raise UnsupportedOperator(f"node '{name}': the graph unrolls to more than {MOST_OPERATIONS} operations")
        handler = self.handlers.get((domain, node.op_type))
        if handler is not None and handler(self, node, name, scope):
            return
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            self.expand(function, node, name, scope)
            return
        op = self.operation(node, name, domain, scope)
        if domain == "" and op.opset <= legacy.NEWEST:
            op = legacy.modern(self, op)
        body = None if implemented(domain, node.op_type) else standard_function(op, node, self.values)
        if body is not None:
            self.expand(body, node, name, scope, scope.imports)
        else:
            self.emit(op, node, scope)

    def operation(self, node: onnx.NodeProto, name: str, domain: str, scope: Scope) -> Op:
        """The node as an operation, outputs named as they will be in the Graph."""
        what = f"node '{name}' ({node.op_type})"
        if domain not in scope.imports and domain == "":
            raise BadModel(f"{what}: the model imports no opset for the standard operators")
        attributes = bound_attributes(node, scope.bindings, what) if scope.bindings else node.attribute
        return Op(
            name,
            node.op_type,
            tuple(self.operand(item, node, name, scope) for item in node.input),
            tuple(scope.prefix + item if item else "" for item in node.output),
            plain_attributes(attributes, what),
            domain,
            scope.imports.get(domain, 0),
            scope.sources or (node.name or name,),
            absorbed=absorbed(node),
        )

    def emit(self, op: Op, node: onnx.NodeProto | None = None, scope: Scope | None = None) -> tuple[str, ...]:
        """Infer, fold and record one operation; its outputs become known in `scope`. Returns their names."""
        if self.adjust is not None:
            op = self.adjust(self, op)
        reason = next((self.unknown[name] for name in op.inputs if name in self.unknown), None)
        if reason is not None:
            return self._emit_unknown(op, reason, node, scope)
        inputs = [self.values[name] if name else None for name in op.inputs]
        try:
            outermost = scope is not None and not scope.prefix
            found = infer_outputs(op, inputs, node, self.declared if outermost and not self.dynamic else {})
        except UnboundDimension as error:
            if not self.dynamic:
                raise
            return self._emit_unknown(op, str(error), node, scope)
        if len(found) < len(op.outputs) and any(op.outputs[len(found) :]):
            raise BadModel(f"node '{op.name}' ({op.kind}) has {len(op.outputs)} outputs, the operator {len(found)}")
        named = tuple(self.unique(name) if name else "" for name in op.outputs)
        op = replace(op, outputs=named)
        results = [Tensor(name, shape, kind) for name, (shape, kind) in zip(named, found, strict=False)]
        for tensor in results:
            dtype(tensor.dtype)
        folded = fold.folded(op, [self.weights.get(name) for name in op.inputs], inputs, results)
        for position, tensor in enumerate(results):
            if not tensor.name:
                continue
            if folded is not None:
                self.add_weight(folded[position], self._origins(op))
            else:
                self.add_tensor(tensor)
        if folded is None:
            self.ops.append(op)
        _name_outputs(node, named, scope)
        return named

    def _emit_unknown(
        self, op: Op, reason: str, node: onnx.NodeProto | None, scope: Scope | None
    ) -> tuple[str, ...]:  # fmt: skip
        """Record an operation whose results have shapes that are known only when it runs."""
        find(op)
        named = tuple(self.add_unknown(self.unique(name), reason) if name else "" for name in op.outputs)
        self.ops.append(replace(op, outputs=named))
        _name_outputs(node, named, scope)
        return named

    def operand(self, local: str, node: onnx.NodeProto, name: str, scope: Scope) -> str:
        """The value that an input of `node` stands for; a sequence becomes one where its operator takes one."""
        if local and node.op_type in SEQUENCE_READERS and isinstance(meaning := scope.meaning(local, name), tuple):
            return self.sequence(meaning, f"{name}/sequence", scope.sources or (node.name or name,))
        return scope.tensor(local, name)

    def sequence(self, items: tuple[str, ...], name: str, sources: tuple[str, ...]) -> str:
        """A sequence as one value of the graph. Raises UnboundDimension in a walk that is not dynamic."""
        unique = self.unique(f"{name}/SequenceConstruct")
        return self.emit(Op(unique, "SequenceConstruct", items, (f"{unique}/sequence",), {}, "", 11, sources))[0]

    def single(self, meaning: Meaning, name: str, sources: tuple[str, ...]) -> str:
        """The value that `meaning` stands for, a sequence as one value."""
        return meaning if isinstance(meaning, str) else self.sequence(meaning, name, sources)

    def _origins(self, op: Op) -> list[str]:
        return list(dict.fromkeys(one for name in op.inputs if name for one in self.origins.get(name) or (name,)))

    # Operators that are graphs

    def expand(
        self,
        function: onnx.FunctionProto,
        node: onnx.NodeProto,
        name: str,
        scope: Scope,
        around: Mapping[str, int] | None = None,
    ) -> None:
        """Put the body of a function in the place of its call. `around` holds versions that it need not import."""
        what = f"node '{name}' ({node.op_type})"
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise BadModel(f"{what} has more inputs or outputs than its function")
        given = {item.name: item for item in bound_attributes(node, scope.bindings, what)}
        defaults = {item.name: item for item in function.attribute_proto}
        imports = {**(around or {}), **check.opset_imports(function.opset_import)} or scope.imports
        inner = scope.call(f"{name}/", (node.name or name,), imports, {**defaults, **given})
        for formal, actual in zip(function.input, node.input, strict=False):
            inner.names[formal] = scope.meaning(actual, name) if actual else ""
        inner.names.update(dict.fromkeys(function.input[len(node.input) :], ""))
        self.run(function.node, inner)
        for formal, actual in zip(function.output, node.output, strict=False):
            if actual:
                scope.names[actual] = inner.meaning(formal, name)

    def body(self, graph: onnx.GraphProto, scope: Scope, arguments: Sequence[Meaning]) -> list[Meaning]:
        """Put a body in the place of its node: `arguments` for its inputs. Returns its outputs."""
        if len(graph.input) != len(arguments):
            raise BadModel(f"body '{scope.prefix}' has {len(graph.input)} inputs, expected {len(arguments)}")
        for item, argument in zip(graph.input, arguments, strict=True):
            scope.names[item.name] = argument
        self.add_initializers(graph, scope)
        self.run(graph.node, scope)
        return [scope.meaning(item.name, scope.prefix) for item in graph.output]


def _name_outputs(node: onnx.NodeProto | None, named: Sequence[str], scope: Scope | None) -> None:
    if scope is not None and node is not None:
        scope.names.update({local: name for local, name in zip(node.output, named, strict=True) if local})


def register(table: dict[tuple[str, str], Handler], *kinds: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Enter a handler in `table` for the operators named."""

    def enter(handler: Handler) -> Handler:
        table.update({(domain, kind): handler for kind in kinds})
        return handler

    return enter


def as_scalar(array: Array | None) -> Any:
    """The single value of a constant, None when it is not known or not single."""
    return np.asarray(array).reshape(-1)[0].item() if array is not None and array.size == 1 else None
