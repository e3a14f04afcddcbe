"""Linear recurrences over a matrix state, with exchangeable gates, in the forms in which they are run.

    S_t = decay_t * S_(t-1) + k_t^T v_t,    o_t = q_t S_t

The state S is (key size, value size) for each head. The decay is absent (linear attention), one number for each head
(Mamba-2, Dao & Gu 2024, arXiv:2405.21060), one for each key channel (gated linear attention, Yang et al. 2024,
arXiv:2312.06635), or one for each element of the state, exp(step_t x rate) (Mamba, Gu & Dao 2023, arXiv:2312.00752).
With a write strength beta the write is the delta rule, v_t replaced by beta (v_t - k_t S_(t-1)) (DeltaNet, Yang et al.
2024, arXiv:2406.06484).

Forms: "recurrent", a Scan of one step for each token; "chunked", matrix products inside chunks and a Scan of one step
for each chunk; "parallel", a prefix scan of logarithmic depth, for decays of every element. All agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from codesign.errors import BadParameter
from workloads.blocks.prefix import prefix_scan
from workloads.builder import Builder, Value

Form = Literal["recurrent", "chunked", "parallel"]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Operands, (batch, heads, tokens, size) each: queries and keys of the key size, values of the value size. What
    has a single head serves all heads of the others: heads that share key, value and gates share their state.

    `log_decay` is (batch, heads, tokens, 1 or key size). With `rates` (key size, value size), all negative, it is the
    step (batch, heads, tokens, value size), and element (i, j) of the state decays by exp(step_j x rate_ij). `beta`
    (batch, heads, tokens, 1) makes the write a delta rule.
    """

    query: Value
    key: Value
    value: Value
    log_decay: Value | None = None
    rates: Value | None = None
    beta: Value | None = None


def linear_recurrence(
    graph: Builder,
    operands: Recurrence,
    form: Form,
    state: Value | None = None,
    chunk: int = 64,
    subchunk: int = 16,
    name: str = "recurrence",
) -> tuple[Value, Value]:
    """Outputs (batch, heads, tokens, value size) and the last state (batch, heads, key size, value size), which starts
    at `state` or zero. A single token is one step, whatever the form. Raises BadParameter for a form that the decay
    does not have, and when the tokens are not whole chunks."""
    with graph.scope(name):
        if state is None:
            batch, heads, _, value_size = operands.value.shape
            state = graph.zeros("initial_state", (batch, heads, operands.key.shape[-1], value_size))
        tokens = operands.query.shape[2]
        if tokens == 1:
            return _one_step(graph, operands, state)
        if form == "recurrent":
            return _recurrent(graph, operands, state)
        if form == "parallel":
            return _parallel(graph, operands, state)
        if operands.rates is not None:
            raise BadParameter(f"'{graph.name}': a decay of every element has no chunked form; use recurrent, parallel")
        return _chunked(graph, operands, state, _whole(graph, tokens, chunk), subchunk)


def _whole(graph: Builder, tokens: int, chunk: int) -> int:
    chunk = min(chunk, tokens)
    if tokens % chunk:
        raise BadParameter(f"'{graph.name}': {tokens} tokens; expected a multiple of the chunk, {chunk}")
    return chunk


def _present(operands: Recurrence) -> dict[str, Value]:
    """Operands that are there and have tokens, by field."""
    fields = ("query", "key", "value", "log_decay", "beta")
    return {field: value for field in fields if (value := getattr(operands, field)) is not None}


def _step(graph: Builder, at: Recurrence, state: Value) -> tuple[Value, Value]:
    """One token: operands (batch, heads, 1, size), to its output (batch, heads, 1, value size) and the new state.

    The read is a product of a row and a matrix; where every element decays by itself the state is in no matrix unit's
    layout, and the kernels multiply and sum."""
    if at.log_decay is not None:
        log_decay = graph.multiply(at.log_decay, at.rates, "log_decay") if at.rates is not None else None
        if log_decay is None:
            log_decay = graph.transpose(at.log_decay, (0, 1, 3, 2), "log_decay")
        state = graph.multiply(graph.unary("Exp", log_decay, "decay"), state, "decayed")
    written = at.value
    if at.beta is not None:
        error = graph.binary("Sub", written, graph.matmul(at.key, state, "recalled"), "error")
        written = graph.multiply(error, at.beta, "corrected")
    write = graph.multiply(graph.transpose(at.key, (0, 1, 3, 2), "key_column"), written, "write")
    state = graph.add(state, write, "state")
    if at.rates is None:
        return graph.matmul(at.query, state, "read"), state
    columns = graph.multiply(graph.transpose(at.query, (0, 1, 3, 2), "query_column"), state, "weighed")
    return graph.sum(columns, [-2], "read", keepdims=True), state


def _one_step(graph: Builder, operands: Recurrence, state: Value) -> tuple[Value, Value]:
    return _step(graph, operands, state)


def _recurrent(graph: Builder, operands: Recurrence, state: Value) -> tuple[Value, Value]:
    present = _present(operands)

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        rows = [graph.unsqueeze(value, [2], f"{field}_row") for field, value in zip(present, slices, strict=True)]
        at = replace(operands, **dict(zip(present, rows, strict=True)))
        output, after = _step(graph, at, states[0])
        squeezed = (*output.shape[:2], output.shape[3])
        return [after], [graph.reshape(output, squeezed, "output")]

    [last], [outputs] = graph.scan(step, [state], list(present.values()), axis=2)
    return outputs, last


def _parallel(graph: Builder, operands: Recurrence, state: Value) -> tuple[Value, Value]:
    """Prefix scan of (decay, write) pairs, each of the whole state: S_t = decay S + write composes associatively."""
    if operands.beta is not None:
        raise BadParameter(f"'{graph.name}': the delta rule has no parallel form; use recurrent, chunked")
    keys = graph.unsqueeze(operands.key, [-1], "key_columns")
    writes = graph.multiply(keys, graph.unsqueeze(operands.value, [-2], "value_rows"), "writes")
    if operands.rates is not None and operands.log_decay is not None:
        log_decay = graph.multiply(graph.unsqueeze(operands.log_decay, [-2]), operands.rates, "log_decay")
    elif operands.log_decay is not None:
        log_decay = graph.unsqueeze(operands.log_decay, [-1], "log_decay")
    else:
        log_decay = graph.zeros("log_decay", (*operands.key.shape[:3], 1, 1))

    def combine(earlier: list[Value], later: list[Value]) -> list[Value]:
        decay = graph.unary("Exp", later[0], "decay")
        total = graph.add(later[1], graph.multiply(decay, earlier[1], "carried"), "total")
        return [graph.add(earlier[0], later[0], "log_decay"), total]

    log_total, sums = prefix_scan(graph, [log_decay, writes], combine, axis=2)
    initial = graph.multiply(graph.unary("Exp", log_total, "decay"), graph.unsqueeze(state, [2]), "from_initial")
    states = graph.add(sums, initial, "states")
    columns = graph.multiply(graph.unsqueeze(operands.query, [-1], "query_columns"), states, "weighed")
    return graph.sum(columns, [-2], "outputs"), graph.take(states, states.shape[2] - 1, 2, "last_state")


# Chunks: (batch, heads, chunks, tokens of a chunk, size)


def _chunked(graph: Builder, operands: Recurrence, state: Value, chunk: int, subchunk: int) -> tuple[Value, Value]:
    cut = {field: _cut(graph, value, chunk, field) for field, value in _present(operands).items()}
    if operands.beta is not None:
        if operands.log_decay is not None:
            raise BadParameter(f"'{graph.name}': a chunked delta rule with decay is not defined here; use recurrent")
        outputs, last = _delta_chunks(graph, cut, state)
    else:
        outputs, last = _decayed_chunks(graph, cut, state, subchunk)
    lead, tokens = outputs.shape[:2], operands.value.shape[2]
    return graph.reshape(outputs, (*lead, tokens, outputs.shape[-1]), "outputs"), last


def _cut(graph: Builder, value: Value, chunk: int, name: str) -> Value:
    batch, heads, tokens, size = value.shape
    return graph.reshape(value, (batch, heads, tokens // chunk, chunk, size), f"{name}_chunks")


def _decayed_chunks(graph: Builder, cut: dict[str, Value], state: Value, subchunk: int) -> tuple[Value, Value]:
    """Inside a chunk, attention weighted by the decay between two tokens; between chunks, the state alone."""
    query, key, value = cut["query"], cut["key"], cut["value"]
    if "log_decay" not in cut:
        local = graph.matmul(_causal_scores(graph, query, key), value, "local")
        writes = graph.matmul(_flipped(graph, key), value, "writes")
        states, last = _carry(graph, writes, None, state)
        return graph.add(local, graph.matmul(query, states, "read"), "total"), last
    since_start = graph.cumulative_sum(cut["log_decay"], -2, "log_decay_since_start")
    whole = graph.slice(since_start, -1, since_start.shape[-2], -2, "log_decay_of_chunk")
    to_end = graph.unary("Exp", graph.binary("Sub", whole, since_start), "decay_to_end")
    if since_start.shape[-1] == 1:
        local = _scalar_decay_local(graph, query, key, value, since_start)
    else:
        local = _channel_decay_local(graph, query, key, value, since_start, subchunk)
    writes = graph.matmul(_flipped(graph, graph.multiply(key, to_end, "key_at_end")), value, "writes")
    decay = _flipped(graph, graph.unary("Exp", whole, "decay_of_chunk"))
    states, last = _carry(graph, writes, decay, state)
    reach = graph.multiply(query, graph.unary("Exp", since_start, "decay_since_start"), "query_from_start")
    return graph.add(local, graph.matmul(reach, states, "read"), "total"), last


def _carry(graph: Builder, writes: Value, decay: Value | None, state: Value) -> tuple[Value, Value]:
    """The state before each chunk, from what each chunk writes and the decay across it; and the last state."""

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        kept = graph.multiply(slices[1], states[0], "decayed") if decay is not None else states[0]
        return [graph.add(kept, slices[0], "state")], [graph.unary("Identity", states[0], "before")]

    [last], [before] = graph.scan(step, [state], [writes] if decay is None else [writes, decay], axis=2, name="chunks")
    return before, last


def _future(graph: Builder, rows: int) -> Value:
    """Added to what is between two rows (rows, rows): minus infinity where the second is later, else zero."""
    hidden = np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
    return graph.once(f"future_{rows}", lambda: graph.constant("mask", hidden))


def _scalar_decay_local(graph: Builder, query: Value, key: Value, value: Value, since_start: Value) -> Value:
    between = graph.binary("Sub", since_start, _flipped(graph, since_start), "log_decay_between")
    decay = graph.unary("Exp", graph.add(between, _future(graph, between.shape[-1]), "causal"), "decay_between")
    scores = graph.multiply(graph.matmul(query, _flipped(graph, key), "scores"), decay, "decayed_scores")
    return graph.matmul(scores, value, "local")


def _channel_decay_local(
    graph: Builder, query: Value, key: Value, value: Value, since_start: Value, subchunk: int
) -> Value:
    """A chunk in subchunks, so that no exponent is positive: between subchunks matrix products of queries and keys
    decayed to the query's subchunk's start; inside a subchunk element by element, in full precision."""
    chunk = query.shape[3]
    rows = _whole(graph, chunk, subchunk)

    def fine(operand: Value, name: str) -> Value:
        cut = (*operand.shape[:3], chunk // rows, rows, operand.shape[-1])
        return graph.reshape(operand, cut, f"{name}_rows")

    query, decay = fine(query, "query"), fine(since_start, "log_decay")
    within = _subchunk_diagonal(graph, query, fine(key, "key"), decay)
    local = graph.matmul(within, fine(value, "value"), "diagonal")
    local = graph.reshape(local, (*local.shape[:3], chunk, local.shape[-1]), "diagonal_chunks")
    if rows == chunk:
        return local
    ends = graph.slice(decay, -1, rows, -2, "log_decay_at_ends")
    first = graph.zeros("log_decay_at_first", (*ends.shape[:3], 1, *ends.shape[4:]))
    starts = graph.concat([first, graph.slice(ends, 0, -1, 3, "ends")], 3, "log_decay_at_starts")
    from_start = graph.unary("Exp", graph.binary("Sub", decay, starts), "decay_from_start")
    before = graph.binary("Sub", starts, graph.unsqueeze(since_start, [3]), "log_decay_before")
    [before] = graph.node("Min", [before, graph.scalar("zero", 0.0)], [before.shape], "log_decay_clipped")
    keys = graph.multiply(graph.unsqueeze(key, [3]), graph.unary("Exp", before, "decay_to_start"), "keys_at_start")
    queries = graph.multiply(query, from_start, "queries_from_start")
    scores = graph.matmul(queries, _flipped(graph, keys), "scores")
    seen = np.arange(chunk)[None, None, :] < rows * np.arange(chunk // rows)[:, None, None]
    scores = graph.multiply(scores, graph.constant("earlier", seen.astype(np.float32)), "earlier_scores")
    scores = graph.reshape(scores, (*scores.shape[:3], chunk, chunk), "chunk_scores")
    return graph.add(local, graph.matmul(scores, value, "off_diagonal"), "local")


def _subchunk_diagonal(graph: Builder, query: Value, key: Value, decay: Value) -> Value:
    """Scores (..., rows, rows) inside subchunks: the sum over channels of q_i k_j exp(decay_i - decay_j), j <= i."""
    rows = query.shape[-2]
    between = graph.binary("Sub", graph.unsqueeze(decay, [-2]), graph.unsqueeze(decay, [-3]), "log_decay_between")
    hidden = graph.unsqueeze(_future(graph, rows), [-1], "future")
    weight = graph.unary("Exp", graph.add(between, hidden, "causal"), "decay_between")
    products = graph.multiply(graph.unsqueeze(query, [-2]), graph.unsqueeze(key, [-3]), "products")
    return graph.sum(graph.multiply(products, weight, "decayed_products"), [-1], "diagonal_scores")


def _delta_chunks(graph: Builder, cut: dict[str, Value], state: Value) -> tuple[Value, Value]:
    """The delta rule in its WY form: the writes of a chunk are U - W S for the state S before it, with
    W = T K and U = T V of T = (I + strictly lower(beta K K^T))^-1 beta."""
    query, key, value, beta = cut["query"], cut["key"], cut["value"], cut["beta"]
    scaled = graph.multiply(key, beta, "scaled_keys")
    gram = graph.matmul(scaled, _flipped(graph, key), "gram")
    [lower] = graph.node("Trilu", [gram, graph.integers("diagonal", -1)], [gram.shape], "strictly_lower", upper=0)
    inverse = unit_lower_inverse(graph, lower)
    w = graph.matmul(inverse, scaled, "w")
    u = graph.matmul(inverse, graph.multiply(value, beta, "scaled_values"), "u")

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        w_chunk, u_chunk, key_chunk = slices
        writes = graph.binary("Sub", u_chunk, graph.matmul(w_chunk, states[0], "recalled"), "writes")
        added = graph.matmul(graph.transpose(key_chunk, (0, 1, 3, 2)), writes, "added")
        return [graph.add(states[0], added, "state")], [graph.unary("Identity", states[0], "before"), writes]

    [last], [before, writes] = graph.scan(step, [state], [w, u, key], axis=2, name="chunks")
    local = graph.matmul(_causal_scores(graph, query, key), writes, "local")
    return graph.add(local, graph.matmul(query, before, "read"), "total"), last


def unit_lower_inverse(graph: Builder, lower: Value, name: str = "inverse") -> Value:
    """(I + lower)^-1 for strictly lower triangular (..., n, n), by forward substitution: a step for each row."""
    size = lower.shape[-1]
    identity = np.eye(size, dtype=np.float32)
    axis = lower.rank - 2
    with graph.scope(name):
        rows = graph.expand(graph.constant("identity", identity), lower.shape, "unit_rows")

        def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
            lower_row, unit_row = (graph.unsqueeze(value, [-2]) for value in slices)
            row = graph.binary("Sub", unit_row, graph.matmul(lower_row, states[0], "substituted"), "row")
            place = graph.transpose(unit_row, (*range(axis), axis + 1, axis), "place")
            return [graph.add(states[0], graph.multiply(place, row, "placed"), "rows")], []

        [inverse], _ = graph.scan(step, [graph.zeros("no_rows", lower.shape)], [lower, rows], axis=axis, name="rows")
        return inverse


def _causal_scores(graph: Builder, query: Value, key: Value) -> Value:
    scores = graph.matmul(query, _flipped(graph, key), "scores")
    [causal] = graph.node("Trilu", [scores], [scores.shape], "causal_scores", upper=0)
    return causal


def _flipped(graph: Builder, value: Value) -> Value:
    axes = list(range(value.rank))
    return graph.transpose(value, (*axes[:-2], axes[-1], axes[-2]))
