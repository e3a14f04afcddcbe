"""The parts of a network, read from the paths that exporters write as the names of operations."""

from __future__ import annotations

from collections.abc import Sequence


def layers(names: Sequence[str], most: int = 64) -> list[str]:
    """The part that each operation belongs to: its path `a/b/c`, cut at the depth that tells most parts apart.

    There are at most `most` parts. Where paths tell none apart, they are runs of neighbours named after their places.
    """
    paths = [[part for part in name.split("/") if part] or [name] for name in names]
    found: list[str] = []
    for depth in range(1, max(map(len, paths), default=0) + 1):
        cut = ["/".join(path[:depth]) for path in paths]
        if len(set(cut)) > most:
            break
        if len(set(cut)) > len(set(found)):
            found = cut
    return found if len(set(found)) > 1 else _runs(len(names), most)


def _runs(count: int, most: int) -> list[str]:
    length = -(-count // most) or 1
    starts = [index - index % length for index in range(count)]
    return [_run(start + 1, min(start + length, count)) for start in starts]


def _run(first: int, last: int) -> str:
    return f"operations {first}-{last}" if last > first else f"operation {first}"
