"""Forecasting with each series a token: Liu et al., iTransformer, ICLR 2024 (arXiv:2310.06625)."""

from __future__ import annotations

from collections.abc import Callable

from workloads.blocks.dense import linear
from workloads.builder import Builder, Value

EPSILON = 1e-5


def inverted_forecast(
    graph: Builder,
    batch: int,
    lookback: int,
    variates: int,
    horizon: int,
    covariates: int,
    width: int,
    encode: Callable[[Value], Value],
) -> None:
    """Adds inputs `series` (batch, lookback, variates) and, when there are covariates (of the calendar), `calendar`;
    tokens of `width`, one for each, through `encode`; and the output `forecast` (batch, horizon, variates)."""
    series = graph.input("series", (batch, lookback, variates))
    with graph.scope("normalise"):
        mean = graph.reduce("ReduceMean", series, [1], "mean", keepdims=True)
        centred = graph.binary("Sub", series, mean, "centred")
        variance = graph.reduce("ReduceMean", graph.multiply(centred, centred), [1], "variance", keepdims=True)
        deviation = graph.unary("Sqrt", graph.add(variance, graph.scalar("epsilon", EPSILON)), "deviation")
        value = graph.binary("Div", centred, deviation, "normal")
    if covariates:
        value = graph.concat([value, graph.input("calendar", (batch, lookback, covariates))], 2, "with_calendar")
    tokens = linear(graph, graph.transpose(value, (0, 2, 1), "tokens"), width, "embedding")
    forecast = linear(graph, encode(tokens), horizon, "head")
    if covariates:
        forecast = graph.slice(forecast, 0, variates, 1, "series_alone")
    forecast = graph.transpose(forecast, (0, 2, 1), "over_time")
    with graph.scope("denormalise"):
        forecast = graph.add(graph.multiply(forecast, deviation, "scaled"), mean, "moved")
    graph.output(forecast, "forecast")
