"""Claims of papers beside simulations: what is computed, what is left out and why, and how it is told."""

from __future__ import annotations

import pytest
from rich.console import Console

import codesign
import workloads
from codesign.study.claims import claim_tables, missing, simulated_claims
from workloads.facts import Claim


def claim(device: str, metric: str = "latency_ms", batch: int = 1) -> Claim:
    values = {"mlperf_tiny_ic": 2.0, "mlperf_tiny_kws": 1.0, "mlperf_tiny_vww": 1.5}
    return Claim(metric=metric, device=device, setting="eager", dtype="fp32", batch=batch, values=values, known="timm")


def test_a_claim_is_simulated_at_its_batch_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "claims", lambda: [claim("h200"), claim("h200", "throughput", batch=4)])
    found = list(simulated_claims())
    seconds = {
        batch: codesign.simulate(codesign.load("zoo:mlperf_tiny_ic", batch=batch), codesign.device("h200"), "fp32")
        for batch in (1, 4)
    }
    assert found[0].simulated == pytest.approx(1e3 * seconds[1].latency_s)
    assert found[3].simulated == pytest.approx(4 / seconds[4].latency_s)
    assert found[0].ratio == pytest.approx(found[0].simulated / 2.0)


def test_what_is_not_modelled_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "claims", lambda: [claim("abacus"), claim("h200", "beauty")])
    assert list(simulated_claims()) == []
    assert missing() == [
        "3 claims on 'abacus', a device that is not modelled",
        "3 claims of 'beauty', which is not simulated",
    ]


def test_tables_name_the_conditions_and_sum_the_ratios_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workloads, "claims", lambda: [claim("h200")])
    for table in claim_tables(list(simulated_claims())):
        Console(width=80).print(table)
    shown = capsys.readouterr().out
    assert "h200: latency_ms, batch 1, eager" in shown
    assert "median ratio" in shown
    assert "rank correlation" in shown
    assert shown.count("mlperf_tiny") == 3
