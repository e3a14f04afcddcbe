"""Huge and hostile graphs: chains without recursion, loops and memory within limits, types refused by name."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign import device, simulate
from codesign.errors import BadModel, BadParameter, DoesNotFit, UnsupportedOperator
from codesign.executor import Executor, Limits
from codesign.executor.limits import available_bytes, current, peak, use
from codesign.frontend import from_proto
from codesign.lower import lower
from codesign.transforms import optimise
from tests.commands import refused, run
from tests.test_dynamic import BOOL, FLOAT, INT, body, doubling, made, value

NODE = helper.make_node


def chain(length: int, link: Any, shape: tuple[int, ...] = (4, 4), end: Any = (), **weights: Any) -> onnx.ModelProto:
    """`length` nodes, node i reading v{i} and writing v{i + 1}, and the nodes at the `end`."""
    nodes = [link(f"v{index}", f"v{index + 1}", index) for index in range(length)] + list(end)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("v0", FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


DEEP = sys.getrecursionlimit() + 200
ONE = np.float32(0.999)
WIDE = np.full((64, 64), 0.5, np.float32)
CHAINS = {
    "products": lambda: chain(DEEP, lambda x, y, _: NODE("Mul", [x, "c"], [y]), c=ONE),
    "scores": lambda: chain(
        DEEP,
        lambda x, y, _: NODE("Add", [x, "c"], [y]),
        end=[NODE("Softmax", [f"v{DEEP}"], ["p"]), NODE("MatMul", ["p", "v0"], ["y"])],
        c=np.zeros((4, 4), np.float32),
    ),
    "scaled": lambda: chain(
        DEEP,
        lambda x, y, _: NODE("Mul", [x, "c"], [y]),
        (1, 4, 4),
        [
            NODE("MatMul", [f"v{DEEP}", "v0"], ["s"]),
            NODE("Softmax", ["s"], ["p"]),
            NODE("MatMul", ["p", "v0"], ["y"]),
        ],
        c=ONE,
    ),
    "constants": lambda: chain(
        DEEP,
        lambda x, y, index: NODE("Tanh" if index % 2 else "Transpose", ["w" if index == 0 else x], [y]),
        (64, 64),
        [NODE("MatMul", ["v0", f"v{DEEP}"], ["y"])],
        w=WIDE,
    ),
    "views": lambda: chain(DEEP, lambda x, y, _: NODE("Transpose", [x], [y])),
    "shapes": lambda: chain(
        DEEP,
        lambda x, y, index: NODE("Add", [x, "c"], [y]) if index else NODE("Shape", [x], [y]),
        end=[NODE("Reshape", ["v0", f"v{DEEP}"], ["y"])],
        c=np.array([0]),
    ),
    "sequences": lambda: chain(
        DEEP,
        lambda x, y, index: NODE("SequenceInsert", [x, "v0"], [y]) if index else NODE("SequenceConstruct", [x], [y]),
        end=[NODE("ConcatFromSequence", [f"v{DEEP}"], ["y"], axis=0)],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_longer_than_the_stack_loads_runs_and_simulates(name):
    graph = from_proto(CHAINS[name]())
    x = {"v0": np.full(graph.tensors["v0"].shape, 0.5, np.float32)}
    plain, fused = Executor(graph).run(x), Executor(optimise(graph)).run(x)
    for output in graph.outputs:
        assert np.isfinite(plain[output]).all()
        np.testing.assert_allclose(plain[output], fused[output], rtol=1e-3)
    assert np.isfinite(simulate(graph, device("host"), fidelity="analytic").latency_s)


def test_a_constant_used_twice_by_each_of_many_is_made_once():
    """As a tree, sixty doublings would take 2^60 additions."""
    doublings = chain(
        60,
        lambda x, y, index: NODE("Add", ["w" if index == 0 else x] * 2, [y]),
        (64, 64),
        [NODE("Sub", ["v0", "v60"], ["y"])],
        w=np.full((64, 64), 2.0**-60, np.float32),
    )
    graph = from_proto(doublings)
    (y,) = Executor(graph).run({"v0": np.zeros((64, 64), np.float32)}).values()
    np.testing.assert_array_equal(y, -1)


@pytest.mark.long
def test_a_chain_of_a_hundred_thousand_nodes():
    graph = from_proto(chain(100_000, lambda x, y, _: NODE("Softmax", [x], [y])))
    assert len(graph.ops) == len(lower(graph)) == 100_000
    (y,) = Executor(graph).run({"v0": np.ones((4, 4), np.float32)}).values()
    np.testing.assert_allclose(y, 0.25)
    assert len(simulate(graph, device("host")).ops) == 100_000


# Loops


def endless(step: str = "Identity") -> onnx.ModelProto:
    """A loop whose condition stays true, which only its data tell, and which states no number of trips."""
    twice = step == "Concat"
    inner = body(
        [
            NODE("ReduceSum", ["state"], ["sum"], keepdims=0),
            NODE("Greater", ["sum", "zero"], ["going"]),
            NODE(step, ["state"] * (1 + twice), ["next"], **({"axis": 0} if twice else {})),
        ],
        [value("trip", INT, []), value("on", BOOL, []), value("state", FLOAT, ["n"])],
        [],
    )
    inner.output.extend([value("going", BOOL, []), value("next", FLOAT, ["n"])])
    loop = NODE("Loop", ["", "", "x"], ["y"], name="endless", body=inner)
    return made([loop], {"x": (FLOAT, [1])}, ["y"], zero=np.float32(0))


def test_an_endless_loop_ends_at_the_limit():
    graph = from_proto(endless(), dynamic=True)
    for executor in (Executor(graph, limits=Limits(trips=100)), _made_within(graph, 100)):
        with pytest.raises(BadModel, match=r"'endless' \(Loop\): has not ended after 100 trips; raise the limit"):
            executor.run({"x": np.ones(1, np.float32)})


def _made_within(graph, trips):
    with use(Limits(trips=trips)):
        return Executor(graph)


def test_a_limit_may_be_raised_and_reached():
    x = {"x": np.ones(3, np.float32), "limit": np.array(1e30, np.float32)}
    graph = from_proto(doubling(), dynamic=True)
    needed = len(Executor(graph).run(x)["all"])
    assert len(Executor(graph, limits=Limits(trips=needed)).run(x)["all"]) == needed
    with pytest.raises(BadModel, match=f"after {needed - 1} trips"):
        Executor(graph, limits=Limits(trips=needed - 1)).run(x)


def test_a_state_that_doubles_is_stopped_before_it_is_made():
    executor = Executor(from_proto(endless("Concat"), dynamic=True), limits=Limits(memory_bytes=1 << 20))
    with pytest.raises(DoesNotFit, match=r"result of shape \[524288\] takes 2.00 MiB, 1.00 MiB may be taken"):
        executor.run({"x": np.ones(1, np.float32)})


def test_what_a_loop_gathers_is_counted():
    x = {"x": np.ones(3, np.float32), "limit": np.array(1e30, np.float32)}
    with pytest.raises(DoesNotFit, match=r"'doubling' \(Loop\): what its trips give takes more than 600 B"):
        Executor(from_proto(doubling(), dynamic=True), limits=Limits(memory_bytes=600)).run(x)


# Memory


def products() -> onnx.ModelProto:
    """64 MiB at a time: a square, its view, and the sum of both; after that a single row."""
    nodes = [
        NODE("Mul", ["x", "x"], ["square"], name="square"),
        NODE("Reshape", ["square", "flat"], ["view"], name="view"),
        NODE("Add", ["view", "one"], ["more"], name="more"),
        NODE("Neg", ["more"], ["less"], name="less"),
        NODE("ReduceSum", ["less", "axes"], ["y"], keepdims=0),
    ]
    return made(nodes, {"x": (FLOAT, [2048, 4096])}, ["y"], flat=[-1, 1024], one=np.ones(1, np.float32), axes=[0])


def test_the_peak_counts_results_alive_together_and_views_once():
    found = peak(from_proto(products()))
    assert found.bytes == 2 * 32 << 20
    assert found.op is not None
    assert found.op.name == "more"


def test_memory_is_looked_at_before_a_run():
    graph = from_proto(products())
    x = {"x": np.zeros((2048, 4096), np.float32)}
    seen: list[str] = []
    executor = Executor(graph, limits=Limits(memory_bytes=(64 << 20) - 1))
    with pytest.raises(DoesNotFit, match=r"at least 64.0 MiB, at node 'more' \(Add\); 64.0 MiB may be taken: run a sm"):
        executor.run(x, observe=lambda op, _: seen.append(op.name))
    assert seen == []
    assert Executor(graph, limits=Limits(memory_bytes=64 << 20)).run(x)["y"].shape == (1024,)


def test_weights_that_are_made_are_counted_and_those_in_the_file_are_not():
    nodes = [NODE("Transpose", ["w"], ["t"]), NODE("MatMul", ["x", "t"], ["y"], name="product")]
    model = made(nodes, {"x": (FLOAT, [1, 512])}, ["y"], w=np.ones((512, 512), np.float32))
    x = {"x": np.ones((1, 512), np.float32)}
    plain = from_proto(model)
    with pytest.raises(DoesNotFit, match=r"at least 2.00 KiB, .* and 1.00 MiB for weights that are made; 1.00 MiB may"):
        Executor(plain, limits=Limits(memory_bytes=1 << 20)).run(x)
    executor = Executor(plain, limits=Limits(memory_bytes=(1 << 20) + 2048))
    for _ in range(2):
        np.testing.assert_array_equal(executor.run(x)["y"], 512)
    stored = made(
        [NODE("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, [1, 512])}, ["y"], w=np.ones((512, 512), np.float32)
    )
    np.testing.assert_array_equal(Executor(from_proto(stored), limits=Limits(memory_bytes=2048)).run(x)["y"], 512)


def test_a_result_that_the_machine_cannot_hold_is_refused_at_once():
    nodes = [NODE("ConstantOfShape", ["shape"], ["zeros"], name="fill"), NODE("ReduceSum", ["zeros"], ["y"])]
    asked = made(nodes, {"shape": (INT, [3])}, ["y"])
    known = made(nodes, {}, ["y"], shape=[1 << 15] * 3)
    with pytest.raises(DoesNotFit, match=r"'fill' \(ConstantOfShape\): its result of shape .* takes 128 TiB"):
        Executor(from_proto(asked, dynamic=True)).run({"shape": np.array([1 << 15] * 3)})
    with pytest.raises(DoesNotFit, match=r"takes at least 128 TiB, at node "):
        Executor(from_proto(known)).run({})


def test_what_is_free_is_told_and_may_be_given_instead():
    free = available_bytes()
    assert free is None or 1 << 20 < free < 1 << 50
    assert Limits(memory_bytes=5).free_bytes() == 5
    assert Limits().free_bytes(needed=1024) == np.inf
    assert current() == Limits()
    for wrong in ({"trips": 0}, {"memory_bytes": -1}):
        with pytest.raises(BadParameter, match="the limit of"):
            Limits(**wrong)


def test_limits_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "loop.onnx"
    onnx.save(endless(), path)
    np.savez(tmp_path / "x.npz", x=np.ones(1, np.float32))
    words = ("execute", path, "--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
    assert "has not ended after 7 trips" in refused(capsys, *words, "--max-trips", 7)
    assert "--max-memory lots: expected a size" in refused(capsys, *words, "--max-memory", "lots")
    onnx.save(products(), path)
    np.savez(tmp_path / "x.npz", x=np.zeros((2048, 4096), np.float32))
    assert "1.00 MiB may be taken" in refused(capsys, *words, "--max-memory", "1MiB")
    assert run(*words, "--max-memory", "1e9") == 0


# Types


@pytest.mark.parametrize(
    ("kind", "number", "name"),
    [("Relu", TensorProto.COMPLEX64, "complex64"), ("MatMul", TensorProto.COMPLEX128, "complex128"),
     ("Add", TensorProto.STRING, "string")],
)  # fmt: skip
def test_types_that_an_operator_does_not_take_are_refused_by_name(kind, number, name):
    inputs = ["x"] if kind == "Relu" else ["x", "x"]
    model = made([NODE(kind, inputs, ["y"], name="node")], {"x": (number, [2, 2])}, ["y"])
    with pytest.raises(UnsupportedOperator, match=rf"'node' \({kind}\): its input 0 is {name}, which the operator"):
        from_proto(model)


def test_types_that_it_takes_pass():
    nodes = [NODE("Transpose", ["x"], ["t"]), NODE("Concat", ["t", "x"], ["y"], axis=0)]
    for number, array in ((TensorProto.COMPLEX64, np.array([[1 + 2j]], np.complex64)),
                          (TensorProto.STRING, np.array([["a"]], object))):  # fmt: skip
        graph = from_proto(made(nodes, {"x": (number, [1, 1])}, ["y"]))
        assert Executor(graph).run({"x": array})["y"].tolist() == [*array.tolist(), *array.tolist()]
