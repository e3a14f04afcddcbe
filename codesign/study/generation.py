"""Generating text: one prefill, then a decode step for each further token over a cache that grows.

A step's cost changes slowly with its context. The first and the last step are simulated, and those between where the
straight line between two simulated ones is off by most, until the estimated error of the whole is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from codesign.errors import BadParameter
from codesign.graph import Graph
from codesign.hardware import Device, Fit
from codesign.model import ZOO, load
from codesign.report.generation import Generation, GenerationDocument, StepRecord
from codesign.simulation import Prepared, device_dtype, energy_by_component, lowered, run_ops
from codesign.study.lengths import Lengths
from codesign.transforms import optimise

TOLERANCE = 1e-3
"""Estimated error of the decode time, relative, at which no more steps are simulated."""

MOST_STEPS = 24
"""Steps simulated at most: a step whose cost jumps everywhere is averaged, not chased."""

_FIRST_STEPS = 3
_LONGEST = 1 << 24
"""Contexts looked at for the longest that fits."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Names that a decoder's file gives its lengths: the new tokens, and those in the cache."""

    sequence: str = "sequence"
    past: str = "past"


def generate(
    model: str,
    device: Device,
    prompt: int,
    tokens: int,
    batch: int = 1,
    dtype: str | None = None,
    fidelity: str = "event",
    decode: str | None = None,
    dimensions: Dimensions | None = None,
    bind: Mapping[str, int] | None = None,
) -> Generation:
    """Time, energy and memory of `tokens` tokens after `prompt` ones, for `batch` sequences together.

    `model` reads the prompt and gives the first token; `decode` makes each further one from a cache (by default
    `zoo:NAME_decode` beside `zoo:NAME`, else the same file). Raises BadParameter for lengths that cannot be meant, and
    what `load` and `simulate` raise.
    """
    _check(prompt=prompt, tokens=tokens, batch=batch)
    names = dimensions or Dimensions()
    step_model = decode or (f"{model}_decode" if model.startswith(ZOO) else model)
    asked = _Request(model, step_model, prompt, tokens, batch, device_dtype(device, dtype), fidelity)

    def built(name: str, **sizes: int) -> Graph:
        return load(name, batch=batch, bind={**(bind or {}), **sizes})

    together = {names.past: 0} if step_model == model else {}
    graph = built(model, **{names.sequence: prompt}, **together)
    prefill = lowered(optimise(graph), graph.parameters, asked.dtype)
    decoder = _Decoder(lambda past: optimise(built(step_model, **{names.sequence: 1, names.past: past})), asked, device)
    return Generation(_document(asked, prefill, decoder, device))


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for, checked."""

    model: str
    step_model: str
    prompt: int
    tokens: int
    batch: int
    dtype: str
    fidelity: str

    @property
    def last_context(self) -> int:
        """Tokens in the cache before the last step: all but the one it makes and the one it reads."""
        return self.prompt + self.tokens - 2


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise BadParameter(f"{name} = {size}: expected at least 1")


def _simulated(prepared: Prepared, device: Device, fidelity: str, context: int) -> StepRecord:
    plan = device.plan(prepared.graph, prepared.works)
    found = run_ops(device, plan.ops, fidelity)
    return StepRecord(
        context=context,
        latency_s=found.end_s,
        energy_J=sum(energy_by_component(device, found).values()),
        memory_bytes=prepared.weight_bytes + plan.peak_activation_bytes,
    )


class _Decoder:
    """The decode step of a model on a device, at any context."""

    def __init__(self, build: Callable[[int], Graph], asked: _Request, device: Device) -> None:
        self.asked = asked
        self.ends = (asked.prompt, max(asked.prompt + 1, asked.last_context))
        self._lengths = Lengths(build, *self.ends)
        self._device = device
        self.step = cache(self._step)
        self.fit = cache(self._fit)

    def prepared(self, context: int) -> Prepared:
        graph = self._lengths.graph(context)
        return lowered(graph, graph.parameters, self.asked.dtype)

    def _step(self, context: int) -> StepRecord:
        return _simulated(self.prepared(context), self._device, self.asked.fidelity, context)

    def _fit(self, context: int) -> Fit:
        prepared = self.prepared(context)
        return self._device.plan(prepared.graph, prepared.works).fit


def _sampled(step: Callable[[int], StepRecord], low: int, high: int) -> tuple[dict[int, StepRecord], float]:
    """Simulated steps by context from `low` to `high`, and the estimated relative error of the time between them.

    The interval whose line is worst, by how far its middle was off the line around it, is halved next.
    """
    spread = sorted({low + round((high - low) * part / (_FIRST_STEPS - 1)) for part in range(_FIRST_STEPS)})
    steps = {context: step(context) for context in spread}
    off = {interval: math.inf for interval in pairwise(spread) if interval[1] - interval[0] > 1}
    while off and len(steps) < MOST_STEPS and sum(off.values()) > TOLERANCE * _total(steps, "latency_s"):
        left, right = max(off, key=lambda interval: off[interval])
        middle = (left + right) // 2
        steps[middle] = step(middle)
        del off[left, right]
        halves = [half for half in ((left, middle), (middle, right)) if half[1] - half[0] > 1]
        off.update({half: _deviation(steps, left, middle, right) * (half[1] - half[0]) for half in halves})
    return dict(sorted(steps.items())), sum(off.values()) / _total(steps, "latency_s")


def _deviation(steps: Mapping[int, StepRecord], left: int, middle: int, right: int) -> float:
    """Mean distance, in seconds, that halves of an interval may still be off their lines. A smooth curve's is a
    quarter of what its middle was off, and a third of that on average; half allows for steps."""
    part = (middle - left) / (right - left)
    line = steps[left].latency_s * (1 - part) + steps[right].latency_s * part
    return abs(steps[middle].latency_s - line) / 2


def _total(steps: Mapping[int, StepRecord], name: str) -> float:
    """The sum over all contexts, those between two simulated ones on the line that joins them."""
    contexts = sorted(steps)
    total = float(getattr(steps[contexts[0]], name))
    for left, right in pairwise(contexts):
        low, high = getattr(steps[left], name), getattr(steps[right], name)
        count = right - left  # the left end is counted already
        total += low * (count - 1) / 2 + high * (count + 1) / 2
    return total


def _longest_context(decoder: _Decoder, capacity: int) -> int | None:
    """The longest context whose last step fits `capacity` bytes; None when no step does.

    Memory grows in proportion to the context, so the search starts where the line through two known steps meets the
    capacity, and widens from there until it has a step on each side.
    """
    one, other = (decoder.step(context) for context in decoder.ends)
    slope = max(1.0, (other.memory_bytes - one.memory_bytes) / (other.context - one.context))
    guess = max(1, min(_LONGEST, int(one.context + (capacity - one.memory_bytes) / slope)))
    low, high, stride = guess, guess, 1
    while high < _LONGEST and decoder.fit(high).fits:
        low, high, stride = high, high + stride, 2 * stride
    while low > 0 and not decoder.fit(low).fits:
        low, high, stride = max(0, low - stride), low, 2 * stride
        if low == 0 and not decoder.fit(1).fits:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if decoder.fit(middle).fits else (low, middle)
    return low + 1  # the step's own token is in the cache after it


def _document(asked: _Request, prefill: Prepared, decoder: _Decoder, device: Device) -> GenerationDocument:
    first = _simulated(prefill, device, asked.fidelity, asked.prompt)
    decoded = asked.tokens - 1
    steps, error = _sampled(decoder.step, asked.prompt, asked.last_context) if decoded else ({}, 0.0)
    decode_s, decode_J = (_total(steps, name) if decoded else 0.0 for name in ("latency_s", "energy_J"))
    total_s, energy_J = first.latency_s + decode_s, first.energy_J + decode_J
    plan = device.plan(prefill.graph, prefill.works)
    fit = decoder.fit(asked.last_context) if decoded and plan.fit.fits else plan.fit
    memory = device.main_memory
    short, long = (decoder.step(context) for context in decoder.ends)
    return GenerationDocument(
        model=asked.model,
        decode_model=asked.step_model,
        device=device.name,
        dtype=asked.dtype,
        batch=asked.batch,
        prompt=asked.prompt,
        tokens=asked.tokens,
        fidelity=asked.fidelity,
        time_to_first_token_s=first.latency_s,
        time_per_token_s=decode_s / decoded if decoded else None,
        total_s=total_s,
        tokens_per_s=asked.batch * asked.tokens / total_s,
        decode_tokens_per_s=asked.batch * decoded / decode_s if decoded else None,
        prefill_energy_J=first.energy_J,
        energy_J=energy_J,
        energy_per_token_J=energy_J / (asked.batch * asked.tokens),
        weight_bytes=prefill.weight_bytes,
        cache_bytes_per_token=(long.memory_bytes - short.memory_bytes) / (long.context - short.context) / asked.batch,
        peak_memory_bytes=max(step.memory_bytes for step in (first, *steps.values())),
        capacity_bytes=memory[1] if memory else None,
        fits=fit.fits,
        longest_context=_longest_context(decoder, memory[1]) if memory else None,
        why=fit.reason,
        levers=list(fit.levers),
        interpolation_error=error,
        error_band=device.provenance.error_band,
        warnings=[*prefill.graph.warnings, *plan.warnings],
        steps=list(steps.values()),
    )
