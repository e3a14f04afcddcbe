"""ONNX in, safely: a file or a protobuf becomes a Graph.

Nothing here imports onnx until a function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from codesign.graph import Graph

__all__ = ["from_proto", "load"]


def load(path: str | Path, batch: int | None = None, bind: Mapping[str, int] | None = None) -> Graph:
    """The ONNX file at `path` as a Graph, every dimension known, shape arithmetic folded, functions inlined.

    `bind` gives symbolic dimensions their sizes; those left are 1, with a warning. `batch` sets the leading dimension
    of the inputs. Weights stay on disk until asked for. Raises BadModel and its subclasses, naming file, node, reason.
    """
    from codesign.frontend.read import read_model

    file = Path(path)
    return from_proto(read_model(file), source=str(file), folder=file.parent, batch=batch, bind=bind)


def from_proto(
    model: onnx.ModelProto,
    source: str = "",
    folder: Path | None = None,
    batch: int | None = None,
    bind: Mapping[str, int] | None = None,
) -> Graph:
    """A model in memory as a Graph, as `load` does. `folder` holds external data, absent without it."""
    from codesign.frontend.convert import to_graph

    return to_graph(model, source, folder, batch, bind or {})
