"""Keeping the largest of many entries, by a threshold that needs no sorting, or by TopK."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from workloads.builder import Builder, Value


def normal_quantile(kept: int, count: int) -> float:
    """How many deviations above the mean the largest `kept` of `count` normal values lie; below all when all do."""
    return NormalDist().inv_cdf(1 - kept / count) if kept < count else -1e4


def statistical_threshold(graph: Builder, value: Value, kept: int, name: str = "threshold") -> Value:
    """mean + deviation x quantile of the last axis, its extent 1: about `kept` entries of a normal row lie above it
    (You et al. 2025, arXiv:2506.06644). Two passes and no sorting."""
    with graph.scope(name):
        mean = graph.reduce("ReduceMean", value, [-1], "mean", keepdims=True)
        centred = graph.binary("Sub", value, mean, "centred")
        variance = graph.reduce("ReduceMean", graph.multiply(centred, centred), [-1], "variance", keepdims=True)
        quantile = graph.scalar("quantile", normal_quantile(kept, value.shape[-1]))
        return graph.add(mean, graph.multiply(graph.unary("Sqrt", variance), quantile, "above_mean"), "threshold")


def above_threshold(graph: Builder, value: Value, threshold: Value) -> Value:
    """max(value - threshold, 0): soft thresholding, which leaves exact zeros."""
    return graph.unary("Relu", graph.binary("Sub", value, threshold, "excess"), "kept")


def causal_threshold(
    graph: Builder, scores: Value, kept: int, window: int | None = None, name: str = "threshold"
) -> Value:
    """The same threshold of causal scores (..., queries, keys), the last query at the last key, over the keys each
    query sees, all or the last `window`; minus 10^4 deviations, so that all are kept, where there are no more than
    `kept`."""
    queries, keys = scores.shape[-2:]
    window = min(window or keys, keys)
    seen = np.minimum(np.arange(keys - queries + 1, keys + 1), window)

    def rows(values: list[float]) -> Value:
        return graph.constant("of_query", np.asarray(values, dtype=np.float32)[:, None])

    with graph.scope(name):
        count = graph.once(f"keys_seen_{queries}_{keys}_{window}", lambda: rows([float(n) for n in seen]))
        quantile = graph.once(
            f"quantiles_{queries}_{keys}_{window}_{kept}", lambda: rows([normal_quantile(kept, int(n)) for n in seen])
        )
        last = graph.integers("last_key", keys - queries)
        first = graph.integers("first_key", keys - queries - window + 1)

        def mean_of_seen(value: Value, what: str) -> Value:
            [visible] = graph.node("Trilu", [value, last], [value.shape], f"earlier_{what}", upper=0)
            if window < keys:
                [visible] = graph.node("Trilu", [visible, first], [value.shape], f"visible_{what}", upper=1)
            return graph.binary("Div", graph.sum(visible, [-1], f"sum_{what}", keepdims=True), count, what)

        mean = mean_of_seen(scores, "mean")
        square = mean_of_seen(graph.multiply(scores, scores), "mean_square")
        variance = graph.unary("Relu", graph.binary("Sub", square, graph.multiply(mean, mean)), "variance")
        deviation = graph.unary("Sqrt", graph.add(variance, graph.scalar("least", 1e-12)), "deviation")
        return graph.add(mean, graph.multiply(deviation, quantile, "above_mean"), "threshold")
