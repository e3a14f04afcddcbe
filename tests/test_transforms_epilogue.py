"""Elementwise operations fused behind the operation that makes their input."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.lower import lower
from codesign.transforms import optimise
from codesign.transforms.epilogue import fuse_epilogues
from tests.transform_case import Build, epilogues, keeps_values, kinds


def test_bias_activation_and_residual_follow_a_convolution() -> None:
    build = Build()
    x = build.input(1, 4, 6, 6)
    value = build.op("Conv", x, build.parameter(4, 4, 3, 3), pads=(1, 1, 1, 1))
    value = build.op("Mul", value, build.parameter(1, 4, 1, 1))
    value = build.op("Relu", build.op("Add", x, value))
    result = keeps_values(build.graph(value), fuse_epilogues)
    assert epilogues(result) == {"Conv": ["Mul", "Add", "Relu"]}
    assert result.ops[0].epilogue[1].inputs == (x, "@")
    assert result.ops[0].outputs == (value,)


def test_sum_of_two_products_joins_the_later_one() -> None:
    build = Build()
    x = build.input(3, 8)
    first, second = (build.op("MatMul", x, build.parameter(8, 8)) for _ in range(2))
    result = keeps_values(build.graph(build.op("Add", first, second)), fuse_epilogues)
    assert [len(op.epilogue) for op in result.ops] == [0, 1]


def test_product_takes_a_follower_before_an_elementwise_operation_does() -> None:
    build = Build()
    x = build.input(3, 8)
    product = build.op("MatMul", x, build.parameter(8, 8))
    result = keeps_values(build.graph(build.op("Mul", product, build.op("Exp", x))), fuse_epilogues)
    assert epilogues(result) == {"Exp": [], "MatMul": ["Mul"]}


def test_value_read_twice_or_returned_is_stored() -> None:
    build = Build()
    x = build.input(3, 8)
    product = build.op("MatMul", x, build.parameter(8, 8))
    returned = build.op("Relu", product)
    twice = build.op("Exp", returned)
    result = keeps_values(build.graph(returned, build.op("Softmax", twice), build.op("Tanh", twice)), fuse_epilogues)
    assert epilogues(result) == {"MatMul": ["Relu"], "Exp": [], "Softmax": [], "Tanh": []}


def test_follower_that_reads_the_value_on_both_sides_fuses() -> None:
    build = Build()
    product = build.op("MatMul", build.input(3, 8), build.parameter(8, 8))
    result = keeps_values(build.graph(build.op("Mul", product, product)), fuse_epilogues)
    assert result.ops[0].epilogue[0].inputs == ("@", "@")


def test_follower_that_widens_the_shape_stays() -> None:
    build = Build()
    product = build.op("MatMul", build.input(1, 8), build.parameter(8, 8))
    result = keeps_values(build.graph(build.op("Add", product, build.input(3, 8))), fuse_epilogues)
    assert kinds(result) == {"MatMul": 1, "Add": 1}


def test_epilogue_costs_its_arithmetic_and_operands_and_saves_the_value_between() -> None:
    build = Build()
    product = build.op("MatMul", build.input(3, 8), build.parameter(8, 8))
    graph = build.graph(build.op("Relu", build.op("Add", product, build.parameter(8))))
    separate, (fused,) = lower(graph), lower(fuse_epilogues(graph))
    assert fused.macs == sum(work.macs for work in separate)
    assert fused.flops == sum(work.flops for work in separate)
    assert fused.bytes == sum(work.bytes for work in separate) - 4 * 3 * 8 * 4


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Relu", "Sigmoid", "Add", "Mul", "Residual", "Conv", "Scale", "Swish", "Transpose", "Reshape"]
        ),
        st.integers(0, 100),
    ),
    min_size=1,
    max_size=12,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_pipeline_keeps_the_values_of_random_chains(steps: list[tuple[str, int]]) -> None:
    build = Build()
    values = [build.input(1, 4, 4, 4)]
    for kind, number in steps:
        value = values[-1]
        if kind in ("Add", "Mul"):
            value = build.op(kind, value, build.parameter(1, 4, 1, 1))
        elif kind == "Scale":
            value = build.op("Mul", value, build.constant([0.0, 1.0, 0.5][number % 3]))
        elif kind == "Residual":
            value = build.op("Add", values[number % len(values)], value)
        elif kind == "Conv":
            value = build.op("Conv", value, build.parameter(4, 4, 1, 1))
        elif kind == "Swish":
            value = build.op("Mul", value, build.op("Sigmoid", value))
        elif kind == "Transpose":
            value = build.op("Transpose", value, perm=[(0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 1, 2)][number % 3])
        elif kind == "Reshape":
            value = build.reshape(build.reshape(value, *[(4, 16), (1, 64), (2, 2, 16)][number % 3]), 1, 4, 4, 4)
        else:
            value = build.op(kind, value)
        values.append(value)
    result = keeps_values(build.graph(value), optimise)
    assert len(result.ops) <= len(build.ops)
