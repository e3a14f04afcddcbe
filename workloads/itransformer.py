"""iTransformer: attention across series, each series' whole look-back one token.

Liu et al., ICLR 2024 (arXiv:2310.06625). The sizes are the released scripts'.
"""

from __future__ import annotations

from workloads.blocks.attention import self_attention
from workloads.blocks.dense import feed_forward, layer_norm
from workloads.blocks.forecasting import inverted_forecast
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    "itransformer_traffic": {"width": 512, "layers": 4},
    "itransformer_ecl": {"width": 512, "layers": 3},
    "itransformer_solar": {"width": 512, "layers": 2, "covariates": 0},
    "itransformer_weather": {"width": 512, "layers": 3},
    "itransformer_exchange": {"width": 128, "layers": 2},
    "itransformer_etth1": {"width": 256, "layers": 2},
}

REDUCED = {
    "itransformer_etth1": {"lookback": 24, "horizon": 12, "width": 32},
    "itransformer_solar": {"lookback": 24, "horizon": 12, "width": 32, "variates": 9},
}


@variants(VARIANTS, REDUCED)
def itransformer(
    graph: Builder,
    batch: int,
    lookback: int,
    horizon: int,
    variates: int,
    *,
    width: int,
    layers: int,
    heads: int = 8,
    covariates: int = 4,
) -> None:
    """Series (batch, lookback, variates) and the calendar (batch, lookback, covariates) to a forecast (batch, horizon,
    variates)."""

    def encode(value: Value) -> Value:
        for layer in range(layers):
            with graph.scope(f"layer{layer}"):
                value = encoder_layer(graph, value, heads)
        return layer_norm(graph, value, "norm", EPSILON)

    inverted_forecast(graph, batch, lookback, variates, horizon, covariates, width, encode)


def encoder_layer(graph: Builder, value: Value, heads: int) -> Value:
    """norm(x + attention(x)), then norm(x + mlp(x)), the hidden layer as wide as the tokens."""
    attended, _ = self_attention(graph, value, heads, separate=True)
    value = layer_norm(graph, graph.add(value, attended, "residual1"), "norm1", EPSILON)
    hidden = feed_forward(graph, value, value.shape[-1])
    return layer_norm(graph, graph.add(value, hidden, "residual2"), "norm2", EPSILON)
