"""The recurrence of linear attention: a matrix of keys against values that decays, is corrected and is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, error_model="numpy")
def recur(
    query: Array, key: Array, value: Array, decay: Array, rate: Array, corrected: bool, scale: Any, state: Array,
    result: Array,
) -> None:  # fmt: skip
    """For each token: state = decay state, plus key times (value, less what the decayed state holds of the key when
    `corrected`) at the token's rate; result = scale query' state.

    query (batch, steps, query heads, keys), key (batch, steps, heads, keys), value (batch, steps, heads, values), decay
    (batch, steps, heads, keys or 1) as factors, rate (batch, steps, heads), state (batch, heads, keys, values) read and
    written, result (batch, steps, most heads, values).
    """
    batch, steps, heads, keys = key.shape
    query_heads, values = query.shape[2], value.shape[3]
    outputs = max(query_heads, heads)
    held = np.empty(values, np.float32)
    for sequence in range(batch):
        for step in range(steps):
            for head in range(heads):
                own = state[sequence, head]
                held[:] = 0
                for row in range(keys):
                    factor = decay[sequence, step, head, row if decay.shape[3] > 1 else 0]
                    for column in range(values):
                        own[row, column] *= factor
                        held[column] += own[row, column] * key[sequence, step, head, row]
                for column in range(values):
                    target = value[sequence, step, head, column]
                    held[column] = (target - held[column] if corrected else target) * rate[sequence, step, head]
                for row in range(keys):
                    for column in range(values):
                        own[row, column] += key[sequence, step, head, row] * held[column]
            for output in range(outputs):
                own = state[sequence, output * heads // outputs]
                asked = query[sequence, step, output * query_heads // outputs]
                for column in range(values):
                    result[sequence, step, output, column] = 0
                for row in range(keys):
                    for column in range(values):
                        result[sequence, step, output, column] += asked[row] * scale * own[row, column]
