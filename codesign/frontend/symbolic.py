"""Symbolic dimensions of the inputs: bound by name, by batch, or one with a warning."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping

import onnx

from codesign.errors import BadParameter, UnboundDimension, nearest
from codesign.frontend.types import checked_shape

_OPERATIONS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
LONGEST_EXPRESSION = 200
UNNAMED = "?"
"""What Paddle's exporter calls every dimension that it does not know: no name, as two of them need not be equal."""


class Dimensions:
    """Sizes of symbolic dimensions by name. Exporters also write expressions (`past + 1`): they follow from names."""

    def __init__(
        self,
        inputs: Iterable[onnx.ValueInfoProto],
        others: Iterable[str],
        bind: Mapping[str, int],
        batch: int | None,
        given: Mapping[str, tuple[int, ...]],
    ) -> None:
        """`others` names dimensions that occur only inside the graph: they may be bound but get no default. `given`
        holds whole shapes of inputs, by name."""
        inputs = list(inputs)
        shapes = [(item.name, tensor_type(item).shape.dim) for item in inputs]
        leading = {_label(name, 0, dims[0]) for name, dims in shapes if len(dims)} - {""}
        labels = [_label(name, axis, dim) for name, dims in shapes for axis, dim in enumerate(dims)]
        symbols = list(dict.fromkeys(symbol for label in labels for symbol in _symbols(label)))
        self.sizes: dict[str, int] = {}
        self.warnings: list[str] = []
        self.batch_is_symbolic = bool(leading)
        self._given = dict(given)
        for item in inputs:
            self._bind_shape(item)
        self._bind(bind, {*symbols, *labels, *others} - {""})
        if batch is not None:
            self.sizes.update({label: batch for label in leading if label not in self.sizes})
        defaults = [symbol for symbol in symbols if symbol not in self.sizes]
        self.sizes.update(dict.fromkeys(defaults, 1))
        if defaults:
            named = ", ".join(f"'{name}'" for name in defaults)
            self.warnings.append(f"symbolic dimensions {named} are taken as 1; bind them to other sizes by name")

    def _bind_shape(self, item: onnx.ValueInfoProto) -> None:
        """The sizes that the shape given for an input gives its dimensions. Raises BadParameter when it cannot be."""
        given, dims = self._given.get(item.name), tensor_type(item).shape.dim
        if given is None or not has_shape(item):
            return
        for axis, dim in enumerate(dims if len(dims) == len(given) else ()):
            if not states_size(dim):
                self.sizes.setdefault(_label(item.name, axis, dim), int(given[axis]))
        fits = len(dims) == len(given) and all(
            self.size_of(dim, _label(item.name, axis, dim)) in (None, given[axis]) for axis, dim in enumerate(dims)
        )
        if not fits:
            stated = ", ".join(str(dim.dim_value) if states_size(dim) else dim.dim_param for dim in dims)
            raise BadParameter(f"input '{item.name}' has shape {list(given)}; the model states [{stated}]")

    def _bind(self, bind: Mapping[str, int], known: set[str]) -> None:
        for name, size in bind.items():
            if name not in known:
                listed = f" (it has {', '.join(sorted(known))})" if known else " (all its dimensions are fixed)"
                raise BadParameter(f"bind: the model has no dimension '{name}'{listed}{nearest(name, known)}")
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise BadParameter(f"bind: dimension '{name}' = {size!r}, expected a whole number of at least 0")
            self.sizes[name] = size

    def shape(self, value: onnx.ValueInfoProto) -> tuple[int, ...]:
        """The shape of an input. Raises UnboundDimension when it has none or an expression cannot be worked out."""
        tensor = tensor_type(value)
        if value.name in self._given:
            return checked_shape(self._given[value.name], f"input '{value.name}'")
        if not has_shape(value):
            raise UnboundDimension(f"input '{value.name}' has no shape, not even a number of dimensions")
        dims = []
        for axis, dim in enumerate(tensor.shape.dim):
            size = self.size_of(dim, _label(value.name, axis, dim))
            if size is None:
                raise UnboundDimension(
                    f"input '{value.name}': dimension {axis} ('{dim.dim_param}') has no size; bind it by that name"
                )
            dims.append(size)
        return checked_shape(dims, f"input '{value.name}'")

    def size_of(self, dim: onnx.TensorShapeProto.Dimension, label: str = "") -> int | None:
        """The size of one dimension, or None when it is not known."""
        if states_size(dim):
            return dim.dim_value
        label = label or dim.dim_param
        if label in self.sizes:
            return self.sizes[label]
        return _evaluate(label, self.sizes)


def has_shape(value: onnx.ValueInfoProto) -> bool:
    """True when a tensor's rank is stated; neither that of a tensor without shape nor of a sequence is."""
    return value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")


def tensor_type(value: onnx.ValueInfoProto) -> onnx.TypeProto.Tensor:
    """The tensor that an input is, or that an optional holds; of type 0 for a sequence."""
    kind = value.type.optional_type.elem_type if value.type.HasField("optional_type") else value.type
    return kind.tensor_type


def states_size(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """True when the file states how large a dimension is; some exporters write -1 where it is free."""
    return dim.HasField("dim_value") and dim.dim_value >= 0


def _label(input_name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> str:
    """The name a dimension is bound by; unnamed ones get one; "" when its size is known."""
    if states_size(dim):
        return ""
    named = dim.dim_param not in ("", UNNAMED)
    return dim.dim_param if named else f"{input_name}.{axis}"


def _symbols(label: str) -> list[str]:
    """Names in a dimension's label: itself, or the names in the expression that it is."""
    if not label:
        return []
    tree = _parse(label)
    if tree is None:
        return [label]
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    plain = all(isinstance(node, _ALLOWED) for node in ast.walk(tree))
    return names if plain and names else [label]


_ALLOWED = (ast.Expression, ast.BinOp, ast.Name, ast.Constant, ast.operator, ast.expr_context)


def _parse(label: str) -> ast.Expression | None:
    if len(label) > LONGEST_EXPRESSION:
        return None
    try:
        return ast.parse(label, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(label: str, sizes: Mapping[str, int]) -> int | None:
    tree = _parse(label)
    return _value(tree.body, sizes) if tree is not None else None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return sizes.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left, sizes), _value(node.right, sizes)
        if left is None or right is None or (right == 0 and not isinstance(node.op, ast.Add | ast.Sub | ast.Mult)):
            return None
        return _OPERATIONS[type(node.op)](left, right)
    return None
