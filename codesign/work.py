"""Work: what one operation costs, free of ONNX and of devices. The narrow waist between operators and hardware.

Every class is frozen and hashable, so equal work is mapped and simulated once. Operand sizes are bytes as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.dtypes import dtype

Role = Literal["weight", "activation", "state"]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor read or written: element count, element type, role, and the fraction of elements that are not zero.

    `patterns` holds (N, M) pairs: each M consecutive elements along the axis that the product sums over hold at most N
    that are not zero.
    """

    elements: int
    dtype: str
    role: Role = "activation"
    density: float = 1.0
    patterns: tuple[tuple[int, int], ...] = ()

    @property
    def bytes(self) -> int:
        return dtype(self.dtype).bytes_for(self.elements)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Geometry of a convolution: spatial extents of input, output, kernel; per-axis stride, dilation; groups.

    Channel counts are whole-layer counts. `transposed` marks a gradient-like (upsampling) convolution.
    """

    input_spatial: tuple[int, ...]
    output_spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_channels: int
    output_channels: int
    transposed: bool = False

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.input_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Common to all work: operands read and written, and scalar operations done on the result before it is stored.

    `epilogue_flops` counts the fused elementwise operations on the outputs; `requantise_flops` are those that
    bias, scale, round and clamp integer sums into the element type of the result, which integer kernels and output
    stages do to every result, whether the graph says so or is deployed so. `kind` is the operator's name.
    """

    kind: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    epilogue_flops: int = 0
    requantise_flops: int = 0

    @property
    def macs(self) -> int:
        return 0

    @property
    def flops(self) -> int:
        """Scalar floating or integer operations, two for each multiply-accumulate."""
        return 2 * self.macs + self.epilogue_flops

    @property
    def read_bytes(self) -> int:
        return sum(operand.bytes for operand in self.reads)

    @property
    def write_bytes(self) -> int:
        return sum(operand.bytes for operand in self.writes)

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.write_bytes

    @property
    def weight_bytes(self) -> int:
        return sum(operand.bytes for operand in self.reads if operand.role == "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction(Work):
    """`batch` products of an m x k by a k x n matrix. A convolution is one product a group: m output positions of all
    images, n output channels of a group, k kernel elements times input channels of a group; `batch` the groups.

    reads[0] is the m x k side (the activations), reads[1] the k x n side (the weights); further reads are bias and
    epilogue operands. `dtype` is the type multiplied in.
    """

    batch: int
    m: int
    n: int
    k: int
    dtype: str
    convolution: Convolution | None = None

    @property
    def macs(self) -> int:
        return self.batch * self.m * self.n * self.k

    @property
    def addends(self) -> tuple[int, ...]:
        """Indices in `reads` of the feature maps that the epilogue joins to the results, element by element."""
        results = self.batch * self.m * self.n
        further = enumerate(self.reads[2:], 2)
        return tuple(index for index, operand in further if operand.role != "weight" and operand.elements == results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Work):
    """Fused scaled dot-product attention over `batch` sequences. reads are query, key, value (and a mask or bias, and
    past keys and values: `kv_length` counts both); writes are the result (and the keys and values appended to a cache).

    `causal` masks keys after the query, aligned at the end, so that half of the square part need not be computed.
    """

    batch: int
    heads: int
    kv_heads: int
    query_length: int
    kv_length: int
    head_dim: int
    value_dim: int
    dtype: str
    causal: bool = False

    @property
    def macs(self) -> int:
        """Dense count, the convention of the literature: masked positions are counted."""
        pairs = self.batch * self.heads * self.query_length * self.kv_length
        return pairs * (self.head_dim + self.value_dim)

    @property
    def flops(self) -> int:
        """The products, and about five operations a score for scale, maximum, exponent, sum and division."""
        return 2 * self.macs + 5 * self.batch * self.heads * self.query_length * self.kv_length + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Map(Work):
    """Elementwise: `elements` results at `flops_per_element` scalar operations each. `planes` counts the images (batch
    times channels) of an interpolation, which are computed alike."""

    elements: int
    flops_per_element: float = 1.0
    dtype: str = "float32"
    planes: int = 1

    @property
    def flops(self) -> int:
        return int(self.elements * self.flops_per_element) + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Work):
    """`rows` independent reductions of `columns` elements, in `passes` passes over the row (softmax and norms read a
    row more than once and write it back; a pooling window is a row)."""

    rows: int
    columns: int
    passes: int = 1
    flops_per_element: float = 1.0
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        return int(self.rows * self.columns * self.flops_per_element) + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(Work):
    """Data moved without arithmetic. `contiguous_bytes` is the length of the runs that stay together; a view, which
    only renames memory, has `free` set and costs nothing."""

    contiguous_bytes: int
    free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather(Work):
    """`lookups` reads (or, with `scatter`, writes) of runs of `run_bytes` at addresses found in data."""

    lookups: int
    run_bytes: int
    scatter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Work):
    """`steps` dependent steps, each doing `step_macs` multiply-accumulates and `step_flops` other operations on a
    state of `state_bytes`, for `lanes` independent recurrences (their counts included in the step's)."""

    steps: int
    step_macs: int
    step_flops: int
    state_bytes: int
    lanes: int = 1
    dtype: str = "float32"

    @property
    def macs(self) -> int:
        return self.steps * self.step_macs

    @property
    def flops(self) -> int:
        return 2 * self.macs + self.steps * self.step_flops + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort(Work):
    """`rows` sorts (or selections of the best `keep`) of `columns` keys."""

    rows: int
    columns: int
    keep: int

    @property
    def flops(self) -> int:
        return self.rows * self.columns * max(1, min(self.keep, self.columns).bit_length()) + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform(Work):
    """`rows` fast transforms (Fourier, cosine) of `length` points, about 5 n log2 n operations each."""

    rows: int
    length: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        return 5 * self.rows * self.length * max(1, (self.length - 1).bit_length()) + self.epilogue_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Work):
    """Communication of `payload_bytes` a participant among `participants` devices."""

    pattern: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast"]
    payload_bytes: int
    participants: int
