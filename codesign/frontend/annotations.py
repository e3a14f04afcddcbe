"""Results written back into an ONNX file as metadata of its nodes, where Netron shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from codesign.errors import BadModel, nearest
from codesign.frontend.read import read_model


def write_annotated(
    model: str | Path | onnx.ModelProto, out_path: Path, metadata: Mapping[str, Mapping[str, str]]
) -> None:
    """See `codesign.frontend.annotate`."""
    if isinstance(model, onnx.ModelProto):
        annotated = onnx.ModelProto()
        annotated.CopyFrom(model)
    else:
        annotated = read_model(Path(model))
        _keep_external_data(annotated, Path(model).parent, out_path.parent)
    nodes = dict(_named(annotated.graph))
    if unknown := [name for name in metadata if name not in nodes]:
        raise BadModel(f"{out_path}: the model has no node '{unknown[0]}'{nearest(unknown[0], nodes)}")
    for name, entries in metadata.items():
        _set(nodes[name], entries)
    try:
        out_path.write_bytes(annotated.SerializeToString())
    except (OSError, ValueError) as error:
        raise BadModel(f"{out_path}: cannot be written ({error})") from error


def _named(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Nodes by the names that operations list as their sources: their own, or operator and position."""
    for index, node in enumerate(graph.node):
        yield node.name or f"{node.op_type}_{index}", node


def _set(node: onnx.NodeProto, entries: Mapping[str, str]) -> None:
    kept = [entry for entry in node.metadata_props if entry.key not in entries]
    kept += [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]
    del node.metadata_props[:]
    node.metadata_props.extend(kept)


def _keep_external_data(model: onnx.ModelProto, folder: Path, out_folder: Path) -> None:
    """External data stays where it is: files are linked into another folder, never read.

    A hard link is used, since a symbolic one would lead outside the new folder, which readers refuse.
    """
    if folder.resolve() == out_folder.resolve():
        return
    for location in sorted({_location(tensor) for tensor in model.graph.initializer} - {""}):
        source, target = folder / location, out_folder / location
        if not source.is_file() or target.exists() or ".." in Path(location).parts or Path(location).is_absolute():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError as error:
            raise BadModel(
                f"{target}: external data cannot be linked from '{folder}' ({error.strerror}); "
                f"write the annotated model into that folder"
            ) from error


def _location(tensor: onnx.TensorProto) -> str:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
