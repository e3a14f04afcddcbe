"""Operators on text: StringConcat, StringSplit, StringNormalizer, RegexFullMatch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from codesign.graph import Op
from codesign.ops.arguments import bad, known, required, text
from codesign.ops.base import Array, Operator, ShapeAndType, Value, broadcast, operator
from codesign.ops.costs import map_work
from codesign.work import Work


class OnText(Operator):
    """Text has no length that is known beforehand: one operation an element, and the bytes of a reference."""

    def work(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value]) -> Work:
        return map_work(op, inputs, outputs, 1)


@operator("StringConcat")
class StringConcat(OnText):
    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(broadcast(*(required(op, inputs, index, "X").shape for index in (0, 1))), "string")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        left, right = (required(op, inputs, index, "X").astype(object) for index in (0, 1))
        return [np.asarray(left + right, object)]


@operator("StringSplit")
class StringSplit(OnText):
    """Parts along a new last axis, filled up with empty text, and how many there are of each."""

    @staticmethod
    def _parts(op: Op, source: Array) -> tuple[Array, Array]:
        delimiter, most = text(op, "delimiter") or None, int(op.attributes.get("maxsplit", -1))
        parts = [str(item).split(delimiter, most) if item else [] for item in source.ravel().tolist()]
        counts = np.array([len(found) for found in parts], np.int64)
        result = np.full((len(parts), counts.max(initial=0)), "", object)
        for row, found in enumerate(parts):
            result[row, : len(found)] = found
        return result.reshape(*source.shape, -1 if result.size else result.shape[1]), counts.reshape(source.shape)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        parts, counts = self._parts(op, known(op, required(op, inputs, 0, "X"), "X"))
        return [(parts.shape, "string"), (counts.shape, "int64")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return list(self._parts(op, required(op, inputs, 0, "X")))


@operator("StringNormalizer")
class StringNormalizer(OnText):
    """Without stop words, in one case: (words,) or (1, words). One empty word when none is left."""

    @staticmethod
    def _cased(op: Op, default: str) -> Callable[[Array], Array]:
        action = text(op, "case_change_action", "NONE")
        actions: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
        if action not in actions:
            raise bad(op, f"attribute 'case_change_action' is '{action}', expected one of {', '.join(actions)}")
        return np.frompyfunc(actions[action if action != "NONE" else default], 1, 1)

    @classmethod
    def _normalised(cls, op: Op, source: Array) -> Array:
        if source.ndim not in (1, 2) or (source.ndim == 2 and len(source) != 1):
            raise bad(op, f"expected (words,) or (1, words), got shape {list(source.shape)}")
        words, stop = source.ravel(), np.array(op.attributes.get("stopwords", ()), object)
        compared = words
        if not op.attributes.get("is_case_sensitive", 0):
            fold = cls._cased(op, "LOWER")
            compared, stop = fold(words), fold(stop)
        kept = words[~np.isin(compared.astype(str), stop.astype(str))] if stop.size else words
        if not kept.size:
            kept = np.array([""], object)
        return np.asarray(cls._cased(op, "NONE")(kept), object).reshape(*source.shape[:-1], -1)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        source = required(op, inputs, 0, "X")
        if not len(op.attributes.get("stopwords", ())) and source.elements:
            return [(source.shape, "string")]
        return [(self._normalised(op, known(op, source, "X")).shape, "string")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        return [self._normalised(op, required(op, inputs, 0, "X"))]


@operator("RegexFullMatch")
class RegexFullMatch(OnText):
    """True where all of the text matches. Patterns are those that RE2 and Python's `re` have in common."""

    @staticmethod
    @lru_cache(maxsize=64)
    def _pattern(pattern: str) -> re.Pattern[str]:
        return re.compile(pattern)

    def infer(self, op: Op, inputs: Sequence[Value | None]) -> list[ShapeAndType]:
        return [(required(op, inputs, 0, "X").shape, "bool")]

    def compute(self, op: Op, inputs: Sequence[Array | None]) -> list[Array]:
        source = required(op, inputs, 0, "X")
        try:
            pattern = self._pattern(text(op, "pattern"))
        except re.error as error:
            raise bad(op, f"pattern '{text(op, 'pattern')}' is no regular expression ({error})") from error
        found = [pattern.fullmatch(str(item)) is not None for item in source.ravel().tolist()]
        return [np.array(found, bool).reshape(source.shape)]
