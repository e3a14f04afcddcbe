"""ONNX in, safely: a file or a protobuf becomes a Graph; results go back as metadata that Netron shows.

Nothing here imports onnx until a function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from codesign.graph import Graph

__all__ = ["annotate", "from_proto", "load"]


def load(
    path: str | Path,
    batch: int | None = None,
    bind: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dynamic: bool = False,
) -> Graph:
    """The ONNX file at `path` as a Graph, every dimension known, shape arithmetic folded, functions inlined.

    `bind` gives symbolic dimensions their sizes (and a Loop, as `NODE.trips`, a number of trips to count with where its
    data decide), `shapes` whole inputs theirs; those left are 1, with a warning.
    `batch` sets the leading dimension of the inputs. Weights stay on disk until asked for. A `dynamic` graph, to be
    executed only, may hold values whose shape comes from data: they are named in its `unknown`. Raises BadModel and its
    subclasses, naming file, node, reason.
    """
    from codesign.frontend.read import read_structure

    file = Path(path)
    return from_proto(read_structure(file), str(file), file.parent, batch, bind, shapes, dynamic)


def from_proto(
    model: onnx.ModelProto,
    source: str = "",
    folder: Path | None = None,
    batch: int | None = None,
    bind: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dynamic: bool = False,
) -> Graph:
    """A model in memory as a Graph, as `load` does. `folder` holds external data, absent without it."""
    from codesign.frontend.convert import Sizes, to_graph

    return to_graph(model, source, folder, Sizes(batch, bind or {}, shapes or {}, dynamic))


def annotate(
    model: str | Path | onnx.ModelProto, out_path: str | Path, metadata: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the model to `out_path` with `metadata` (keys and values by node name) on its nodes.

    External data is neither read nor copied: it is shared with the new file, by a link when that stands in another
    folder. Raises BadModel when a node is unknown.
    """
    from codesign.frontend.annotations import write_annotated

    write_annotated(model, Path(out_path), metadata)
