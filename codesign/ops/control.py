"""Control flow that stays in the graph: If, Loop and Scan over `op.bodies`, run by the executor that runs the graph.

The body's cost is that of its operations one after another, a trip of a Loop or Scan a dependent step. What a body
reads from the graph around it, weights among them, is read once: it stays where the steps reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.dtypes import dtype, numpy_dtype
from codesign.executor.bodies import run_body
from codesign.executor.limits import Gathered
from codesign.graph import Graph, Op
from codesign.ops.arguments import bad, before_opset, known, normal_axis, operands, optional, present, required
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.ops.costs import view_work
from codesign.work import Operand, Scan, Work


def _body(op: Op, name: str) -> Graph:
    if name not in op.bodies:
        raise bad(op, f"has no body '{name}'")
    return op.bodies[name]


def _result(op: Op, body: Graph, index: int) -> ShapeAndType:
    """Shape and type of output `index` of a body; what the model states of it where they depend on data."""
    tensor = body.tensors.get(body.outputs[index])
    if tensor is not None:
        return tensor.shape, tensor.dtype
    shape, kind = op.attributes["stated_results"][index]
    return shape, kind


def _element_type(body: Graph, names: Sequence[str], outputs: Sequence[Value]) -> str | None:
    """The floating type a deployment gave the results, when it is not the one the body was written in."""
    for name, output in zip(names, outputs, strict=False):
        written = dtype(body.tensors[name].dtype)
        if written.is_float and written.name != output.dtype:
            return output.dtype
    return None


def _steps_work(
    op: Op, body: Graph, inputs: Sequence[Value | None], outputs: Sequence[Value], trips: int, first: int
) -> Scan:
    """`trips` dependent runs of `body`, whose outputs from `first` on are the operation's."""
    from codesign.lower import lower, values_of

    element_type = _element_type(body, body.outputs[first:], outputs)
    works = lower(body, element_type)
    values = values_of(body, element_type)
    macs = sum(work.macs for work in works)
    carried = [values[name].operand() for name in body.inputs]
    captured: tuple[Operand, ...] = tuple(values[name].operand() for name in body.captured)
    return Scan(
        kind=op.kind,
        reads=(*operands(inputs), *captured),
        writes=operands(outputs),
        steps=trips,
        step_macs=macs,
        step_flops=sum(work.flops for work in works) - 2 * macs,
        state_bytes=sum(operand.bytes for operand in carried),
        dtype=element_type or (outputs[0].dtype if outputs else "float32"),
    )


@operator("If")
class If(Operator):
    """One of two bodies. Where the condition is not known, the larger result and the costlier branch are taken."""

    @staticmethod
    def _branches(op: Op, condition: Array | None) -> list[Graph]:
        """The branches that may run."""
        names = ("then_branch", "else_branch") if condition is None else (_chosen(condition),)
        return [_body(op, name) for name in names]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        branches = self._branches(op, required(op, inputs, 0, "cond").constant)
        if any(len(branch.outputs) != len(op.outputs) for branch in branches):
            raise bad(op, f"its branches do not give {len(op.outputs)} outputs each")
        tensors = [[branch.tensors[name] for name in branch.outputs] for branch in branches]
        largest = [max(options, key=lambda tensor: tensor.elements) for options in zip(*tensors, strict=True)]
        return [(tensor.shape, tensor.dtype) for tensor in largest]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return run_body(_body(op, _chosen(required(op, inputs, 0, "cond"))), [])

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        branches = self._branches(op, required(op, inputs, 0, "cond").constant)
        works = [_steps_work(op, branch, inputs, outputs, 1, 0) for branch in branches]
        return max(works, key=lambda work: (work.flops, work.bytes))


@operator("Refuse")
class Refuse(Operator):
    """The body of a branch that cannot be for the shapes that the graph was loaded with: ours, it is in no model.

    Attribute `reason` says why, `results` holds the other branch's shapes and types.
    """

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return list(op.attributes["results"])

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        raise bad(op, f"this branch is chosen and cannot run: {op.attributes['reason']}")

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return view_work(op, inputs, outputs)


def _chosen(condition: Array) -> str:
    return "then_branch" if bool(condition.ravel()[0]) else "else_branch"


def _stacked(op: Op, results: Sequence[Array], empty: ShapeAndType, axis: int = 0, reverse: bool = False) -> Array:
    """The results of all trips along a new axis; `empty` says what a trip would have given when there was none."""
    if results:
        return np.stack(results[::-1] if reverse else results, axis)
    place = normal_axis(op, axis, len(empty[0]) + 1)
    return np.zeros((*empty[0][:place], 0, *empty[0][place:]), numpy_dtype(empty[1]))


@operator("Loop")
class Loop(Operator):
    """At most M trips, while the body's first output holds; then carried values, and what each trip gave, stacked.

    Shape and cost assume all M trips; attribute `trip_count` holds M once it is known.
    """

    @staticmethod
    def _trips(op: Op, inputs: Sequence[Any]) -> int:
        if "trip_count" in op.attributes:
            return int(op.attributes["trip_count"])
        condition = optional(inputs, 1)
        if condition is not None and condition.constant is not None and not condition.constant.any():
            return 0
        trips = int(known(op, required(op, inputs, 0, "M"), "M").item())
        return max(trips, 0)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        body = _body(op, "body")
        carried = [required(op, inputs, index, "v_initial") for index in range(2, len(inputs))]
        for index, value in enumerate(carried):
            if _result(op, body, 1 + index)[0] != value.shape:
                raise bad(op, f"carried value {index} changes its shape {list(value.shape)} from trip to trip")
        scanned = [_result(op, body, index) for index in range(1 + len(carried), len(body.outputs))]
        trips = self._trips(op, inputs) if scanned else 0
        return [
            *((value.shape, value.dtype) for value in carried),
            *(((trips, *shape), kind) for shape, kind in scanned),
        ]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        body, limit, condition = _body(op, "body"), optional(inputs, 0), optional(inputs, 1)
        states = [required(op, inputs, index, "v_initial") for index in range(2, len(inputs))]
        trips, alive = None if limit is None else int(limit.item()), condition is None or bool(condition.item())
        scanned: list[list[Array]] = [[] for _ in body.outputs[1 + len(states) :]]
        trip, gathered = 0, Gathered(op)
        while alive and (trips is None or trip < trips):
            gathered.check_trip(trip)
            going, *results = run_body(body, [np.array(trip, np.int64), np.array(True), *states])
            states = results[: len(states)]
            gathered.add(results[len(states) :])
            for items, result in zip(scanned, results[len(states) :], strict=True):
                items.append(result)
            trip, alive = trip + 1, bool(going.item())
        first = 1 + len(states)
        return [
            *states,
            *(_stacked(op, items, _result(op, body, first + index)) for index, items in enumerate(scanned)),
        ]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return _steps_work(op, _body(op, "body"), inputs, outputs, self._trips(op, inputs), 1)


@operator("Scan")
class ScanOperator(Operator):
    """One trip for each slice of the scanned inputs, the last `num_scan_inputs`; the others are the first states."""

    @staticmethod
    def _form(op: Op, inputs: Sequence[Any]) -> tuple[int, list[int], int]:
        """Number of states, the scanned inputs' axes, and the number of trips."""
        scanned = int(op.attributes.get("num_scan_inputs", 0))
        states = len(inputs) - scanned
        if scanned < 1 or states < 0 or len(_body(op, "body").outputs) < states:
            raise bad(op, f"{scanned} scanned of {len(inputs)} inputs do not match its body")
        shapes = [required(op, inputs, index, "scan_inputs").shape for index in range(states, len(inputs))]
        named = op.attributes.get("scan_input_axes") or (0,) * scanned
        axes = [normal_axis(op, int(axis), len(shape)) for axis, shape in zip(named, shapes, strict=True)]
        lengths = {shape[axis] for axis, shape in zip(axes, shapes, strict=True)}
        if len(lengths) != 1:
            raise bad(op, f"scanned inputs have lengths {sorted(lengths)}, expected one")
        return states, axes, lengths.pop()

    @staticmethod
    def _per_output(op: Op, name: str, count: int) -> list[int]:
        return [int(one) for one in op.attributes.get(name) or (0,) * count]

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        body, (states, _, trips) = _body(op, "body"), self._form(op, inputs)
        results: list[ShapeAndType] = []
        for index in range(states):
            value = required(op, inputs, index, "initial_state")
            results.append((value.shape, value.dtype))
        axes = self._per_output(op, "scan_output_axes", len(body.outputs) - states)
        for index, axis in enumerate(axes, start=states):
            shape, kind = _result(op, body, index)
            place = normal_axis(op, axis, len(shape) + 1)
            results.append(((*shape[:place], trips, *shape[place:]), kind))
        return results

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        if before_opset(op, 9):
            return self._batched(op, inputs)
        body, (count, axes, trips) = _body(op, "body"), self._form(op, inputs)
        states = [required(op, inputs, index, "initial_state") for index in range(count)]
        directions = self._per_output(op, "scan_input_directions", len(axes))
        sources = [
            np.moveaxis(required(op, inputs, count + index, "scan_inputs"), axis, 0)[:: -1 if directions[index] else 1]
            for index, axis in enumerate(axes)
        ]
        produced = len(body.outputs) - count
        scanned: list[list[Array]] = [[] for _ in range(produced)]
        gathered = Gathered(op)
        for trip in range(trips):
            results = run_body(body, [*states, *(np.asarray(source[trip], order="C") for source in sources)])
            states = results[:count]
            gathered.add(results[count:])
            for items, result in zip(scanned, results[count:], strict=True):
                items.append(result)
        places = self._per_output(op, "scan_output_axes", produced)
        reverse = self._per_output(op, "scan_output_directions", produced)
        return [
            *states,
            *(
                _stacked(op, items, _result(op, body, count + index), places[index], bool(reverse[index]))
                for index, items in enumerate(scanned)
            ),
        ]

    def _batched(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        """Opset 8: each sample of a batch by itself, over the first of its slices that `sequence_lens` tells."""
        lengths, values = optional(inputs, 0), present(inputs[1:])
        count = len(values) - int(op.attributes["num_scan_inputs"])
        attributes = {**op.attributes, "scan_input_directions": op.attributes.get("directions", ())}
        single = replace(op, opset=9, attributes=attributes)
        longest = values[-1].shape[1]
        samples = []
        for sample in range(len(values[0])):
            end = longest if lengths is None else int(lengths[sample])
            slices = [value[sample] if index < count else value[sample, :end] for index, value in enumerate(values)]
            states_and_scanned = self.compute(single, slices)
            padding = [(0, longest - end)]
            samples.append(
                [
                    found if index < count else np.pad(found, padding + [(0, 0)] * (found.ndim - 1))
                    for index, found in enumerate(states_and_scanned)
                ]
            )
        return [np.stack(results) for results in zip(*samples, strict=True)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        _, _, trips = self._form(op, inputs)
        return _steps_work(op, _body(op, "body"), inputs, outputs, trips, 0)
