"""How an operator of control flow runs its bodies: the executor of the outer graph lends it a runner.

`If`, `Loop` and `Scan` compute like any operator, from the operation and its inputs. A body reads values of the outer
graph as well, which only the executor knows; so it lends a runner for as long as the operator computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from codesign.errors import BadModel
from codesign.graph import Graph
from codesign.ops.base import Array

BodyRunner = Callable[[Graph, Sequence[Array]], list[Array]]

_lent: ContextVar[BodyRunner | None] = ContextVar("codesign_body_runner", default=None)


def run_body(body: Graph, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of `body`, in order, for its inputs in order; captured values come from the graph around it.

    Raises BadModel when no executor runs the graph around it, and what the body's operations raise.
    """
    runner = _lent.get()
    if runner is None:
        raise BadModel(f"body '{body.name}' needs the values around it: run it as part of a graph, by an Executor")
    return runner(body, inputs)


@contextmanager
def lend(runner: BodyRunner) -> Iterator[None]:
    """Let operators that compute inside the `with` block run bodies by `runner`."""
    token = _lent.set(runner)
    try:
        yield
    finally:
        _lent.reset(token)
