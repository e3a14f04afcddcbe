"""The selective state space of Mamba: Gu & Dao, 2023 (arXiv:2312.00752); both directions of Vim: Zhu et al., ICML 2024
(arXiv:2401.09417)."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.blocks.activation import activate
from workloads.blocks.dense import linear
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
