"""Weights: in the file, in external files, absent; what counts as a parameter; results written back."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import BadModel, CodesignError
from codesign.frontend import annotate, from_proto, load
from codesign.frontend.lazy import without_large_values
from codesign.graph import Graph
from tests.test_frontend import floats, integers, model_of

WEIGHT = floats(40, 30)


def external(location: str, **entries: int) -> onnx.ModelProto:
    """A product with a weight of 40 x 30 in another file."""
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], {"x": [1, 40]}, ["y"])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[40, 30])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    return model


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def values(graph: Graph, name: str = "w") -> np.ndarray[Any, Any] | None:
    return graph.weights[name].array()


def test_external_weights_are_mapped_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    graph = load(saved(tmp_path, external("data/w.bin", offset=64, length=WEIGHT.nbytes)))
    assert graph.weights["w"].inline is None
    mapped = values(graph)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, WEIGHT)


def test_packed_external_weights_are_unpacked(tmp_path: Path) -> None:
    numbers = np.arange(-8, 8)
    packed = helper.make_tensor("w", TensorProto.INT4, [16], numbers)
    stored = numpy_helper.to_array(packed)
    (tmp_path / "w.bin").write_bytes(packed.raw_data or bytes(packed.int32_data))
    model = model_of([helper.make_node("Cast", ["w"], ["y"], to=1)], {"x": [1]}, ["y"], opset=21)
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[16], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    model.graph.initializer.append(tensor)
    cast = values(load(saved(tmp_path, model)), "y")
    np.testing.assert_array_equal(cast, stored.astype(np.float32))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "data/../../w.bin", "..\\w.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    inner = tmp_path / "inner"
    (inner / "data").mkdir(parents=True)
    with pytest.raises(BadModel, match="outside the model's folder"):
        load(saved(inner, external(location)))


def test_external_data_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(BadModel, match="links to a file outside"):
        load(saved(inner, external("w.bin")))


@pytest.mark.parametrize(
    ("entries", "word"),
    [({"offset": 100}, "ends at byte"), ({"length": 4}, "holds 4 bytes"), ({"offset": -4}, "not a byte count")],
)
def test_external_data_of_the_wrong_size_is_refused(tmp_path: Path, entries: dict[str, int], word: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(BadModel, match=word):
        load(saved(tmp_path, external("w.bin", **entries)))


def test_a_missing_external_file_leaves_weights_absent_with_a_warning(tmp_path: Path) -> None:
    graph = load(saved(tmp_path, external("gone.bin")))
    assert graph.parameters == 1200
    assert not graph.weights["w"].has_value
    assert graph.warnings == (
        "values of 1 initialisers are absent from 'gone.bin': simulation needs only their shapes",
    )


@pytest.mark.parametrize("location", ["", "weights.absent"])
def test_structure_only_initialisers_are_absent(location: str) -> None:
    graph = from_proto(external(location))
    assert values(graph) is None
    assert graph.parameters == 1200


def test_an_initialiser_without_data_is_absent() -> None:
    model = external("")
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[40, 30]))
    assert not from_proto(model).weights["w"].has_value


def test_absent_weights_fold_to_absent_weights() -> None:
    model = external("")
    model.graph.initializer[0].dims[:] = [30, 40]
    model.graph.node[0].input[1] = "t"
    model.graph.node.insert(0, helper.make_node("Transpose", ["w"], ["t"]))
    graph = from_proto(model)
    assert [op.kind for op in graph.ops] == ["MatMul"]
    assert not graph.weights["t"].has_value
    assert graph.parameters == 1200


def test_statistics_settings_masks_and_numbers_are_no_parameters() -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "variance"], ["a"]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("Add", ["b", "attn_mask"], ["c"]),
        helper.make_node("Clip", ["c", "zero", "six"], ["d"]),
        helper.make_node("Mul", ["d", "gamma"], ["y"]),
    ]
    vectors = {name: floats(8) for name in ("scale", "bias", "mean")}
    weights = {
        **vectors, "variance": np.ones(8, np.float32), "half": np.asarray(0.5, np.float32), "gamma": floats(8, 1, 1),
        "attn_mask": floats(4, 4), "zero": np.asarray(0, np.float32), "six": np.asarray(6, np.float32),
    }  # fmt: skip
    graph = from_proto(model_of(nodes, {"x": [1, 8, 4, 4]}, ["y"], weights))
    assert {name for name, weight in graph.weights.items() if weight.is_parameter} == {"scale", "bias", "gamma"}


def test_a_mask_on_scores_is_no_parameter_and_a_bias_of_each_head_is() -> None:
    nodes = [
        helper.make_node("Where", ["shown", "x", "hidden"], ["s"]),
        helper.make_node("Add", ["s", "causal"], ["a"]),
        helper.make_node("Add", ["a", "position"], ["b"]),
        helper.make_node("Softmax", ["b"], ["y"]),
    ]
    weights = {
        "shown": np.eye(4, dtype=bool),
        "hidden": floats(4, 4),
        "causal": floats(1, 1, 4, 4),
        "position": floats(1, 2, 4, 4),
    }
    graph = from_proto(model_of(nodes, {"x": [1, 2, 4, 4]}, ["y"], weights))
    assert graph.parameters == 32


def test_quantised_weights_are_parameters_and_stay_quantised() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = {
        "q": np.ones((40, 30), np.int8),
        "scale": np.asarray(0.1, np.float32),
        "zero": np.asarray(0, np.int8),
    }
    graph = from_proto(model_of(nodes, {"x": [1, 40]}, ["y"], weights))
    assert [op.kind for op in graph.ops] == ["DequantizeLinear", "MatMul"]
    assert (graph.parameters, graph.weight_bytes) == (1200, 1200)


def test_sparse_constants_are_filled_in() -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [2], [3.0, 4.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [2], [1, 5]), [2, 3])
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=sparse),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    graph = from_proto(model_of(nodes, {"x": [2, 3]}, ["y"]))
    np.testing.assert_array_equal(graph.weights["c"].array(), [[0, 3, 0], [0, 0, 4]])


def test_metadata_is_written_on_nodes_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    path = saved(tmp_path, external("w.bin"))
    out = tmp_path / "annotated" / "net.onnx"
    out.parent.mkdir()
    annotate(path, out, {"product": {"latency_s": "1e-6"}})
    annotate(out, out, {"product": {"latency_s": "2e-6", "energy_J": "3e-9"}})
    node = onnx.load(out, load_external_data=False).graph.node[0]
    assert {entry.key: entry.value for entry in node.metadata_props} == {"latency_s": "2e-6", "energy_J": "3e-9"}
    np.testing.assert_array_equal(values(load(out)), WEIGHT)


def test_metadata_names_unnamed_nodes_as_operations_do(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    (source,) = from_proto(model).ops[0].sources
    annotate(model, tmp_path / "net.onnx", {source: {"bound": "memory"}})
    assert load(tmp_path / "net.onnx").ops[0].sources == (source,)
    with pytest.raises(BadModel, match="no node 'Relo_0'; did you mean Relu_0"):
        annotate(model, tmp_path / "net.onnx", {"Relo_0": {}})


def test_integer_constants_are_no_parameters() -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)]
    assert from_proto(model_of(nodes, {"x": [1, 9]}, ["y"], {"i": integers(3, 4)})).parameters == 0


def large_model(value: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model with one large and one small weight, both in the file."""
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
                     {"x": [1, 200]}, ["y"])  # fmt: skip
    model.graph.initializer.extend(
        [numpy_helper.from_array(value, "w"), numpy_helper.from_array(np.ones(300, np.float32), "b")]
    )
    return model


def test_large_values_stay_in_the_file(tmp_path: Path) -> None:
    value = np.random.default_rng(0).standard_normal((200, 300), dtype=np.float32)
    path = saved(tmp_path, large_model(value))
    slim = without_large_values(path)
    assert slim is not None
    assert len(slim) < 3000
    graph = load(path)
    np.testing.assert_array_equal(values(graph), value)
    np.testing.assert_array_equal(values(graph, "b"), np.ones(300, np.float32))
    assert values(graph).flags.aligned  # type: ignore[union-attr]


def test_a_model_behind_a_link_is_read_whole(tmp_path: Path) -> None:
    value = np.ones((200, 300), np.float32)
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "link.onnx"
    link.symlink_to(saved(tmp_path, large_model(value)))
    np.testing.assert_array_equal(values(load(link)), value)


@given(st.integers(0, 250_000), st.integers(0, 255))
@settings(max_examples=40)
def test_a_damaged_file_is_walked_without_harm(place: int, byte: int) -> None:
    content = bytearray(large_model(np.ones((200, 300), np.float32)).SerializeToString())
    content[place % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(bytes(content) if place % 3 else bytes(content[: place % len(content)]) or b"0")
        with contextlib.suppress(CodesignError):
            values(load(path))
