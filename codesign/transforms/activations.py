"""Recognise activation functions that exporters write as their formulas: Gelu, Swish, Mish, HardSigmoid, HardSwish."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codesign.graph import Graph, Op
from codesign.transforms.match import Either, Match, Node, Number, Pattern, Product, Value, View, close, first_match
from codesign.transforms.rewrite import Rewriter


def fuse_activations(graph: Graph) -> Graph:
    """The graph with the formulas of activation functions replaced by the operators of the standard.

    Values agree to rounding: the order of a formula's products is the operator's own. The pieces of a formula must be
    read by it alone, and its constants be in memory. Gelu (arXiv:1606.08415) in both its forms, Swish with its slope
    (arXiv:1710.05941), Mish (arXiv:1908.08681), HardSigmoid and HardSwish (arXiv:1905.02244).
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in reversed(graph.ops):
        if rewriter.is_removed(op):
            continue
        for form in _FORMS.get(op.kind, ()):
            found = first_match(view, form.pattern, op)
            if found is not None and not rewriter.touches(found.ops):
                rewriter.replace(found.ops, [form.operation(found, op.outputs[0])])
                break
    return rewriter.build()


@dataclass(frozen=True)
class Form:
    """A formula of x and the operator that it is: attributes by name, a text naming a number of the match."""

    pattern: Pattern
    kind: str
    opset: int
    attributes: tuple[tuple[str, float | str], ...] = ()

    def operation(self, found: Match, result: str) -> Op:
        attributes = {name: found.numbers.get(str(value), value) for name, value in self.attributes}
        return Op("", self.kind, (found.tensors["x"],), (result,), attributes, opset=self.opset)


x = Value("x")


def _clipped_to_six(view: View, op: Op) -> bool:
    """True for a Clip from 0 to 6, its bounds attributes or constant inputs."""
    bounds = [
        view.scalar(op.inputs[index]) if index < len(op.inputs) and op.inputs[index] else op.attributes.get(name)
        for index, name in ((1, "min"), (2, "max"))
    ]
    return bounds[0] == 0.0 and bounds[1] is not None and close(bounds[1], 6.0)


def _gates_swish(view: View, op: Op) -> bool:
    """True for the HardSigmoid of HardSwish; the operator's own default slope is 0.2."""
    return close(op.attributes.get("alpha", 0.2), 1 / 6) and close(op.attributes.get("beta", 0.5), 0.5)


_cubic = Either(Product(0.044715, x, x, x), Product(0.044715, Node("Pow", x, Number(3.0))))
_quadratic = Either(Product(0.044715, x, x), Product(0.044715, Node("Pow", x, Number(2.0))))
_polynomial = Either(
    Product(math.sqrt(2 / math.pi), Node("Add", x, _cubic)),
    Product(math.sqrt(2 / math.pi), x, Node("Add", Number(1.0), _quadratic)),
)
_shifted_relu6 = Node("Clip", Node("Add", x, Number(3.0)), where=_clipped_to_six)

GELU = Product(0.5, x, Node("Add", Number(1.0), Node("Erf", Product(math.sqrt(0.5), x))))
GELU_TANH = Product(0.5, x, Node("Add", Number(1.0), Node("Tanh", _polynomial)))
SWISH = Product(1.0, x, Node("Sigmoid", x))
SCALED_SWISH = Product(1.0, x, Node("Sigmoid", Product("alpha", x)))
MISH = Product(1.0, x, Node("Tanh", Node("Softplus", x)))
HARD_SWISH = Either(Product(1.0, x, Node("HardSigmoid", x, where=_gates_swish)), Product(1 / 6, x, _shifted_relu6))
HARD_SIGMOID = Product(1 / 6, _shifted_relu6)

_OF_PRODUCTS = (
    Form(GELU, "Gelu", 20),
    Form(GELU_TANH, "Gelu", 20, (("approximate", "tanh"),)),
    Form(SWISH, "Swish", 24),
    Form(SCALED_SWISH, "Swish", 24, (("alpha", "alpha"),)),
    Form(MISH, "Mish", 18),
    Form(HARD_SWISH, "HardSwish", 14),
    Form(HARD_SIGMOID, "HardSigmoid", 6, (("alpha", 1 / 6), ("beta", 0.5))),
)
_FORMS = {"Mul": _OF_PRODUCTS, "Div": _OF_PRODUCTS}
"""Formulas by the kind of their last operation, longer ones before those that they contain."""
