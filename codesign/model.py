"""Models by name: the path of an ONNX file, or `zoo:NAME` for a built-in network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from codesign.graph import Graph

ZOO = "zoo:"


def load(
    model: str | Path,
    batch: int | None = None,
    bind: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dynamic: bool = False,
) -> Graph:
    """The model as a Graph with every dimension known.

    `model` is the path of an ONNX file or `zoo:NAME`. `batch` sets the leading dimension of its inputs, `bind` the
    sizes of symbolic dimensions (a sequence length, a cache length), `shapes` those of whole inputs of a file by name.
    A `dynamic` graph is for execution: values whose shape comes from data stay unknown in it. Raises BadModel, naming
    file, node and reason, or BadParameter for an unknown network or dimension.
    """
    text = str(model)
    if not text.startswith(ZOO):
        from codesign.frontend import load as load_file

        return load_file(text, batch, bind, shapes, dynamic)
    import workloads
    from codesign.frontend import from_proto

    name = text.removeprefix(ZOO)
    size = 1 if batch is None else batch
    graph = from_proto(workloads.build(name, batch=size, bind=bind), source=text)
    # The front end can only warn of absent values, which a built-in network never has: it is built with every size.
    return replace(graph, batch=size, warnings=())
