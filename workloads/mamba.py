"""Mamba language models: selective state spaces alone. Gu & Dao, 2023 (arXiv:2312.00752).

The prefill's scan is one Scan node whose steps compute decay and write from the projections, as the paper's fused
kernel does; "parallel" is a prefix scan that writes every state to memory. A decode step carries its states.
"""

from __future__ import annotations

from workloads.blocks.dense import rms_norm
from workloads.blocks.generation import language_model, read_states, write_states
from workloads.blocks.recurrence import Form
from workloads.blocks.state_space import Selective, mamba_mixer
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    f"{name}{suffix}": {"width": width, "layers": layers, "decode": bool(suffix)}
    for suffix in ("", "_decode")
    for name, width, layers in (
        ("mamba_130m", 768, 24),
        ("mamba_370m", 1024, 48),
        ("mamba_790m", 1536, 48),
        ("mamba_1_4b", 2048, 48),
        ("mamba_2_8b", 2560, 64),
    )
}

REDUCED = {
    name: {"sequence": sequence, "width": 32, "layers": 2, "vocabulary": 100}
    for name, sequence in (("mamba_130m", 12), ("mamba_130m_decode", 1))
}


@variants(VARIANTS, REDUCED)
def mamba(
    graph: Builder,
    batch: int,
    sequence: int,
    *,
    width: int,
    layers: int,
    decode: bool,
    form: Form = "recurrent",
    state: int = 16,
    kernel: int = 4,
    vocabulary: int = 50280,
) -> None:
    """Token ids (batch, sequence), in a decode step after the tokens that the states remember, to logits of every
    token (batch, sequence, vocabulary) and the states."""
    sizes = Selective(inner=2 * width, state=state, kernel=kernel, rank=-(-width // 16))
    pasts = read_states(graph, [sizes.state_shapes(batch)] * layers) if decode else [None] * layers
    presents = []

    def norm(value: Value, name: str) -> Value:
        return rms_norm(graph, value, name, EPSILON)

    def layer(value: Value, index: int) -> Value:
        mixed, present = mamba_mixer(graph, norm(value, "norm"), sizes, form, pasts[index])
        presents.append(present)
        return graph.add(value, mixed, "residual")

    language_model(graph, batch, sequence, layer, norm, layers=layers, width=width, vocabulary=vocabulary)
    write_states(graph, presents)
