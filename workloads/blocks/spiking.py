"""Spiking neurons: leaky integration over time, a step for each frame."""

from __future__ import annotations

from workloads.builder import Builder, Value


def leaky_integrate_and_fire(
    graph: Builder, value: Value, time_axis: int, threshold: float = 1.0, tau: float = 2.0, name: str = "neurons"
) -> Value:
    """Spikes, zeros and ones, of neurons that the currents `value` charge: v += (current - v) / tau, a spike when v
    reaches the threshold, which resets v to zero. The frames along `time_axis` depend on each other."""
    shape = (*value.shape[:time_axis], *value.shape[time_axis + 1 :])

    def step(states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        charge = graph.binary("Sub", slices[0], states[0], "charge")
        potential = graph.add(states[0], graph.multiply(charge, graph.scalar("rate", 1 / tau)), "potential")
        fires = graph.compare("GreaterOrEqual", potential, graph.scalar("threshold", threshold), "fires")
        spikes = graph.cast(fires, value.data_type, "spikes")
        silent = graph.binary("Sub", graph.scalar("one", 1.0), spikes, "silent")
        return [graph.multiply(potential, silent, "reset")], [spikes]

    with graph.scope(name):
        start = graph.zeros("rest", shape)
        _, [spikes] = graph.scan(step, [start], [value], axis=time_axis, name="time")
        return spikes
