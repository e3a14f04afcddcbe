"""The parts of a network, read from the paths that exporters write as the names of operations."""

from __future__ import annotations

from collections.abc import Sequence

_TELLING = 4  # fewer parts say little about a network


def layers(names: Sequence[str], few: int = 36, most: int = 64) -> list[str]:
    """The part that each operation belongs to: its path `a/b/c`, cut at the depth that tells most parts apart.

    That is the greatest depth with at most `few` parts, or a greater one with at most `most` where that tells hardly
    anything apart. Where no depth does, the parts are runs of neighbours named after their places.
    """
    paths = [[part for part in name.split("/") if part] or [name] for name in names]
    found: list[str] = []
    for depth in range(1, max(map(len, paths), default=0) + 1):
        cut = ["/".join(path[:depth]) for path in paths]
        parts, known = len(set(cut)), len(set(found))
        if parts > (few if known >= _TELLING else most):
            break
        if parts > known:
            found = cut
    return found if len(set(found)) > 1 else _runs(len(names), few)


def _runs(count: int, most: int) -> list[str]:
    length = -(-count // most) or 1
    starts = [index - index % length for index in range(count)]
    return [_run(start + 1, min(start + length, count)) for start in starts]


def _run(first: int, last: int) -> str:
    return f"operations {first}-{last}" if last > first else f"operation {first}"
