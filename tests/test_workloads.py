"""The built-in networks: valid, as large as published, built without their weights, and numerically consistent."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import workloads
from codesign.errors import BadParameter, DoesNotFit
from codesign.frontend import from_proto
from codesign.lower import lower

RUNNING_STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that are not learned: means and variances collected in training, which published counts leave out."""

TINY_LLAMA = {"heads": 8, "kv_heads": 2, "hidden": 256, "vocabulary": 1000, "width": 128, "layers": 2}
"""Llama 3's structure, four query heads to a key head, small enough to run."""


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by ONNX's own inference, which knows nothing of the builder's."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}


def parameters_of(model: onnx.ModelProto) -> int:
    statistics = {node.input[index] for node in model.graph.node for index in RUNNING_STATISTICS.get(node.op_type, ())}
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name not in statistics)


def macs_of(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions, products and attention, from inferred shapes."""
    shapes = shapes_of(model)
    total = 0
    for node in model.graph.node:
        inputs = [shapes.get(name, ()) for name in node.input]
        output = math.prod(shapes[node.output[0]])
        if node.op_type == "Conv":
            total += output * math.prod(inputs[1][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += output * inputs[0][-1]
        elif node.op_type == "Attention":
            keys = shapes[node.output[1]][2] if len(node.output) > 1 else inputs[1][2]
            total += math.prod(inputs[0][:3]) * keys * 2 * inputs[0][3]
    return total


def random_inputs(session: onnxruntime.InferenceSession, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return {
        value.name: generator.standard_normal(value.shape, dtype=np.float32)
        if value.type == "tensor(float)"
        else generator.integers(0, 2, value.shape)
        for value in session.get_inputs()
    }


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", workloads.names())
def test_parameters_and_macs_match_the_published_figures(name: str) -> None:
    model = workloads.build(name)
    published = workloads.info(name).published
    assert parameters_of(model) == pytest.approx(published.parameters, rel=0.01)
    assert macs_of(model) == pytest.approx(published.macs, rel=0.02)


@pytest.mark.parametrize(
    ("name", "configuration"),
    [
        ("vit_tiny", {"layers": 2}),
        ("deit_tiny_distilled", {"layers": 2}),
        ("resnet50", {}),
        ("mobilenetv2", {}),
        ("pvt_tiny", {}),
        ("poolformer_s12", {}),
        ("bert_tiny", {}),
        ("gpt2_small", {"layers": 2}),
        ("gpt2_small_decode", {"layers": 2}),
        ("llama3_8b", TINY_LLAMA),
        ("llama3_8b_decode", TINY_LLAMA),
        ("mlperf_tiny_ic", {}),
        ("mlperf_tiny_kws", {}),
        ("mlperf_tiny_vww", {}),
        ("mlperf_tiny_ad", {}),
    ],
)
def test_seeded_model_passes_the_checker_and_computes_finite_values(name: str, configuration: dict[str, int]) -> None:
    model = workloads.materialise(workloads.build(name, batch=2, configuration=configuration), seed=0)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    for output in session.run(None, random_inputs(session)):
        assert np.isfinite(output).all()
        assert output.std() > 1e-4


@pytest.mark.parametrize(("name", "configuration"), [("gpt2_small", {"layers": 2}), ("llama3_8b", TINY_LLAMA)])
@pytest.mark.parametrize("new_tokens", [1, 3])
def test_decode_step_equals_the_last_token_of_prefill(
    name: str, configuration: dict[str, int], new_tokens: int
) -> None:
    past, batch = 7, 2
    tokens = np.random.default_rng(1).integers(0, 500, (batch, past + new_tokens))

    def run(member: str, ids: np.ndarray[Any, Any], cache: dict[str, Any], **bind: int) -> dict[str, Any]:
        model = workloads.build(member, batch=batch, bind=bind, configuration=configuration)
        session = session_of(workloads.materialise(model, seed=3))
        outputs = session.run(None, {"input_ids": ids, **cache})
        return {value.name: output for value, output in zip(session.get_outputs(), outputs, strict=True)}

    whole = run(name, tokens, {}, sequence=past + new_tokens)
    first = run(name, tokens[:, :past], {}, sequence=past)
    cache = {key.replace("present", "past_key_values"): value for key, value in first.items() if key != "logits"}
    step = run(f"{name}_decode", tokens[:, past:], cache, sequence=new_tokens, past=past)
    assert step.keys() == whole.keys()
    for key, expected in whole.items():
        assert np.abs(step[key] - expected).max() < 1e-4 * expected.std(), key


@pytest.mark.parametrize(("sequence", "past"), [(32, 100), (1, 1023)])
def test_bound_lengths_scale_the_macs_as_the_transformer_formula_says(sequence: int, past: int) -> None:
    """12 s l h^2 + 2 s t l h, and one token's logits (Narayanan et al., SC 2021, arXiv:2104.04473, appendix)."""
    layers, width, vocabulary = 12, 768, 50257
    model = workloads.build("gpt2_small_decode", bind={"sequence": sequence, "past": past})
    products = 2 * sequence * (past + sequence) * layers * width
    assert macs_of(model) == 12 * sequence * layers * width**2 + products + vocabulary * width


@pytest.mark.parametrize("name", workloads.names())
def test_lowered_work_holds_the_macs_that_onnx_shapes_give(name: str) -> None:
    model = workloads.build(name, batch=2)
    assert sum(work.macs for work in lower(from_proto(model))) == macs_of(model)


@pytest.mark.parametrize("name", workloads.names())
def test_described_inputs_are_those_of_the_model(name: str) -> None:
    facts = workloads.info(name)
    sizes = {"batch": 3, **facts.dimensions}
    graph = workloads.build(name, batch=3).graph
    layers = sum(value.name.endswith(".key") for value in graph.input)
    expected = {
        key.replace("<layer>", str(layer)): text
        for key, text in facts.inputs.items()
        for layer in range(layers if "<layer>" in key else 1)
    }
    assert {value.name for value in graph.input} == expected.keys()
    for value in graph.input:
        element_type, _, extents = expected[value.name].rstrip("]").partition("[")
        shape = tuple(sizes.get(extent) or int(extent) for extent in extents.split(", "))
        assert tuple(extent.dim_value for extent in value.type.tensor_type.shape.dim) == shape
        assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == element_type


def test_batch_multiplies_macs_and_leaves_parameters() -> None:
    one, four = workloads.build("vit_tiny"), workloads.build("vit_tiny", batch=4)
    assert macs_of(four) == 4 * macs_of(one)
    assert parameters_of(four) == parameters_of(one)


def test_nodes_are_named_by_their_place_in_the_network() -> None:
    nodes = [node.name for node in workloads.build("vit_tiny").graph.node]
    assert "layer3/attention/query_key_value/MatMul" in nodes
    assert len(set(nodes)) == len(nodes)


def test_padding_does_not_change_the_tokens_before_it() -> None:
    model = workloads.materialise(workloads.build("bert_tiny", bind={"sequence": 6}), seed=0)
    session = session_of(model)
    ids, mask = np.arange(6)[None], np.array([[1, 1, 1, 1, 0, 0]])
    other = np.where(mask, ids, 99)
    states = [
        session.run(None, {"input_ids": x, "attention_mask": mask, "token_type_ids": 0 * ids})[0] for x in (ids, other)
    ]
    np.testing.assert_array_equal(states[0][:, :4], states[1][:, :4])
    assert not np.array_equal(states[0][:, 4:], states[1][:, 4:])


def test_seeds_make_weights_reproducible_and_independent_of_depth() -> None:
    short = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 1}), seed=5)
    long = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 2}), seed=5)
    other = workloads.materialise(workloads.build("vit_tiny", configuration={"layers": 1}), seed=6)
    values = {tensor.name: tensor.raw_data for tensor in long.graph.initializer}
    assert all(values[tensor.name] == tensor.raw_data for tensor in short.graph.initializer)
    assert all(values[tensor.name] != tensor.raw_data for tensor in other.graph.initializer)


def test_saved_without_a_seed_the_file_holds_no_weights(tmp_path: Path) -> None:
    path = workloads.save("resnet50", tmp_path / "resnet50.onnx")
    assert path.stat().st_size < 200_000
    assert [file.name for file in tmp_path.iterdir()] == ["resnet50.onnx"]


def test_saved_with_a_seed_the_file_runs(tmp_path: Path) -> None:
    path = workloads.save("bert_tiny", tmp_path / "bert.onnx", seed_weights=0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session_of(workloads.materialise(workloads.build("bert_tiny"), seed=0))
    inputs = random_inputs(session)
    np.testing.assert_array_equal(session.run(None, inputs)[0], expected.run(None, inputs)[0])


def test_weights_beyond_the_limit_go_to_one_file_beside_and_read_back_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = workloads.materialise(workloads.build("bert_tiny"), seed=2)
    monkeypatch.setattr("workloads.storage.INLINE_LIMIT", 1_000_000)
    with pytest.raises(DoesNotFit, match=r"workloads\.save"):
        workloads.materialise(workloads.build("bert_tiny"), seed=2)
    path = workloads.save("bert_tiny", tmp_path / "bert.onnx", seed_weights=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bert.onnx", "bert.onnx.data"]
    assert path.stat().st_size < 1_000_000
    values = {tensor.name: tensor.raw_data for tensor in inline.graph.initializer}
    assert {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer} == values


def test_building_llama3_8b_takes_under_a_second_and_200_megabytes() -> None:
    script = (
        "import resource, time, workloads, workloads.llama\n"
        "start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "workloads.build('llama3_8b')\n"
        "print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, kibibytes = map(float, done.stdout.split())
    assert seconds < 1
    assert kibibytes * 1024 < 200e6


def test_names_are_listed_without_importing_onnx() -> None:
    script = "import sys, workloads; assert 'vit_tiny' in workloads.names(); print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="did you mean vit_tiny"):
        workloads.build("vit_tinny")


def test_unknown_dimension_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="no dimension 'sequense'; did you mean sequence"):
        workloads.build("gpt2_small", bind={"sequense": 4})


def test_unknown_configuration_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadParameter, match="no configuration parameter 'layer'; did you mean layers"):
        workloads.build("vit_tiny", configuration={"layer": 1})


@pytest.mark.parametrize(
    ("name", "bind", "message"),
    [
        ("gpt2_small", {"sequence": 0}, "'sequence' = 0; expected an integer of at least 1"),
        ("gpt2_small_decode", {"past": 1024}, "past \\+ sequence = 1025; expected at most 1024"),
        ("bert_base", {"sequence": 513}, "expected at most 512"),
        ("vit_tiny", {"image": 225}, "multiple of the patch size 16"),
        ("pvt_tiny", {"image": 112}, "multiple of 32"),
        ("mlperf_tiny_kws", {"image": 1}, "no dimension 'image'; known: none"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(name: str, bind: dict[str, int], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        workloads.build(name, bind=bind)


def test_saving_into_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="does not exist"):
        workloads.save("bert_tiny", tmp_path / "nowhere" / "bert.onnx")
