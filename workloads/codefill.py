"""CodeFill: three GPT-2 decoders side by side, of names and values, of their types, and of whole statements.

Izadi et al., ICSE 2022 (arXiv:2202.06689). Trained together, apart at completion: beams go through a decode step of
all. Beside it the single decoders that it is held against.
"""

from __future__ import annotations

from workloads.blocks.generation import token_ids
from workloads.builder import Builder
from workloads.gpt2 import decoder
from workloads.registry import Table, variants

WORDS = 50257

MODELS: Table = {
    "codefill": {"vocabularies": {"value": WORDS, "type": 103, "statement": WORDS}},
    "gpt_c_baseline": {"vocabularies": {"value": WORDS}},
    "travtrans_plus_baseline": {"vocabularies": {"value": WORDS}},
}

VARIANTS: Table = {f"{name}{suffix}": model for suffix in ("", "_decode") for name, model in MODELS.items()}

SMALL = {"width": 32, "heads": 4, "layers": 2, "positions": 16}
TINY = {"vocabularies": {"value": 100, "type": 11, "statement": 100}}
REDUCED: Table = {
    "codefill": {"sequence": 8, **SMALL, **TINY},
    "codefill_decode": {"past": 7, **SMALL, **TINY},
}


@variants(VARIANTS, REDUCED)
def codefill(
    graph: Builder,
    batch: int,
    sequence: int,
    past: int = 0,
    *,
    vocabularies: dict[str, int],
    width: int = 768,
    heads: int = 12,
    layers: int = 12,
    positions: int = 2048,
) -> None:
    """For each decoder its token ids `<decoder>_ids` (batch, sequence), after `past` cached ones, to the logits of its
    next token `<decoder>_logits` (batch, 1, vocabulary). Beams are a batch."""
    for name, vocabulary in vocabularies.items():
        tokens = token_ids(graph, batch, sequence, f"{name}_ids")
        with graph.scope(name):
            decoder(graph, tokens, past, width, heads, layers, vocabulary, positions, f"{name}_")
