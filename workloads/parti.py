"""Parti: from text to image tokens, one after another. Yu et al., TMLR 2022 (arXiv:2206.10789).

A bidirectional encoder of the text, a causal decoder with cross-attention. The prefill is the whole of an image's 1,024
tokens at once, as in training; a decode step reads its own cache and the keys and values that the encoder's output gave
once. Guidance without a classifier is a batch of two.
"""

from __future__ import annotations

from functools import partial

from workloads.blocks.attention import Cache, attend, cross_attention, encoder_attention, merge_heads, project_heads
from workloads.blocks.dense import layer_norm, linear, mlp
from workloads.blocks.generation import read_cache, token_ids, write_cache
from workloads.blocks.residual import Branch, encoder_blocks, residual
from workloads.builder import Builder, Value
from workloads.registry import Table, variants

norm = partial(layer_norm, epsilon=1e-6)

MODELS: Table = {
    "parti_350m": {"encoder_layers": 12, "decoder_layers": 12, "width": 1024, "heads": 16},
    "parti_750m": {"encoder_layers": 12, "decoder_layers": 36, "width": 1024, "heads": 16},
    "parti_3b": {"encoder_layers": 12, "decoder_layers": 36, "width": 2048, "heads": 32},
    "parti_20b": {"encoder_layers": 16, "decoder_layers": 64, "width": 4096, "heads": 64},
}

VARIANTS: Table = {
    f"{name}{suffix}": {**model, "decode": bool(suffix)} for suffix in ("", "_decode") for name, model in MODELS.items()
}

SMALL = {"text": 5, "encoder_layers": 2, "decoder_layers": 2, "width": 32, "heads": 4, "words": 100, "codes": 50,
         "positions": 16}  # fmt: skip
REDUCED: Table = {"parti_350m": {"image_tokens": 8, **SMALL}, "parti_350m_decode": {"past": 7, **SMALL}}


@variants(VARIANTS, REDUCED)
def parti(
    graph: Builder,
    batch: int,
    text: int,
    image_tokens: int,
    past: int = 0,
    *,
    encoder_layers: int,
    decoder_layers: int,
    width: int,
    heads: int,
    decode: bool,
    words: int = 16000,
    codes: int = 8192,
    positions: int = 1024,
) -> None:
    """Text ids (batch, text) and image token ids (batch, image_tokens) to the logits of the tokens that follow (batch,
    image_tokens, codes); a decode step reads, in place of the text, keys and values of it and of `past` tokens."""
    tokens = token_ids(graph, batch, image_tokens, "image_ids")
    if decode:
        of_text = read_cache(graph, batch, heads, text, width // heads, decoder_layers, "text_")
        pasts = read_cache(graph, batch, heads, past, width // heads, decoder_layers)
    else:
        memory = _encode(graph, token_ids(graph, batch, text, "text_ids"), words, encoder_layers, width, heads)
        of_text, pasts = [None] * decoder_layers, [None] * decoder_layers
    value = graph.lookup(graph.weight("decoder/embedding", codes, width), tokens, "decoder/embedded")
    places = graph.slice(graph.weight("decoder/positions", positions, width), past, past + image_tokens, 0)
    value = graph.add(value, places, "decoder/positioned")
    presents: list[Cache] = []
    text_presents: list[Cache] = []
    for index in range(decoder_layers):

        def attention(inner: Value, index: int = index) -> Value:
            with graph.scope("attention"):
                query, key, content = project_heads(graph, inner, width, heads, "query", "key", "value", bias=False)
                context, present = attend(graph, query, key, content, past=pasts[index])
                presents.append(present)
                return linear(graph, merge_heads(graph, context), width, "output", bias=False)

        def crossed(inner: Value, index: int = index) -> Value:
            mixed, present = cross_attention(graph, inner, of_text[index] or memory, heads, bias=False)
            text_presents.append(present)
            return mixed

        with graph.scope(f"decoder/layer{index}"):
            branches: tuple[Branch, ...] = (attention, crossed, partial(mlp, graph, hidden=4 * width))
            for number, branch in enumerate(branches):
                value = residual(graph, value, branch, number, norm)
    graph.output(linear(graph, norm(graph, value, "decoder/norm"), codes, "head", bias=False), "logits")
    write_cache(graph, presents)
    if not decode:
        write_cache(graph, text_presents, "text_")


def _encode(graph: Builder, tokens: Value, words: int, layers: int, width: int, heads: int) -> Value:
    """Text ids (batch, text) to their encoding (batch, text, width)."""
    with graph.scope("encoder"):
        value = graph.lookup(graph.weight("embedding", words, width), tokens, "embedded")
        value = graph.add(value, graph.weight("positions", 1, tokens.shape[1], width), "positioned")
        mix = partial(encoder_attention, graph, heads=heads, bias=False, output_bias=False)
        value = encoder_blocks(graph, value, layers, mix, partial(mlp, graph, hidden=4 * width), norm, "layer")
        return norm(graph, value, "norm")
