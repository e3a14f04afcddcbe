"""What each kind of work asks of the NPU: one or more pipelines, which follow each other."""

from __future__ import annotations

import math
from dataclasses import replace

from codesign.dtypes import dtype
from codesign.hardware import MappedOp
from codesign.work import Attention, Contraction, Map, Move, Operand, Reduce, Work
from hwmodels.npu.parameters import NpuParameters
from hwmodels.npu.pipeline import Load, Pipeline, event_ticks
from hwmodels.npu.sparsity import multiplied_share
from hwmodels.npu.tiling import Operands, Tiling, search, working_bytes

Pipelines = tuple[Pipeline, ...]


def runs_on_npu(parameters: NpuParameters, work: Work) -> str:
    """An empty string when the NPU runs `work` itself, else why the host must."""
    if isinstance(work, Move):
        return ""
    if not isinstance(work, Contraction | Attention | Map | Reduce):
        return f"{type(work).__name__.lower()} has no unit on the NPU"
    if isinstance(work, Contraction | Attention):
        if work.dtype not in parameters.array.dtypes:
            return f"the array does not multiply {work.dtype}"
        if not parameters.array.dynamic_weights and _multiplies_activations(work):
            return "the array needs constant weights, and both operands are activations"
    elif not _integer(work.dtype):
        return f"the vector unit does not compute in {work.dtype}"
    return ""


def pipelines(parameters: NpuParameters, op: MappedOp) -> Pipelines:
    """The pipelines of `op`, in order."""
    work = op.work
    if runs_on_npu(parameters, work):
        return (_on_host(parameters, op),)
    if isinstance(work, Contraction):
        return _contraction_and_addends(parameters, op, work)
    if isinstance(work, Attention):
        return _attention(parameters, op, work)
    if isinstance(work, Reduce):
        return _reduction(parameters, op, work)
    if isinstance(work, Map):
        operations = work.elements * _operations_per_element(parameters, work) + _fused(work)
        return (_on_vector(parameters, op, operations, "elementwise"),)
    assert isinstance(work, Move)
    return (_moved(parameters, op, work),)


def _multiplies_activations(work: Contraction | Attention) -> bool:
    return isinstance(work, Attention) or (len(work.reads) > 1 and work.reads[1].role != "weight")


def _integer(name: str) -> bool:
    kind = dtype(name)
    return kind.kind in ("int", "uint", "bool") and kind.bits <= 32


def is_resident(op: MappedOp, index: int) -> bool:
    return index < len(op.resident) and op.resident[index]


def _fused(work: Work) -> int:
    """Operations fused onto the results, less the requantisation that the output stage does to all of them."""
    return work.epilogue_flops - work.requantise_flops


def _width(operand: Operand) -> float:
    return dtype(operand.dtype).bits / 8


def _contraction_and_addends(parameters: NpuParameters, op: MappedOp, work: Contraction) -> Pipelines:
    """A feature map added to the results has a scale of its own: the vector unit adds it in a command of its own, as
    it does where the graph keeps the two operations apart. The results wait on chip when they fit."""
    addends = work.addends
    if not addends:
        return _contraction(parameters, op, work)
    others = [index for index in range(len(work.reads)) if index not in addends]
    result = replace(work.writes[0], density=1.0, patterns=())
    keep = result.bytes <= working_bytes(parameters)
    product = replace(
        work,
        reads=tuple(work.reads[index] for index in others),
        writes=(result,),
        epilogue_flops=max(work.requantise_flops, work.epilogue_flops - len(addends) * result.elements),
    )
    total = Map(
        kind="Add", reads=(result, *(work.reads[index] for index in addends)), writes=work.writes,
        elements=result.elements, flops_per_element=len(addends), dtype=result.dtype,
    )  # fmt: skip
    resident = tuple(is_resident(op, index) for index in others)
    beside = (keep, *(is_resident(op, index) for index in addends))
    return (
        *_contraction(parameters, MappedOp(op.name, product, resident, keep), product),
        *pipelines(parameters, MappedOp(op.name, total, beside, op.keep_output)),
    )


def _contraction(parameters: NpuParameters, op: MappedOp, work: Contraction) -> Pipelines:
    inputs, weights = work.reads[0], work.reads[min(1, len(work.reads) - 1)]
    operands = Operands(
        _width(inputs), _width(weights), _width(work.writes[0]),
        is_resident(op, 0), is_resident(op, 1), op.keep_output,
    )  # fmt: skip
    tilings = search(parameters, work, operands)
    candidates = [_product_pipeline(parameters, op, work, operands, tiling) for tiling in tilings]
    return (min(candidates, key=lambda pipeline: event_ticks(parameters, pipeline)),)


def _product_pipeline(
    parameters: NpuParameters, op: MappedOp, work: Contraction, operands: Operands, tiling: Tiling
) -> Pipeline:
    """The tiles of a contraction; its further operands (bias, an addend of the epilogue) come beside the inputs."""
    tiles = tiling.tiles
    loads = []
    if tiling.weight_bytes:
        constant = not _multiplies_activations(work)
        loads.append(
            Load("load weights", tiling.weight_bytes, tiling.weight_loads, tiling.weight_stride, weights=constant)
        )
    if tiling.input_bytes:
        loads.append(Load("load inputs", tiling.input_bytes, tiling.input_loads, tiling.input_stride))
    loads += _whole_loads(op, start=2)
    elements = math.ceil(tiling.output_elements)
    epilogue = _fused(work) / tiles
    operations = elements + max(0.0, epilogue - 2 * elements)  # scaling clamps the result on both sides anyway
    scale = tiling.product.bits // 8
    macs = work.macs * multiplied_share(parameters.array, work) / tiles
    beside = sum(operand.bytes for operand in work.reads[2:]) / tiles
    return Pipeline(
        tiles=tiles,
        engine="mac_array",
        engine_cycles=tiling.array_cycles,
        loads=tuple(loads),
        read_bytes=tiling.read_bytes + beside,
        output_cycles=math.ceil(operations / parameters.vector.lanes),
        write_bytes=elements * operands.output_bytes,
        store_bytes=0.0 if op.keep_output else elements * operands.output_bytes,
        start_cycles=parameters.control.command_cycles,
        label="multiply",
        engine_energy={"mac": macs * parameters.energy.mac * scale**2},
        output_energy={"vector": operations * parameters.energy.vector_operation},
        detail=tiling,
    )


def _whole_loads(op: MappedOp, start: int = 0) -> list[Load]:
    """Operands from `start` on that are not on chip, each brought whole before the first tile."""
    work, loads = op.work, []
    for index, operand in enumerate(work.reads[start:], start):
        if operand.bytes and not is_resident(op, index):
            is_weight = operand.role == "weight"
            loads.append(Load("load weights" if is_weight else "load inputs", operand.bytes, 1, 1, weights=is_weight))
    return loads


def _attention(parameters: NpuParameters, op: MappedOp, work: Attention) -> Pipelines:
    """Scores, their softmax, and the weighted values, head by head; scores stay on chip while a head's fit."""
    heads = work.batch * work.heads
    pairs = heads * work.query_length * work.kv_length
    query, key, value = work.reads[:3]
    scores = Operand(pairs, work.dtype)
    keep = scores.bytes / heads <= working_bytes(parameters)
    first = Contraction(
        kind="scores", reads=(query, key), writes=(scores,), batch=heads, m=work.query_length, n=work.kv_length,
        k=work.head_dim, dtype=work.dtype,
    )  # fmt: skip
    softmax = Reduce(
        kind="Softmax", reads=(scores, *work.reads[3:]), writes=(scores,), rows=heads * work.query_length,
        columns=work.kv_length, passes=3, dtype=work.dtype,
    )  # fmt: skip
    second = Contraction(
        kind="values", reads=(scores, value), writes=work.writes, batch=heads, m=work.query_length,
        n=work.value_dim, k=work.kv_length, dtype=work.dtype, epilogue_flops=work.epilogue_flops,
    )  # fmt: skip
    resident = [is_resident(op, index) for index in range(len(work.reads))]
    return (
        *_contraction(parameters, MappedOp(op.name, first, (resident[0], resident[1]), keep), first),
        *_reduction(parameters, MappedOp(op.name, softmax, (keep, *resident[3:]), keep), softmax),
        *_contraction(parameters, MappedOp(op.name, second, (keep, resident[2]), op.keep_output), second),
    )


def _reduction(parameters: NpuParameters, op: MappedOp, work: Reduce) -> Pipelines:
    if work.passes > 1:
        return _normalisation(parameters, op, work)
    array = parameters.array
    if array.dataflow != "dot_product":
        operations = work.rows * work.columns + _fused(work)
        return (_on_vector(parameters, op, operations, "reduce"),)
    # A pooling window passes through the array as a depthwise kernel of ones, one tap of every channel at a time.
    block = 1 if work.kind.startswith(("Global", "Reduce")) else array.block_height * array.block_width
    groups = -(-work.rows // (array.rows * block))
    base = _on_vector(parameters, op, work.rows + _fused(work), "output stage")
    cycles = groups * array.reduction_steps * work.columns
    pooling = replace(
        base,
        engine="mac_array",
        label="pool",
        engine_cycles=math.ceil(cycles / base.tiles),
        output_cycles=base.engine_cycles,
        output_energy=base.engine_energy,
        engine_energy={"mac": work.rows * work.columns / base.tiles * parameters.energy.mac},
    )
    return (pooling,)


def _normalisation(parameters: NpuParameters, op: MappedOp, work: Reduce) -> Pipelines:
    """Softmax and norms: commands over all elements, then commands over one value a row."""
    vector = parameters.vector
    whole = work.rows * work.columns * (vector.normalisation_passes + vector.lookup_operations - 1)
    start = parameters.control.command_cycles
    body = _on_vector(parameters, op, whole + _fused(work), "normalise")
    body = replace(body, start_cycles=start * vector.normalisation_passes)
    commands = vector.normalisation_row_commands
    if not commands:
        return (body,)
    operations = work.rows * commands
    rows = Pipeline(
        tiles=1,
        engine="vector",
        engine_cycles=math.ceil(operations / vector.lanes),
        start_cycles=start * commands,
        label="normalise rows",
        engine_energy={"vector": operations * parameters.energy.vector_operation},
    )
    return (rows, body)


def _operations_per_element(parameters: NpuParameters, work: Map) -> int:
    """Elementary operations an element. Integer operands are each rescaled to a common scale and the result back; a
    function of one operand is a table look-up, unless it only clips."""
    operands = sum(operand.elements * 2 > work.elements for operand in work.reads)
    if operands > 1:
        return operands + 1
    return 1 if work.flops_per_element <= 1 else parameters.vector.lookup_operations


def _on_vector(parameters: NpuParameters, op: MappedOp, operations: float, label: str) -> Pipeline:
    """All operands through the vector unit in chunks that fit on chip."""
    work = op.work
    tiles = _chunks(parameters, work)
    per_tile = operations / tiles
    return Pipeline(
        tiles=tiles,
        engine="vector",
        engine_cycles=math.ceil(per_tile / parameters.vector.lanes),
        loads=_chunked_loads(op, tiles),
        read_bytes=work.read_bytes / tiles,
        write_bytes=work.write_bytes / tiles,
        store_bytes=0.0 if op.keep_output else work.write_bytes / tiles,
        start_cycles=parameters.control.command_cycles,
        label=label,
        engine_energy={"vector": per_tile * parameters.energy.vector_operation},
    )


def _moved(parameters: NpuParameters, op: MappedOp, work: Move) -> Pipeline:
    """The DMA engine copies run by run, each run a whole number of beats."""
    beat = parameters.sram.beat
    run = max(1, min(work.contiguous_bytes, work.write_bytes))
    beats = -(-work.write_bytes // run) * -(-run // beat)
    tiles = _chunks(parameters, work)
    return replace(
        _on_vector(parameters, op, 0, "copy"),
        engine="dma",
        engine_cycles=math.ceil(beats / tiles),
        engine_energy={},
    )


def _on_host(parameters: NpuParameters, op: MappedOp) -> Pipeline:
    """The host computes, reading and writing through the memories the NPU uses."""
    work, host = op.work, parameters.host
    tiles = _chunks(parameters, work)
    cycles = work.macs / host.macs_per_cycle + (work.flops - 2 * work.macs) / host.operations_per_cycle
    cycles = max(cycles, work.bytes / 4 / host.operations_per_cycle)  # at least one operation a word moved
    ticks = parameters.clock / host.clock
    operations = max(work.flops, work.bytes / 4)
    return Pipeline(
        tiles=tiles,
        engine="host",
        engine_cycles=math.ceil(cycles * ticks / tiles),
        loads=_chunked_loads(op, tiles),
        read_bytes=work.read_bytes / tiles,
        write_bytes=work.write_bytes / tiles,
        store_bytes=0.0 if op.keep_output else work.write_bytes / tiles,
        start_cycles=math.ceil(host.call_cycles * ticks),
        label="on the host",
        engine_energy={"host": operations * parameters.energy.host_operation / tiles},
    )


def _chunks(parameters: NpuParameters, work: Work) -> int:
    """Chunks in which operands pass: double-buffered in the working memory, and enough of them to overlap."""
    fitting = -(-2 * work.bytes // working_bytes(parameters))
    return int(max(1, fitting, min(8, work.bytes // 4096)))


def _chunked_loads(op: MappedOp, tiles: int) -> tuple[Load, ...]:
    loads = []
    for index, operand in enumerate(op.work.reads):
        if operand.bytes and not is_resident(op, index):
            label = "load weights" if operand.role == "weight" else "load inputs"
            loads.append(Load(label, operand.bytes / tiles, tiles, weights=operand.role == "weight"))
    return tuple(loads)
