"""What the PIM class predicts beside what was published of PIM-GPT, Newton and HBM-PIM.

PIM-GPT states ranges of ratios to a T4 and a Xeon over eight GPT models that generate 1024 tokens, and no absolute
time. Its claims are held like this: each baseline has one unknown (the T4's launch time a layer, the Xeon's effective
bandwidth), which the upper end of its range fixes; the lower end is then a prediction. Mean time a token is held
beside the least possible, weight bytes over the bandwidth of all banks, below which no result can be right.

Newton and HBM-PIM are the same mechanism with other figures: they check rows, column commands and refresh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from codesign.hardware import Device, MappedOp
from codesign.registry import device
from codesign.simulation import run_ops
from codesign.validation import Bound, Comparison
from codesign.work import Attention, Contraction, Map, Operand, Reduce, Work

BFLOAT16, BYTES, FLOAT32_BYTES = "bfloat16", 2, 4
TOKENS = 1024
CONTEXTS = tuple(range(64, TOKENS, 128))
"""Context lengths over which a token's time is averaged: the middles of eighths of a generation."""
PAPER = "PIM-GPT, npj Unconventional Computing 2024 (arXiv:2310.09385v2), abstract"
T4_BANDWIDTH, T4_POWER_W = 320e9, 70.0  # NVIDIA T4 data sheet; the power is its limit


@dataclass(frozen=True, slots=True)
class Decoder:
    """A stack of decoder layers, without embedding and head, as PIM-GPT counts its models."""

    layers: int
    width: int
    heads: int

    @property
    def parameters(self) -> int:
        """Elements of the layers' matrices."""
        return 12 * self.layers * self.width**2


DECODERS = {
    "gpt2_small": Decoder(12, 768, 12), "gpt2_medium": Decoder(24, 1024, 16), "gpt2_large": Decoder(36, 1280, 20),
    "gpt2_xl": Decoder(48, 1600, 25), "gpt3_small": Decoder(12, 768, 12), "gpt3_medium": Decoder(24, 1024, 16),
    "gpt3_large": Decoder(24, 1536, 16), "gpt3_xl": Decoder(24, 2048, 16),
}  # fmt: skip
"""Radford et al. 2019 and Brown et al. 2020; 16 heads for GPT-3 XL, as its 24 do not divide its width."""
LARGE = ("gpt2_large", "gpt2_xl", "gpt3_large", "gpt3_xl")

NEWTON = {
    "dram.channels": 24, "dram.activation_group": 4, "dram.row_bytes": 1024, "dram.pin_bandwidth": 8e9,
    "dram.tCCD": 4e-9, "dram.tRCD": 14e-9, "dram.tRP": 14e-9, "dram.tRAS": 34e-9, "dram.tRRD": 4e-9, "dram.tFAW": 16e-9,
    "dram.tRTP": 5e-9, "dram.tRFC": 350e-9, "dram.tREFI": 3900e-9, "mac.buffer_bytes": 1024,
}  # fmt: skip
"""Newton (MICRO 2020): 16 banks a channel opened four at a time, 1 KB rows; HBM2 timing as in ramulator2's preset."""
HBM_PIM = {
    "dram.channels": 64, "dram.banks": 8, "dram.activation_group": 8, "dram.row_bytes": 1024,
    "dram.pin_bandwidth": 16e9, "dram.tCCD": 4e-9, "dram.tRCD": 14e-9, "dram.tRP": 14e-9, "dram.tRAS": 33e-9,
    "dram.tRTP": 5e-9, "dram.tCL": 20e-9, "dram.tRFC": 350e-9, "dram.tREFI": 3900e-9, "mac.buffer_bytes": 256,
}  # fmt: skip
"""Samsung's PIMSimulator: 64 pseudo channels, a unit for two of 16 banks, eight 256-bit input registers, 1 GHz."""

BOUNDS = (
    Bound("least time a token, larger models", "worst_ratio", 2.0),
    Bound("least time a token, smaller models", "worst_ratio", 3.0),
    Bound("least speed-up", "worst_ratio", 2.0),
    Bound("matrix-vector product of other PIMs", "worst_ratio", 2.0),
)


def _activation(elements: int) -> Operand:
    return Operand(elements, BFLOAT16)


def _norm(width: int) -> Work:
    return Reduce(
        kind="LayerNormalization", reads=(_activation(width), Operand(2 * width, BFLOAT16, "weight")),
        writes=(_activation(width),), rows=1, columns=width, passes=2, flops_per_element=7.0, dtype=BFLOAT16,
    )  # fmt: skip


def matrix_vector(outputs: int, length: int, epilogue_flops: int = 0) -> Contraction:
    """A resident matrix of `outputs` rows times one vector."""
    return Contraction(
        kind="MatMul", reads=(_activation(length), Operand(outputs * length, BFLOAT16, "weight")),
        writes=(_activation(outputs),), batch=1, m=1, n=outputs, k=length, dtype=BFLOAT16,
        epilogue_flops=epilogue_flops,
    )  # fmt: skip


def decoder_layer(model: Decoder, context: int) -> list[Work]:
    """Work of one decoder layer for one token at `context` tokens: pre-norm, four times wider GELU feed-forward."""
    width = model.width
    cache_ = Operand(context * width, BFLOAT16, "state")
    attention = Attention(
        kind="Attention", reads=(_activation(width), cache_, cache_), writes=(_activation(width),), batch=1,
        heads=model.heads, kv_heads=model.heads, query_length=1, kv_length=context, head_dim=width // model.heads,
        value_dim=width // model.heads, dtype=BFLOAT16,
    )  # fmt: skip
    gelu = Map(
        kind="Gelu", reads=(_activation(4 * width),), writes=(_activation(4 * width),), elements=4 * width,
        flops_per_element=13.0, dtype=BFLOAT16,
    )  # fmt: skip
    return [
        _norm(width),
        matrix_vector(3 * width, width, 3 * width),
        attention,
        matrix_vector(width, width, 2 * width),
        _norm(width),
        matrix_vector(4 * width, width, 4 * width),
        gelu,
        matrix_vector(width, 4 * width, 2 * width),
    ]


def on_chip(work: Work) -> MappedOp:
    """The operation with its activations in the ASIC's memory, where those of one token stay."""
    resident = tuple(operand.role == "activation" for operand in work.reads)
    return MappedOp(work.kind, work, resident=resident, keep_output=True)


@cache
def token(name: str) -> tuple[float, float]:
    """Mean seconds and joules of a token over a generation of TOKENS, on the device of the paper."""
    pim, model = device("pim-gpt"), DECODERS[name]
    runs = [_layer(pim, decoder_layer(model, context)) for context in CONTEXTS]
    seconds, joules = (model.layers * sum(part) / len(runs) for part in zip(*runs, strict=True))
    return seconds, joules


def _layer(pim: Device, works: Sequence[Work]) -> tuple[float, float]:
    run = run_ops(pim, [on_chip(work) for work in works])
    dynamic = float((run.program.energy_J.sum(axis=1) * run.program.count).sum())
    return run.end_s, dynamic + pim.static_power_W * run.end_s


def comparisons() -> Iterator[Comparison]:
    yield from _token_times()
    yield from _speed_ups()
    yield from _energy()
    yield from _other_devices()


def _token_times() -> Iterator[Comparison]:
    bandwidth, _ = device("pim-gpt").main_memory or (0.0, 0)
    for name, model in DECODERS.items():
        size = "larger" if name in LARGE else "smaller"
        least = model.parameters * BYTES / bandwidth
        source = "derived: bfloat16 layer weights over the bandwidth of all banks, 4.096 TB/s"
        yield Comparison(f"least time a token, {size} models", name, "s", token(name)[0], least, source)


def t4_seconds(model: Decoder, launch_s: float) -> float:
    """A token on a T4: kernel launches of each layer, and float32 weights at the data sheet's bandwidth."""
    return model.layers * launch_s + model.parameters * FLOAT32_BYTES / T4_BANDWIDTH


def speed_ups_over_t4() -> dict[str, float]:
    """Speed-up of each model; the launch time a layer is what makes the greatest that of the paper, 137."""
    at_137 = [
        (137 * token(name)[0] - t4_seconds(model, 0.0)) / model.layers for name, model in DECODERS.items()
    ]  # fmt: skip
    return {name: t4_seconds(model, min(at_137)) / token(name)[0] for name, model in DECODERS.items()}


def speed_ups_over_xeon() -> dict[str, float]:
    """Speed-up of each model over weights streamed at the bandwidth that makes the greatest that of the paper, 1074."""
    streamed = {name: model.parameters * FLOAT32_BYTES / token(name)[0] for name, model in DECODERS.items()}
    return {name: 1074 * value / max(streamed.values()) for name, value in streamed.items()}


def _speed_ups() -> Iterator[Comparison]:
    group = "least speed-up"
    yield Comparison(group, "over T4", "x", min(speed_ups_over_t4().values()), 41.0, PAPER)
    yield Comparison(group, "over Xeon", "x", min(speed_ups_over_xeon().values()), 631.0, PAPER)


def _energy() -> Iterator[Comparison]:
    """Energy ratios to a T4 at its power limit. What it draws at batch 1 is not published, and the paper's versions
    differ by a factor 2.8 for the same speed-ups, so that no bound is stated."""
    speed_ups = speed_ups_over_t4()
    ratios = [
        speed_up * token(name)[0] * T4_POWER_W / token(name)[1] for name, speed_up in speed_ups.items()
    ]  # fmt: skip
    for group, source, least, greatest in (
        ("energy ratio to T4, version 2", PAPER, 123.0, 383.0),
        ("energy ratio to T4, version 1", "PIM-GPT, arXiv:2310.09385v1, abstract", 339.0, 1085.0),
    ):
        yield Comparison(group, "least", "x", min(ratios), least, f"{source}; T4 taken at its 70 W limit")
        yield Comparison(group, "greatest", "x", max(ratios), greatest, f"{source}; T4 taken at its 70 W limit")


def _other_devices() -> Iterator[Comparison]:
    group = "matrix-vector product of other PIMs"
    size = 4096
    newton = device("pim-gpt", **NEWTON)
    external = NEWTON["dram.channels"] * NEWTON["dram.pin_bandwidth"]
    speed_up = size**2 * BYTES / external / run_ops(newton, [on_chip(matrix_vector(size, size))]).end_s
    yield Comparison(
        group, "Newton over perfect external bandwidth", "x", speed_up, 10.0, "Newton, MICRO 2020, abstract"
    )
    hbm_pim = device("pim-gpt", **HBM_PIM)
    cycles = run_ops(hbm_pim, [on_chip(matrix_vector(size, size))]).end_s * 1e9
    yield Comparison(group, "HBM-PIM 4096 x 4096", "cycles", cycles, 13166.0, "SAIT PIMSimulator b464dde, run by us")
