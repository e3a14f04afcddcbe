"""Move elementwise operations in front of views, so that they can follow the operation that makes the value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from codesign.graph import Graph, Op
from codesign.transforms.epilogue import can_host, epilogue_flops
from codesign.transforms.match import View
from codesign.transforms.rewrite import Rewriter
from codesign.transforms.views import is_view


def hoist_over_views(graph: Graph) -> Graph:
    """The graph with operations on each element alone computed before the Reshape or Transpose that they follow.

    Only where an operation that takes epilogues makes the value that is viewed, and nothing else reads what is
    between. Values are unchanged.
    """
    view = View(graph)
    rewriter = Rewriter(view)
    for op in graph.ops:
        if not is_view(view, op) or rewriter.is_removed(op) or view.sole_reader(op.inputs[0]) is not op:
            continue
        host = view.producer(op.inputs[0])
        if host is None or is_view(view, host) or not can_host(host):
            continue
        views = _run(view, op, is_view)
        following, rank = view.sole_reader(views[-1].outputs[0]), len(view.shape(op.inputs[0]))

        def may_move(view: View, op: Op, rank: int = rank) -> bool:
            """Constants with more axes than the value before the views would add them to it."""
            return _is_alone(view, op) and all(len(view.shape(name)) <= rank for name in _single(view, op))

        if following is not None and may_move(view, following):
            _swap(view, rewriter, views, _run(view, following, may_move))
    return rewriter.build()


def _run(view: View, first: Op, belongs: Callable[[View, Op], bool]) -> list[Op]:
    """`first` and those after it that belong, each read by the next alone."""
    run = [first]
    while (following := view.sole_reader(run[-1].outputs[0])) is not None and belongs(view, following):
        run.append(following)
    return run


def _is_alone(view: View, op: Op) -> bool:
    """True when each element of the result depends on one element of one input, and on constants of one element."""
    if op.bodies or op.epilogue or len(op.outputs) != 1 or epilogue_flops(op) is None:
        return False
    varying = [name for name in op.inputs if name and view.tensor(name).elements != 1]
    single = all(view.is_constant(name) for name in _single(view, op))
    return len(varying) == 1 and single and view.shape(varying[0]) == view.shape(op.outputs[0])


def _single(view: View, op: Op) -> list[str]:
    """The inputs of one element."""
    return [name for name in op.inputs if name and view.tensor(name).elements == 1]


def _swap(view: View, rewriter: Rewriter, views: list[Op], elementwise: list[Op]) -> None:
    name = views[0].inputs[0]
    shape = view.shape(name)
    ops: list[Op] = []
    for op in elementwise:
        result = rewriter.tensor(name, shape, view.tensor(op.outputs[0]).dtype)
        varying = next(one for one in op.inputs if one and view.tensor(one).elements != 1)
        inputs = tuple(name if one == varying else one for one in op.inputs)
        ops.append(replace(op, name="", inputs=inputs, outputs=(result,)))
        name = result
    dtype = view.tensor(elementwise[-1].outputs[0]).dtype
    for op in views:
        last = op is views[-1]
        result = elementwise[-1].outputs[0] if last else rewriter.tensor(name, view.shape(op.outputs[0]), dtype)
        ops.append(replace(op, name="", inputs=(name, *op.inputs[1:]), outputs=(result,)))
        name = result
    rewriter.replace([*views, *elementwise], ops)
