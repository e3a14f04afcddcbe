import pytest

from codesign.errors import BadParameter
from codesign.registry import device
from codesign.study.operator_rules import OPERATORS
from codesign.study.operators import OperatorRow, read_operators, simulate_operators, works_of_row
from codesign.work import Attention, Contraction


@pytest.fixture(scope="module")
def h200():
    return device("h200")


def row(op, dtype="fp16", **params):
    return OperatorRow(op, dtype, tuple(sorted(params.items())))


def table(tmp_path, *lines):
    path = tmp_path / "ops.csv"
    path.write_text("\n".join(("op,dtype,params", *lines)) + "\n")
    return path


SMALL = {"b": 2, "m": 4, "n": 8, "k": 16, "c": 8, "h": 8, "w": 8, "o": 8, "s": 1, "p": 1, "g": 1, "hk": 2, "q": 3,
         "kv": 9, "d": 16, "causal": True, "r": 5, "v": 50, "t": 6}  # fmt: skip


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_every_operator_has_work_and_runs_cold_and_warm(op, h200):
    params = {name: SMALL[name] for name in OPERATORS[op].parameters}
    if op == "sdpa":
        params["h"] = 4
    if op == "conv2d":
        params["k"] = 3
    found = row(op, "fp32", **params)
    assert all(work.bytes > 0 for work in works_of_row(found))
    cold = simulate_operators(h200, [found], "cold")[0]
    warm = simulate_operators(h200, [found], "warm")[0]
    assert 0 < warm["latency_s"] <= cold["latency_s"] < 1e-3
    assert 0 < warm["energy_J"] <= cold["energy_J"]


def test_reads_rows_in_order(tmp_path):
    path = table(tmp_path, 'gemm,fp16,"{""b"": 1, ""m"": 2, ""n"": 3, ""k"": 4}"', 'ew_add,fp32,"{""n"": 5}"')
    rows = read_operators(path)
    assert [found.op for found in rows] == ["gemm", "ew_add"]
    (work,) = works_of_row(rows[0])
    assert isinstance(work, Contraction)
    assert work.macs == 24
    assert (work.read_bytes, work.write_bytes) == (2 * (8 + 12), 2 * 6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('gem,fp16,"{}"', "unknown operator 'gem'; did you mean gemm"),
        ('gemm,fp17,"{}"', "unknown data type 'fp17'"),
        ('gemm,fp16,"{""m"": 1}"', "takes the parameters b, m, n, k"),
        ('ew_add,fp16,"{""n"": -3}"', "parameter 'n' = -3"),
        ('ew_add,fp16,"{""n"": 1.5}"', "parameter 'n' = 1.5"),
        ('ew_add,fp16,"[1]"', "must be a JSON object"),
        ("ew_add,fp16,{", "are not JSON"),
        ('sdpa,fp16,"{""b"":1,""h"":3,""hk"":2,""q"":1,""kv"":1,""d"":8,""causal"":false}"', "no multiple of 2"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(tmp_path, line, reason):
    path = table(tmp_path, 'ew_add,fp32,"{""n"": 5}"', line)
    with pytest.raises(BadParameter) as caught:
        read_operators(path)
    assert "ops.csv, row 2" in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_column_or_file_is_named(tmp_path):
    path = tmp_path / "ops.csv"
    path.write_text("op,type\n")
    with pytest.raises(BadParameter, match="no column 'dtype'"):
        read_operators(path)
    with pytest.raises(BadParameter, match="cannot be read"):
        read_operators(tmp_path / "absent.csv")


def test_results_are_in_order_and_equal_rows_are_equal(h200):
    small, large = row("ew_add", n=1000), row("ew_add", n=100_000_000)
    results = simulate_operators(h200, [large, small, large])
    assert results[0] == results[2]
    assert results[0]["latency_s"] > results[1]["latency_s"]
    assert results[0]["bytes"] == 3 * 2 * 100_000_000


def test_the_analytic_time_is_a_lower_bound(h200):
    rows = [row("gemm", b=1, m=m, n=4096, k=4096) for m in (1, 64, 4096)] + [row("softmax", r=1000, c=1000)]
    events = simulate_operators(h200, rows)
    bounds = simulate_operators(h200, rows, fidelity="analytic")
    assert all(bound["latency_s"] <= event["latency_s"] for bound, event in zip(bounds, events, strict=True))


def test_causal_attention_is_attention_with_a_mask():
    (work,) = works_of_row(row("sdpa", b=1, h=4, hk=2, q=8, kv=8, d=16, causal=True))
    assert isinstance(work, Attention)
    assert work.causal
    assert work.kv_heads == 2


@pytest.mark.parametrize("option", [{"cache": "tepid"}, {"fidelity": "cycle"}])
def test_unknown_options_are_refused(h200, option):
    with pytest.raises(BadParameter, match="expected"):
        simulate_operators(h200, [], **option)
