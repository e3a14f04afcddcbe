"""Names as one graph, body or function call sees them, and what the nodes inside stand for."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import onnx

from codesign.errors import BadModel

Meaning = str | tuple[str, ...]
"""What an ONNX name stands for: a tensor of the Graph, or a sequence of them."""
DEEPEST = 24
"""Graphs and function calls inside one another; deeper models are malformed or recursive."""


@dataclass
class Scope:
    """`names` gives each ONNX name its meaning. `prefix` makes names inside unique. `bindings` are the attributes of
    the function call, `imports` the opset of each domain, `sources` the outermost node that is being expanded."""

    names: MutableMapping[str, Meaning]
    imports: Mapping[str, int]
    prefix: str = ""
    bindings: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    depth: int = 0

    def nested(self, prefix: str, sources: tuple[str, ...]) -> Scope:
        """The scope of a body: it sees everything outside, and its own names stay inside."""
        names: MutableMapping[str, Meaning] = ChainMap({}, self.names)
        return Scope(names, self.imports, prefix, self.bindings, self.sources or sources, self._deeper(prefix))

    def call(
        self,
        prefix: str,
        sources: tuple[str, ...],
        imports: Mapping[str, int],
        bindings: Mapping[str, onnx.AttributeProto],
    ) -> Scope:
        """The scope of a function's body: it sees nothing outside."""
        return Scope({}, imports, prefix, bindings, self.sources or sources, self._deeper(prefix))

    def _deeper(self, prefix: str) -> int:
        if self.depth >= DEEPEST:
            raise BadModel(
                f"'{prefix}': graphs or functions are nested more than {DEEPEST} deep (a recursive function?)"
            )
        return self.depth + 1

    def meaning(self, name: str, node: str) -> Meaning:
        """What `name` stands for. Raises BadModel when nothing defines it."""
        found = self.names.get(name)
        if found is None:
            raise BadModel(f"node '{node}' reads '{name}', which nothing produces")
        return found

    def tensor(self, name: str, node: str) -> str:
        """The tensor called `name`, "" for an absent optional. Raises BadModel when it is a sequence."""
        if not name:
            return ""
        found = self.meaning(name, node)
        if not isinstance(found, str):
            raise BadModel(f"node '{node}' reads '{name}', which is a sequence, as a tensor")
        return found
