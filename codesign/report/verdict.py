"""What a report says in a sentence, and the shares that its views have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from codesign.report import units
from codesign.report.schema import OpRecord, ReportDocument


def time_shares(document: ReportDocument) -> list[float]:
    """Each operation's fraction of the sum of all operations' times (which exceeds the latency where they overlap)."""
    total = sum(op.latency_s for op in document.ops)
    return [op.latency_s / total if total else 0.0 for op in document.ops]


def time_by(document: ReportDocument, key: Callable[[OpRecord], str]) -> dict[str, float]:
    """Seconds summed over operations with the same key, largest first."""
    sums: dict[str, float] = defaultdict(float)
    for op in document.ops:
        sums[key(op)] += op.latency_s
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def dominant_bound(document: ReportDocument) -> str:
    """What bounds the operations that take the most time together; empty when no operation takes any."""
    by_bound = time_by(document, lambda op: op.bound)
    return next(iter(by_bound), "")


def verdict(document: ReportDocument) -> str:
    """One line: whether it fits, what bounds it, which operator takes the most time, how busy the compute is."""
    if not document.fits:
        return f"Does not fit: {document.why}"
    by_bound = time_by(document, lambda op: op.bound)
    by_kind = time_by(document, lambda op: op.op)
    total = sum(by_bound.values())
    if not total:
        return "Fits; no operation takes any time."
    bound, kind = next(iter(by_bound)), next(iter(by_kind))
    return (
        f"Fits; {bound}-bound for {units.percent(by_bound[bound] / total)} of the operations' time; "
        f"{kind} takes {units.percent(by_kind[kind] / total)}; compute is busy {units.percent(document.utilisation)}."
    )


def key_figures(document: ReportDocument) -> list[tuple[str, str]]:
    """Label and humanised value of each total, in the order views show them."""
    band = document.error_band
    rate = document.batch / document.latency_s if document.latency_s else 0.0
    achieved = 2 * document.macs / document.latency_s if document.latency_s else 0.0
    return [
        ("Latency", units.seconds(document.latency_s) + (f" ± {units.percent(band)}" if band is not None else "")),
        ("Inferences/s", units.count(rate) if rate >= 1 else f"{rate:.3g}" if rate else "-"),
        ("Energy", units.joules(document.energy_J)),
        ("Power", units.watts(document.power_W)),
        ("Compute busy", units.percent(document.utilisation)),
        ("Achieved", units.rate(achieved, "OP")),
        ("MACs", units.count(document.macs)),
        ("Parameters", units.count(document.params)),
        ("Weights", units.bytes_(document.weight_bytes)),
        ("Peak activations", units.bytes_(document.peak_activation_bytes)),
        ("Area", f"{document.area_mm2:.3g} mm²" if document.area_mm2 is not None else "not stated"),
        ("Error band", f"± {units.percent(band)}" if band is not None else "not validated"),
    ]
