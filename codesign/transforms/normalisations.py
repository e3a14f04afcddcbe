"""Recognise LayerNormalization and RMSNormalization in the reductions and arithmetic that exporters write for them."""

from __future__ import annotations

import numpy as np

from codesign.dtypes import dtype, numpy_dtype
from codesign.graph import Graph, Op
from codesign.transforms.match import Either, Match, Node, Number, Pattern, Product, Value, View, first_match
from codesign.transforms.rewrite import Rewriter


def fuse_normalisations(graph: Graph) -> Graph:
    """The graph with normalisations over trailing axes as the standard's operators, gain and bias included.

    LayerNormalization (arXiv:1607.06450) and RMSNormalization (arXiv:1910.07467); values agree to rounding. A Cast to
    float32 before and back after becomes part of the operator, whose statistics are float32. Only constants become
    gain and bias: a modulation computed from data stays as operations.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in reversed(graph.ops):
        if op.kind not in _LAST or rewriter.is_removed(op):
            continue
        for kind, pattern in (("LayerNormalization", LAYER), ("RMSNormalization", ROOT_MEAN_SQUARE)):
            found = first_match(view, pattern, op)
            axis = _first_axis(view, found) if found is not None else None
            if found is not None and axis is not None:
                _Normalisation(view, rewriter, kind, found, axis, op).write()
                break
    return rewriter.build()


x = Value("x")
_centred = Node("Sub", x, Node("ReduceMean", x, name="mean"))


def _mean_square(value: Pattern) -> Pattern:
    """The mean of squares, of the value or of the value cast to a wider type."""
    squares = [
        form
        for base in (value, Node("Cast", value))
        for form in (Node("Pow", base, Number(2.0)), Product(1.0, base, base))
    ]
    return Node("ReduceMean", Either(*squares), name="mean_square")


def _over_root(value: Pattern, mean_square: Pattern) -> Pattern:
    """value / sqrt(mean square + epsilon), in each way of writing the reciprocal root."""
    shifted = Node("Add", mean_square, Number("epsilon"))
    root = Either(Node("Sqrt", shifted), Node("Pow", shifted, Number(0.5)))
    reciprocal = Either(Node("Reciprocal", root), Node("Div", Number(1.0), root), Node("Pow", shifted, Number(-0.5)))
    return Either(Node("Div", value, root), Node("Mul", value, reciprocal))


LAYER = _over_root(_centred, _mean_square(_centred))
ROOT_MEAN_SQUARE = _over_root(x, _mean_square(x))
_LAST = frozenset({"Div", "Mul"})


def _first_axis(view: View, found: Match) -> int | None:
    """The axis from which on both means are taken; None when they differ, or other axes follow, or axes are dropped."""
    rank = len(view.shape(found.tensors["x"]))
    starts = {_trailing(view, found.nodes[name], rank) for name in ("mean", "mean_square") if name in found.nodes}
    return starts.pop() if len(starts) == 1 else None


def _trailing(view: View, mean: Op, rank: int) -> int | None:
    axes = view.integers(mean, "axes", 1)
    if not axes or not mean.attributes.get("keepdims", 1):
        return None
    first = rank - len(axes)
    return first if sorted(axis % rank for axis in axes) == list(range(first, rank)) else None


class _Normalisation:
    """A normalisation found, growing over the casts around it and the gain and bias after it."""

    def __init__(self, view: View, rewriter: Rewriter, kind: str, found: Match, axis: int, last: Op) -> None:
        self.view, self.rewriter = view, rewriter
        self.kind = kind
        self.ops = list(found.ops)
        self.x = found.tensors["x"]
        self.epsilon = found.numbers["epsilon"]
        self.axis = axis
        self.result = last.outputs[0]
        self.gain = self.bias = ""

    def write(self) -> None:
        self._take_casts()
        self.gain = self._take_constant("Mul")
        if self.kind == "LayerNormalization":
            self.bias = self._take_constant("Add")
        if self.rewriter.touches(self.ops):
            return
        gain = self.gain or self._ones()
        inputs = (self.x, gain, self.bias) if self.bias else (self.x, gain)
        attributes = {"axis": self.axis, "epsilon": self.epsilon, "stash_type": 1}
        opset = 17 if self.kind == "LayerNormalization" else 23
        new = Op("", self.kind, inputs, (self.result,), attributes, opset=opset)
        self.rewriter.replace(self.ops, [new])

    def _take_casts(self) -> None:
        """Include a Cast of the input to float32 with the Cast of the result back to the input's type."""
        before = self.view.producer(self.x, "Cast")
        after = self.view.sole_reader(self.result)
        if before is None or after is None or after.kind != "Cast" or self.view.tensor(self.x).dtype != "float32":
            return
        inside = {id(op) for op in self.ops}
        source = self.view.tensor(before.inputs[0])
        alone = all(id(reader) in inside for reader in self.view.readers(self.x)) and self.x not in self.view.pinned
        if alone and dtype(source.dtype).is_float and self.view.tensor(after.outputs[0]).dtype == source.dtype:
            self.ops += [before, after]
            self.x, self.result = source.name, after.outputs[0]

    def _take_constant(self, kind: str) -> str:
        """Include a following multiplication by or addition of a constant along the normalised axes; its name."""
        following = self.view.sole_reader(self.result)
        if following is None or following.kind != kind or following.epilogue or following.domain:
            return ""
        others = [name for name in following.inputs if name != self.result]
        if len(others) != 1 or not self._is_along_rows(others[0]):
            return ""
        self.ops.append(following)
        self.result = following.outputs[0]
        return self._row(others[0])

    def _is_along_rows(self, name: str) -> bool:
        row = self.view.shape(self.x)[self.axis :]
        tensor = self.view.tensor(name)
        padded = (*(1,) * (len(row) - len(tensor.shape)), *tensor.shape)
        leading = padded[: len(padded) - len(row)]
        fits = padded[len(padded) - len(row) :] == row and all(extent == 1 for extent in leading)
        return self.view.is_constant(name) and fits and tensor.dtype == self.view.tensor(self.x).dtype

    def _row(self, name: str) -> str:
        """The constant without leading axes of one, which the operators do not take."""
        row = self.view.shape(self.x)[self.axis :]
        if self.view.shape(name) == row:
            return name
        return self.rewriter.derived([name], row, lambda values: values.reshape(row))

    def _ones(self) -> str:
        tensor = self.view.tensor(self.x)
        return self.rewriter.constant(
            f"{self.result}.gain", np.ones(tensor.shape[self.axis :], numpy_dtype(tensor.dtype))
        )
