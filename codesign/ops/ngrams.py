"""TfIdfVectorizer: how often each n-gram of a list occurs in a sequence of words or numbers, weighted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, operands, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, operator
from codesign.work import Gather, Work

_MODES = ("TF", "IDF", "TFIDF")


@operator("TfIdfVectorizer")
class TfIdfVectorizer(Operator):
    """(tokens,) or (rows, tokens) to counts of the grams by their coordinate, float32.

    An n-gram's tokens stand 1 to `max_skip_count` + 1 apart; single tokens are counted once.
    """

    @staticmethod
    def _coordinates(op: Op) -> Array:
        found = np.asarray(op.attributes.get("ngram_indexes", ()), np.int64)
        if not found.size or found.min() < 0:
            raise bad(op, "attribute 'ngram_indexes' is missing, empty or negative")
        return found

    @staticmethod
    def _pool(op: Op) -> Array:
        words = op.attributes.get("pool_strings", ())
        return np.asarray(words, object) if len(words) else np.asarray(op.attributes.get("pool_int64s", ()), np.int64)

    @classmethod
    def _grams(cls, op: Op) -> Iterator[tuple[int, int, Array]]:
        """Length, number of the first, and tokens (grams, length) of the grams of each length that is looked for."""
        pool, starts = cls._pool(op), [int(one) for one in op.attributes.get("ngram_counts", ())]
        shortest, longest = (int(op.attributes.get(f"{name}_gram_length", 1)) for name in ("min", "max"))
        first = 0
        for length, (begin, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), start=1):
            if not 0 <= begin <= end <= len(pool) or (end - begin) % length:
                raise bad(op, f"attribute 'ngram_counts' {starts} does not divide a pool of {len(pool)}")
            if shortest <= length <= longest and end > begin:
                yield length, first, pool[begin:end].reshape(-1, length)
            first += (end - begin) // length

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        if len(source.shape) not in (1, 2):
            raise bad(op, f"expected (tokens,) or (rows, tokens), got shape {list(source.shape)}")
        return [((*source.shape[:-1], int(self._coordinates(op).max()) + 1), "float32")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source, coordinates = required(op, inputs, 0, "X"), self._coordinates(op)
        rows = np.atleast_2d(source)
        counts = np.zeros((len(rows), len(coordinates)), np.int64)
        for length, first, grams in self._grams(op):
            if first + len(grams) > len(coordinates):
                raise bad(op, f"its pool holds more grams than its {len(coordinates)} coordinates")
            spacings = range(1, 2 + (int(op.attributes.get("max_skip_count", 0)) if length > 1 else 0))
            for spacing in spacings:
                counts[:, first : first + len(grams)] += occurrences(rows, grams, spacing)
        mode = text(op, "mode", "TF")
        if mode not in _MODES:
            raise bad(op, f"attribute 'mode' is '{mode}', expected one of {', '.join(_MODES)}")
        weights = np.asarray(op.attributes.get("weights") or np.ones(len(coordinates)), np.float32)
        scores = counts.astype(np.float32) if mode != "IDF" else (counts > 0).astype(np.float32)
        result = np.zeros((len(rows), int(coordinates.max()) + 1), np.float32)
        np.add.at(result.T, coordinates, (scores if mode == "TF" else scores * weights).T)
        return [result.reshape(*source.shape[:-1], -1)]

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        """A lookup in a table of grams for each token, length and spacing."""
        source = required(op, inputs, 0, "X")
        lengths = [length for length, _, _ in self._grams(op)]
        skips = int(op.attributes.get("max_skip_count", 0))
        lookups = source.elements * sum(1 + (skips if length > 1 else 0) for length in lengths)
        return Gather(
            kind=op.kind,
            reads=operands(inputs),
            writes=operands(outputs),
            lookups=lookups,
            run_bytes=8 * max(lengths, default=1),
        )


def occurrences(rows: Array, grams: Array, spacing: int) -> Array:
    """How often each of `grams` (grams, length) occurs in each of `rows` (rows, tokens), tokens `spacing` apart."""
    count, length = grams.shape
    places = rows.shape[1] - (length - 1) * spacing
    if places < 1 or not len(rows):
        return np.zeros((len(rows), count), np.int64)
    windows = rows[:, np.arange(places)[:, None] + spacing * np.arange(length)].reshape(-1, length)
    kind = str if grams.dtype == object else np.int64
    _, numbers = np.unique(np.concatenate([grams, windows]).astype(kind), return_inverse=True)
    _, gram_of = np.unique(numbers.reshape(-1, length), axis=0, return_inverse=True)
    gram_of = gram_of.reshape(-1)
    row_of = np.repeat(np.arange(len(rows)), places)
    kinds = int(gram_of.max()) + 1
    table = np.bincount(row_of * kinds + gram_of[count:], minlength=len(rows) * kinds).reshape(len(rows), kinds)
    return np.asarray(table[:, gram_of[:count]])
