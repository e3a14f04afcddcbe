"""What zeros spare a dot-product array that passes over them: steps, decoded weights, energy and stored bytes.

Lanes that work side by side take the non-zero elements of a granule of the reduction, as many a cycle as the lane sums
together, and wait for the slowest among them at its end: Cnvlutin (Albericio et al., ISCA 2016) passes over zero
inputs so, Cambricon-X (Zhang et al., MICRO 2016) over zero weights, SCNN (Parashar et al., ISCA 2017) over both. The
granule is how far a lane looks ahead. Zeros are taken to fall independently of each other, unless the weights keep a
pattern (N of each M), which bounds every lane alike and so wastes nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from codesign.work import Contraction
from hwmodels.npu.parameters import Array, Weights

Float64 = np.ndarray[Any, np.dtype[np.float64]]


def lane_width(array: Array, depthwise: bool) -> int:
    """Elements that a lane sums in a cycle; a depthwise lane has the taps of one channel, one a cycle."""
    return 1 if depthwise else array.columns


def minds_zeros(array: Array, weights: Weights) -> bool:
    """Whether it makes any difference how many values are zero."""
    return array.skips_zeros != "none" or array.gates_zeros or weights.zero_mask


def skips_weights(array: Array) -> bool:
    return array.skips_zeros in ("weights", "both")


def skips_inputs(array: Array) -> bool:
    return array.skips_zeros in ("inputs", "both")


@lru_cache(maxsize=65536)
def steps(
    array: Array, depthwise: bool, input_density: float, weight_density: float, patterns: tuple[tuple[int, int], ...]
) -> float:
    """Cycles of a granule for one block of positions, mean over where zeros fall; `reduction_steps` when nothing is
    passed over.

    A lane with k non-zero elements takes ceil(k / width) cycles, at least one; all lanes take as long as the slowest.
    """
    if array.skips_zeros == "none":
        return array.reduction_steps
    width = lane_width(array, depthwise)
    elements = width * array.reduction_steps
    weights = weight_density if skips_weights(array) else 1.0
    inputs = input_density if skips_inputs(array) else 1.0
    most = elements if depthwise or not skips_weights(array) else most_kept(elements, width, patterns)
    mean = 1.0
    for cycles in range(1, -(-most // width)):
        mean += 1 - _all_within(cycles * width, elements, array, depthwise, inputs, weights)
    return mean


def _all_within(limit: int, elements: int, array: Array, depthwise: bool, inputs: float, weights: float) -> float:
    """The chance that each lane has at most `limit` pairs of which neither element is zero.

    Lanes of a row share its weights, lanes of a position its inputs (not where each row has a channel of its own). The
    chance is reckoned with one of the two shared and the other drawn anew for each lane, which makes it too small
    rather than too large; the greater of both is taken.
    """
    positions = array.block_height * array.block_width
    row = _chances(elements, weights) @ _at_most(limit, elements, inputs) ** positions
    if depthwise:
        return float(row**array.rows)
    position = _chances(elements, inputs) @ _at_most(limit, elements, weights) ** array.rows
    return float(max(row**array.rows, position**positions))


def _chances(elements: int, density: float) -> Float64:
    """(elements + 1,) the chance that so many of `elements` are not zero."""
    from scipy.special import bdtr

    return np.diff(bdtr(np.arange(elements + 1), elements, density), prepend=0.0)


def _at_most(limit: int, elements: int, density: float) -> Float64:
    """(elements + 1,) the chance that at most `limit` of so many elements are not zero."""
    from scipy.special import bdtr

    kept = np.arange(elements + 1)
    return np.asarray(bdtr(np.minimum(limit, kept), kept, density))


def most_kept(elements: int, width: int, patterns: tuple[tuple[int, int], ...]) -> int:
    """The most non-zero weights among `elements` of a lane, from the patterns whose groups it reads whole."""
    return min([elements, *(elements // size * most for most, size in patterns if width % size == 0)])


def decoded_share(array: Array, weight_density: float) -> float:
    """Weights that the decoder hands to the array, over all."""
    return weight_density if skips_weights(array) else 1.0


def multiplied_share(array: Array, work: Contraction) -> float:
    """Multiply-accumulates that spend energy, over all: those with no operand that is passed over or gated off."""
    inputs, weights = work.reads[0], work.reads[min(1, len(work.reads) - 1)]
    share = 1.0
    if array.gates_zeros or skips_inputs(array):
        share *= inputs.density
    if array.gates_zeros or skips_weights(array):
        share *= weights.density
    return share


def masked_share(weight_density: float, bits: float) -> float:
    """Bytes of weights stored as one bit for each and `bits` for each that is not zero, over plain ones; plain ones
    are stored where that is less."""
    return min(1.0, weight_density + 1 / bits)
