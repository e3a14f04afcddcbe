"""Mamba language models: selective state spaces alone. Gu & Dao, 2023 (arXiv:2312.00752).

The prefill's scan is one Scan node whose steps compute decay and write from the projections, as the paper's fused
kernel does; "parallel" is a prefix scan that writes every state to memory. A decode step carries its states.
"""

from __future__ import annotations

from workloads.blocks.dense import rms_norm, tied_logits
from workloads.blocks.generation import read_states, token_ids, write_states
from workloads.blocks.recurrence import Form
from workloads.blocks.state_space import Selective, mamba_mixer
from workloads.builder import Builder
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
    tokens = token_ids(graph, batch, sequence)
    pasts = read_states(graph, [sizes.state_shapes(batch)] * layers) if decode else [None] * layers
    table = graph.weight("embedding/weight", vocabulary, width)
    value = graph.lookup(table, tokens, "embedding/lookup")
    presents = []
    for layer, past in enumerate(pasts):
        with graph.scope(f"layer{layer}"):
            mixed, present = mamba_mixer(graph, rms_norm(graph, value, "norm", EPSILON), sizes, form, past)
            value = graph.add(value, mixed, "residual")
            presents.append(present)
    graph.output(tied_logits(graph, rms_norm(graph, value, "norm", EPSILON), table), "logits")
    write_states(graph, presents)
