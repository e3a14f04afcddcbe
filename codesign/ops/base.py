"""What an operator is: shape, compute and work of one operation standing together, found by its name.

A family is a file in this folder. A class derives from Operator and is registered with `@operator("Name", ...)`:

    @operator("Relu")
    class Relu(Operator):
        def infer(self, op, inputs): return [(inputs[0].shape, inputs[0].dtype)]
        def compute(self, op, inputs): return [np.maximum(inputs[0], 0)]
        def work(self, op, inputs, outputs): ...
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from codesign.errors import UnsupportedOperator, nearest
from codesign.graph import Op
from codesign.work import Operand, Role, Work

Array = np.ndarray[Any, Any]
ShapeAndType = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor before anything runs: shape, element type, role, and its values when they are small
    constants (shapes, axes, pads). From statistics, where the graph has them: `density` and `patterns` as in Operand,
    how many `distinct` entries of a table it points at, and how much of the first axis is `filled` with anything."""

    shape: tuple[int, ...]
    dtype: str
    role: Role = "activation"
    density: float = 1.0
    constant: Array | None = None
    patterns: tuple[tuple[int, int], ...] = ()
    distinct: float | None = None
    filled: float | None = None

    @property
    def elements(self) -> int:
        return int(math.prod(self.shape))  # shapes may hold numpy integers

    def operand(self, elements: int | None = None) -> Operand:
        """This value as an operand of work; `elements` when only part of it is touched."""
        return Operand(
            self.elements if elements is None else elements, self.dtype, self.role, self.density, self.patterns
        )


class Operator:
    """One operator. `op.kind` says which, where a class serves several; `op.opset` the version it follows."""

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        """Shape and type of each output. Raises BadModel when inputs cannot be meant."""
        raise UnsupportedOperator(f"operator '{op.kind}' (node '{op.name}'): no shape rule")

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        """The outputs, as the ONNX standard defines them. Inputs must not be written to."""
        raise UnsupportedOperator(f"operator '{op.kind}' (node '{op.name}'): no kernel")

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """What the operation costs."""
        raise UnsupportedOperator(f"operator '{op.kind}' (node '{op.name}'): no work rule")

    def flops_per_element(self, op: Op) -> float | None:
        """Scalar operations an element when this can follow another operation as its epilogue; None when it cannot."""
        return None


_OPERATORS: dict[tuple[str, str], Operator] = {}
_HINTS = {
    "com.microsoft.nchwc": "; it stores channels in blocks for one processor: save the model from onnxruntime at "
    "ORT_ENABLE_EXTENDED or below",
    "ai.onnx.training": "; export the model for inference, without its training step",
    "ZipMap": "; it makes a dictionary of each row: convert with options={'zipmap': False} of skl2onnx",
}
"""What to do about these operators, or those of these domains, which no model of tensors holds."""


def operator(*kinds: str, domain: str = "") -> Callable[[type[Operator]], type[Operator]]:
    """Register a class for the operators named. `domain` is ONNX's, "" for the standard's and our fused forms."""

    def register(cls: type[Operator]) -> type[Operator]:
        instance = cls()
        for kind in kinds:
            if (domain, kind) in _OPERATORS:
                raise ValueError(f"operator '{kind}' of domain '{domain}' is registered twice")
            _OPERATORS[domain, kind] = instance
        return cls

    return register


@cache
def operators() -> dict[tuple[str, str], Operator]:
    """Every operator by (domain, kind): all modules of this folder, imported once."""
    import codesign.ops as folder

    for module in pkgutil.iter_modules(folder.__path__):
        if module.name != "base":
            importlib.import_module(f"codesign.ops.{module.name}")
    return _OPERATORS


def find(op: Op) -> Operator:
    """The operator of `op`. Raises UnsupportedOperator with the nearest known names."""
    domain = "" if op.domain == "ai.onnx" else op.domain
    found = operators().get((domain, op.kind))
    if found is None:
        known = [kind for owner, kind in operators() if owner == domain]
        where = f" of domain '{op.domain}'" if op.domain else ""
        hint = _HINTS.get(op.domain) or _HINTS.get(op.kind) or nearest(op.kind, known)
        raise UnsupportedOperator(f"node '{op.name}': unknown operator '{op.kind}'{where}{hint}")
    return found


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """numpy's broadcast of the shapes."""
    return tuple(int(extent) for extent in np.broadcast_shapes(*shapes))
