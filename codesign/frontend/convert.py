"""From a ModelProto to a Graph: check, bind the dimensions, walk the nodes, say what is a parameter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from codesign.errors import BadModel, BadParameter, CodesignError
from codesign.frontend import check
from codesign.frontend.control import TRIPS
from codesign.frontend.external import WeightReader
from codesign.frontend.handlers import HANDLERS
from codesign.frontend.infer import MALFORMED
from codesign.frontend.parameters import mark_parameters
from codesign.frontend.rebatch import Rebatch
from codesign.frontend.scope import Scope
from codesign.frontend.symbolic import Dimensions, has_shape, tensor_type
from codesign.frontend.types import ELEMENT_TYPES, element_type_name
from codesign.frontend.walk import Adjust, Walk
from codesign.graph import Graph, Op, Tensor
from codesign.ops.base import ShapeAndType


@dataclass(frozen=True)
class Sizes:
    """What is asked of the sizes: see `codesign.frontend.load`."""

    batch: int | None = None
    bind: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dynamic: bool = False


def to_graph(model: onnx.ModelProto, source: str, folder: Path | None, sizes: Sizes) -> Graph:
    """See `codesign.frontend.from_proto`."""
    try:
        return _converted(model, source, folder, sizes)
    except CodesignError as error:
        message = _one_line(str(error))
        raise type(error)(message if message.startswith(source) else f"{source}: {message}") from error
    except (*MALFORMED, RecursionError, MemoryError) as error:
        raise BadModel(f"{source}: malformed model ({_one_line(repr(error))})") from error


def _one_line(text: str) -> str:
    """Names in a damaged or hostile file may hold line breaks and terminal codes: they are shown escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _converted(model: onnx.ModelProto, source: str, folder: Path | None, sizes: Sizes) -> Graph:
    batch = sizes.batch
    if batch is not None and batch < 1:
        raise BadParameter(f"batch = {batch}, expected at least 1")
    graph = model.graph
    check.check_names(graph)
    stored = {item.name for item in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    inputs = [item for item in graph.input if item.name not in stored]
    known = [item for item in inputs if item.name in sizes.shapes or not sizes.dynamic or has_shape(item)]
    loops = [f"{name}{TRIPS}" for name in check.node_names(graph, "Loop")]
    dimensions = Dimensions(known, [*_inner_symbols(graph), *loops], sizes.bind, batch, sizes.shapes)
    trips = {name.removesuffix(TRIPS): dimensions.sizes[name] for name in loops if name in dimensions.sizes}
    shapes = {item.name: dimensions.shape(item) for item in known}
    unknown = [item.name for item in inputs if item.name not in shapes]
    declared = _declared(graph, dimensions)
    walk, scope = walked(
        model, WeightReader(folder), shapes, declared, unknown=unknown, dynamic=sizes.dynamic, trips=trips
    )
    if batch is not None and not dimensions.batch_is_symbolic and batch != _leading(shapes):
        walk, scope = rebatched(model, folder, shapes, walk, batch)
    converted = finished(model, walk, scope, tuple(item.name for item in inputs))
    warnings = (*dimensions.warnings, *converted.warnings)
    return replace(converted, source=source, batch=batch or _leading(shapes), warnings=warnings)


def rebatched(
    model: onnx.ModelProto, folder: Path | None, shapes: Mapping[str, tuple[int, ...]], base: Walk, batch: int
) -> tuple[Walk, Scope]:
    """The walk again with another leading dimension of the inputs; `base` is the first. Raises BadModel naming the node
    that has the old batch written into it."""
    adjust = Rebatch(base, _leading(shapes), batch)
    try:
        new = adjust.input_shapes(shapes)
        walk, scope = walked(model, WeightReader(folder), new, {}, adjust, base.unknown, base.dynamic, base.trips)
    except BadModel as error:
        if "cannot change the batch" in str(error):
            raise
        raise BadModel(f"cannot change the batch to {batch}: {error}") from error
    adjust.check(walk)
    return walk, scope


def walked(
    model: onnx.ModelProto,
    reader: WeightReader,
    shapes: Mapping[str, tuple[int, ...]],
    declared: Mapping[str, ShapeAndType],
    adjust: Adjust | None = None,
    unknown: Collection[str] = (),
    dynamic: bool = False,
    trips: Mapping[str, int] | None = None,
) -> tuple[Walk, Scope]:
    """One pass over the model with inputs of the `shapes` given. Raises BadModel naming the node at fault."""
    graph = model.graph
    functions = {(item.domain, item.name, item.overload): item for item in model.functions}
    walk = Walk(reader, HANDLERS, functions, declared, adjust, dynamic, trips or {})
    scope = Scope({}, check.opset_imports(model.opset_import))
    for item in graph.input:
        if item.name in shapes:
            what = f"input '{item.name}'"
            tensor = Tensor(item.name, shapes[item.name], element_type_name(tensor_type(item).elem_type, what))
            walk.names.add(item.name)
            scope.names[item.name] = walk.add_tensor(tensor)
        elif item.name in unknown:
            walk.names.add(item.name)
            scope.names[item.name] = walk.add_unknown(item.name, f"input '{item.name}' has no shape of its own")
    walk.add_initializers(graph, scope)
    walk.run(graph.node, scope)
    return walk, scope


def finished(model: onnx.ModelProto, walk: Walk, scope: Scope, inputs: tuple[str, ...]) -> Graph:
    """The Graph that a walk has written: outputs named, dead operations dropped, parameters told apart."""
    graph = model.graph
    outputs = tuple(name for item in graph.output for name in _output(item, walk, scope))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    converted = Graph(
        graph.name,
        walk.tensors,
        walk.weights,
        tuple(walk.ops),
        inputs,
        outputs,
        warnings=(*walk.reader.warnings(), *walk.warnings),
        metadata=metadata,
        unknown=walk.unknown,
    )
    converted = live(with_output_names(converted, tuple(item.name for item in graph.output)))
    mark_parameters(converted, walk.origins)
    return converted


def _output(item: onnx.ValueInfoProto, walk: Walk, scope: Scope) -> tuple[str, ...]:
    """The tensors that a graph output stands for: of a sequence its items, or itself as one value if it is dynamic."""
    found = scope.names.get(item.name)
    if found is None:
        raise BadModel(f"graph output '{item.name}' is produced by no node")
    if walk.dynamic:
        return (walk.single(found, item.name, ()),)
    return (found,) if isinstance(found, str) else found


def live(graph: Graph) -> Graph:
    """The graph without operations whose results nobody reads."""
    needed = set(graph.outputs)
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(name in needed for name in op.outputs):
            needed.update(op.reads())
            kept.append(op)
    return graph.with_ops(tuple(reversed(kept)))


def with_output_names(graph: Graph, names: tuple[str, ...]) -> Graph:
    """The graph with its outputs named as in the model, where a removed Identity or an inlined body renamed them."""
    fixed = {*graph.inputs, *graph.weights}
    renamed: dict[str, str] = {}
    extra: list[Op] = []
    outputs = list(graph.outputs)
    if len(names) != len(outputs):
        return graph
    tensors, unknown = dict(graph.tensors), dict(graph.unknown)
    for position, (name, tensor) in enumerate(zip(names, graph.outputs, strict=True)):
        if name == tensor:
            continue
        if (name in tensors or name in unknown) and name not in renamed.values():
            continue
        if tensor in fixed or tensor in renamed or tensor in names:
            extra.append(Op(f"{name}/Identity", "Identity", (tensor,), (name,), opset=13))
        else:
            renamed[tensor] = name
        if tensor in unknown:
            unknown[name] = unknown[tensor]
        else:
            tensors[name] = replace(tensors[tensor], name=name)
        outputs[position] = name
    ops = tuple(rename(op, renamed) for op in graph.ops) if renamed else graph.ops
    extra = [rename(op, renamed) for op in extra]
    return replace(graph, ops=(*ops, *extra), outputs=tuple(outputs), tensors=tensors, unknown=unknown)


def rename(op: Op, names: Mapping[str, str]) -> Op:
    """The operation with tensors called by other names."""
    if not any(name in names for name in (*op.reads(), *op.outputs)):
        return op
    bodies = {
        key: replace(
            body,
            captured=tuple(names.get(name, name) for name in body.captured),
            ops=tuple(rename(inner, names) for inner in body.ops),
            outputs=tuple(names.get(name, name) for name in body.outputs),
            tensors={
                names.get(name, name): replace(tensor, name=names.get(name, name))
                for name, tensor in body.tensors.items()
            },
            unknown={names.get(name, name): reason for name, reason in body.unknown.items()},
        )
        for key, body in op.bodies.items()
    }
    return replace(
        op,
        inputs=tuple(names.get(name, name) for name in op.inputs),
        outputs=tuple(names.get(name, name) for name in op.outputs),
        bodies=bodies,
    )


def _leading(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The batch that the inputs state: the leading dimension of the first that has more than one, else 1."""
    return next((shape[0] for shape in shapes.values() if len(shape) > 1), 1)


def _inner_symbols(graph: onnx.GraphProto) -> list[str]:
    """Names of dimensions that occur inside the graph and at its outputs."""
    return [
        dim.dim_param
        for item in (*graph.value_info, *graph.output)
        for dim in item.type.tensor_type.shape.dim
        if dim.dim_param
    ]


def _declared(graph: onnx.GraphProto, dimensions: Dimensions) -> dict[str, ShapeAndType]:
    """Shapes that the model states of inner values, as far as their dimensions are known."""
    declared = {}
    for item in (*graph.value_info, *graph.output):
        tensor = item.type.tensor_type
        sizes = [dimensions.size_of(dim) for dim in tensor.shape.dim]
        if (
            tensor.HasField("shape")
            and tensor.elem_type in ELEMENT_TYPES
            and all(size is not None and size >= 0 for size in sizes)
        ):
            declared[item.name] = tuple(size for size in sizes if size is not None), ELEMENT_TYPES[tensor.elem_type]
    return declared
