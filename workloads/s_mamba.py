"""S-Mamba: selective scans across series, forwards and backwards, each series' whole look-back one token.

Wang et al., Neurocomputing 2024 (arXiv:2403.11144). The sizes are the released scripts'; what the released layer
instantiates and never runs is left out.
"""

from __future__ import annotations

from workloads.blocks.dense import feed_forward, layer_norm
from workloads.blocks.forecasting import inverted_forecast
from workloads.blocks.recurrence import Form
from workloads.blocks.state_space import Selective, mamba_mixer
from workloads.blocks.temporal import reverse
from workloads.builder import Builder, Value
from workloads.registry import variants

EPSILON = 1e-5

VARIANTS = {
    "s_mamba_ecl": {"width": 512, "layers": 3, "state": 16},
    "s_mamba_traffic": {"width": 512, "layers": 4, "state": 32},
    "s_mamba_weather": {"width": 512, "layers": 3, "state": 2},
    "pems04": {"width": 1024, "layers": 4, "state": 32, "covariates": 0},
    "s_mamba_etth1": {"width": 256, "layers": 2, "state": 2},
    "s_mamba_solar": {"width": 512, "layers": 2, "state": 32, "covariates": 0},
    "s_mamba_exchange": {"width": 128, "layers": 2, "state": 32},
}

REDUCED = {
    "s_mamba_etth1": {"lookback": 24, "horizon": 12, "width": 32},
    "pems04": {"lookback": 24, "horizon": 12, "width": 32, "variates": 9, "state": 4},
}


@variants(VARIANTS, REDUCED)
def s_mamba(
    graph: Builder,
    batch: int,
    lookback: int,
    horizon: int,
    variates: int,
    *,
    width: int,
    layers: int,
    state: int,
    form: Form = "recurrent",
    covariates: int = 4,
) -> None:
    """Series (batch, lookback, variates) and the calendar (batch, lookback, covariates) to a forecast (batch, horizon,
    variates)."""
    sizes = Selective(inner=width, state=state, kernel=2, rank=-(-width // 16))

    def encode(value: Value) -> Value:
        for layer in range(layers):
            with graph.scope(f"layer{layer}"):
                value = encoder_layer(graph, value, sizes, form)
        return layer_norm(graph, value, "norm", EPSILON)

    inverted_forecast(graph, batch, lookback, variates, horizon, covariates, width, encode)


def encoder_layer(graph: Builder, value: Value, sizes: Selective, form: Form) -> Value:
    """norm(x + forward(x) + backward(x)), two mixers, then norm(x + mlp(x)), as wide inside as outside."""
    forward, _ = mamba_mixer(graph, value, sizes, form, name="forward")
    backward, _ = mamba_mixer(graph, reverse(graph, value, 1), sizes, form, name="backward")
    mixed = graph.add(forward, reverse(graph, backward, 1), "both")
    value = layer_norm(graph, graph.add(value, mixed, "residual1"), "norm1", EPSILON)
    hidden = feed_forward(graph, value, value.shape[-1])
    return layer_norm(graph, graph.add(value, hidden, "residual2"), "norm2", EPSILON)
