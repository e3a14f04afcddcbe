"""The selective state spaces of Mamba: Gu & Dao, 2023 (arXiv:2312.00752); of Mamba-2: Dao & Gu, ICML 2024
(arXiv:2405.21060); and both directions of Vim: Zhu et al., ICML 2024 (arXiv:2401.09417)."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks.activation import activate
from workloads.blocks.attention import merge_heads, split_heads
from workloads.blocks.dense import linear, unit_rms_norm
from workloads.blocks.generation import States
from workloads.blocks.recurrence import Form, Recurrence, linear_recurrence
from workloads.blocks.temporal import reverse, short_convolution
from workloads.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class Selective:
    """Sizes of a selective state space: its inner width, the state of each inner channel, the width of the short
    convolution, and the rank of the projection that makes the steps."""

    inner: int
    state: int
    kernel: int
    rank: int

    def state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """What a decode step carries: the convolution's window and the state. Constant in the context's length."""
        return {
            "convolution": (batch, self.inner, self.kernel - 1),
            "recurrence": (batch, 1, self.state, self.inner),
        }


def mamba_mixer(
    graph: Builder,
    value: Value,
    sizes: Selective,
    form: Form,
    past: States | None = None,
    bidirectional: bool = False,
    name: str = "mixer",
) -> tuple[Value, States]:
    """A gated selective scan of (batch, tokens, width): out(scan(silu(convolution(x))) * silu(z)), x and z from one
    projection. `bidirectional`, a second scan with weights of its own reads the tokens backwards, the two averaged.

    Returns the result and what the next token needs of this and earlier ones.
    """
    with graph.scope(name):
        inner, gate = graph.split(linear(graph, value, 2 * sizes.inner, "in", bias=False), 2, name="inner_gate")
        mixed, present = selective_scan(graph, inner, sizes, form, past, "forward" if bidirectional else "scan")
        if bidirectional:
            backward, _ = selective_scan(graph, reverse(graph, inner, 1), sizes, form, None, "backward")
            total = graph.add(mixed, reverse(graph, backward, 1), "both")
            mixed = graph.multiply(total, graph.scalar("half", 0.5), "average")
        gated = graph.multiply(mixed, activate(graph, gate, "silu"), "gated")
        return linear(graph, gated, value.shape[-1], "out", bias=False), present


def selective_scan(
    graph: Builder, value: Value, sizes: Selective, form: Form, past: States | None, name: str
) -> tuple[Value, States]:
    """Short convolution, then h_t = exp(step_t A) h_(t-1) + step_t B_t x_t and y_t = C_t h_t + D x_t, with step, B and
    C linear in x: (batch, tokens, inner), and the states after."""
    with graph.scope(name):
        mixed, window = short_convolution(
            graph, value, sizes.kernel, "convolution", past["convolution"] if past else None
        )
        mixed = activate(graph, mixed, "silu")
        projected = linear(graph, mixed, sizes.rank + 2 * sizes.state, "select", bias=False)
        low, write, read = graph.split_sizes(projected, [sizes.rank, sizes.state, sizes.state], name="step_write_read")
        step = activate(graph, linear(graph, low, sizes.inner, "step"), "softplus")
        rates = graph.unary("Neg", graph.unary("Exp", graph.weight("log_rates", sizes.state, sizes.inner)), "rates")
        query, key, stepped, steps = (
            graph.unsqueeze(operand, [1], f"{role}_head")
            for role, operand in (
                ("query", read),
                ("key", write),
                ("value", graph.multiply(step, mixed, "stepped")),
                ("step", step),
            )
        )
        operands = Recurrence(query, key, stepped, log_decay=steps, rates=rates)
        outputs, state = linear_recurrence(graph, operands, form, past["recurrence"] if past else None)
        outputs = graph.reshape(outputs, value.shape, "outputs")
        skip = graph.multiply(graph.weight("skip", sizes.inner), mixed, "skipped")
        return graph.add(outputs, skip, "scanned"), {"convolution": window, "recurrence": state}


@dataclass(frozen=True, slots=True)
class Dual:
    """Sizes of Mamba-2's state space: its inner width, the state of each head, its heads, the groups of them that share
    reads and writes, the width of the short convolution, and the tokens of a chunk."""

    inner: int
    state: int
    heads: int
    groups: int
    kernel: int = 4
    chunk: int = 256

    def state_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """What a decode step carries: the convolution's window and the states. Constant in the context's length."""
        return {
            "convolution": (batch, self.inner + 2 * self.groups * self.state, self.kernel - 1),
            "recurrence": (batch, self.heads, self.state, self.inner // self.heads),
        }


def mamba2_mixer(
    graph: Builder,
    value: Value,
    sizes: Dual,
    form: Form,
    past: States | None = None,
    epsilon: float = 1e-5,
    name: str = "mixer",
) -> tuple[Value, States]:
    """State space duality on (batch, tokens, width): one decay for each head, norm(scan x silu(z)) in groups before
    the output. Returns the result and what the next token needs of this and earlier ones."""
    reads = sizes.groups * sizes.state
    with graph.scope(name):
        projected = linear(graph, value, 2 * sizes.inner + 2 * reads + sizes.heads, "in", bias=False)
        gate, mixed, step = graph.split_sizes(
            projected, [sizes.inner, sizes.inner + 2 * reads, sizes.heads], name="gate_inner_step"
        )
        mixed, window = short_convolution(
            graph, mixed, sizes.kernel, "convolution", past["convolution"] if past else None
        )
        inner, write, read = graph.split_sizes(activate(graph, mixed, "silu"), [sizes.inner, reads, reads])
        content = split_heads(graph, inner, sizes.heads, "content")
        step = activate(graph, graph.add(step, graph.weight("step_bias", sizes.heads)), "softplus")
        rate = graph.unary("Neg", graph.unary("Exp", graph.weight("log_rates", sizes.heads)), "rates")
        steps, log_decay = (
            split_heads(graph, operand, sizes.heads, role)
            for operand, role in ((step, "steps"), (graph.multiply(step, rate), "log_decay"))
        )
        operands = Recurrence(
            query=_grouped(graph, split_heads(graph, read, sizes.groups, "query"), sizes.groups),
            key=_grouped(graph, split_heads(graph, write, sizes.groups, "key"), sizes.groups),
            value=_grouped(graph, graph.multiply(content, steps, "stepped"), sizes.groups),
            log_decay=_grouped(graph, log_decay, sizes.groups),
        )
        start = _grouped(graph, past["recurrence"], sizes.groups) if past else None
        scanned, state = linear_recurrence(graph, operands, form, start, sizes.chunk)
        scanned = graph.reshape(scanned, content.shape, "scanned")
        skip = graph.multiply(graph.weight("skip", sizes.heads, 1, 1), content, "skipped")
        outputs = merge_heads(graph, graph.add(scanned, skip, "total"))
        gated = graph.multiply(outputs, activate(graph, gate, "silu"), "gated")
        apart = (*gated.shape[:2], sizes.groups, sizes.inner // sizes.groups)
        normal = unit_rms_norm(graph, graph.reshape(gated, apart, "groups"), "norm", epsilon)
        normal = graph.multiply(
            graph.reshape(normal, gated.shape, "inner"), graph.weight("norm/weight", sizes.inner), "scaled"
        )
        state = graph.reshape(state, sizes.state_shapes(value.shape[0])["recurrence"], "state")
        return linear(graph, normal, value.shape[-1], "out", bias=False), {"convolution": window, "recurrence": state}


def _grouped(graph: Builder, value: Value, groups: int) -> Value:
    """(batch, heads, ...) to (batch x groups, heads / groups, ...): heads that share reads and writes side by side."""
    batch, heads = value.shape[:2]
    return graph.reshape(value, (batch * groups, heads // groups, *value.shape[2:]), "grouped")
