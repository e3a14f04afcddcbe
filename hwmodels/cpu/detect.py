"""What the machine that runs this program is: cores, clock, SIMD width and cache sizes, from Linux's own tables.

Where a table is missing (another operating system, a container without /sys), a common server core's figure stands in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FALLBACK_CACHES = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
_FALLBACK_CLOCK = 2.5e9


@dataclass(frozen=True, slots=True)
class Machine:
    """`simd_bits` of a vector register; `dot_products`: 8-bit and bfloat16 multiply-accumulate instructions exist."""

    cores: int
    clock: float
    simd_bits: int
    dot_product_int8: bool
    dot_product_bfloat16: bool
    l1: int
    l2: int
    l3: int


@cache
def this_machine() -> Machine:
    """The machine this process runs on, with the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = CPUINFO.read_text() if CPUINFO.is_file() else ""
    return machine_from(text, CACHES, cores)


def machine_from(cpuinfo: str, caches: Path, cores: int) -> Machine:
    """A Machine from the text of /proc/cpuinfo and a folder like /sys/devices/system/cpu/cpu0/cache."""
    fields = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    first = {key.strip(): value.strip() for key, value in reversed(fields)}
    flags = set(first.get("flags", first.get("Features", "")).split())
    sizes = _cache_sizes(caches)
    return Machine(
        cores=cores,
        clock=_clock(first),
        simd_bits=512 if "avx512f" in flags else 256 if "avx2" in flags else 128,
        dot_product_int8=bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"}),
        dot_product_bfloat16=bool(flags & {"avx512_bf16", "bf16"}),
        l1=sizes[1],
        l2=sizes[2],
        l3=sizes[3],
    )


def _clock(fields: dict[str, str]) -> float:
    """The nominal clock in the model's name when it is there, since the current one changes from moment to moment."""
    name = fields.get("model name", "")
    if "@" in name and name.endswith("GHz"):
        return float(name.rsplit("@", 1)[1].removesuffix("GHz")) * 1e9
    # Rounded to 100 MHz: idle cores report a few megahertz more or less at every look.
    return round(float(fields["cpu MHz"]) / 100) * 1e8 if "cpu MHz" in fields else _FALLBACK_CLOCK


def _cache_sizes(folder: Path) -> dict[int, int]:
    """Bytes of the data or unified cache of each level."""
    sizes = dict(_FALLBACK_CACHES)
    for index in sorted(folder.glob("index*")):
        try:
            level, kind = int((index / "level").read_text()), (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction":
            sizes[level] = int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
    return sizes
