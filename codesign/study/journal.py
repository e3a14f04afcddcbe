"""A journal of finished points: each at once a line on disk, so that an interrupted sweep loses none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Results by key, read from `path` and appended to it one line each; in memory alone when `path` is None."""

    def __init__(self, path: Path | None) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self._file = None
        if path is not None:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            self.known = _entries(text)
            self._file = path.open("a", encoding="utf-8", buffering=1)
            if text and not text.endswith("\n"):  # cut short by a kill: the next entry must not join it
                self._file.write("\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        self.known[key] = dict(result)
        if self._file is not None:
            self._file.write(json.dumps({"key": key, "result": result}) + "\n")


def _entries(text: str) -> dict[str, dict[str, Any]]:
    """What the lines hold. A line that is no entry was cut short, and its point is computed again."""
    known = {}
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            known[str(entry["key"])] = dict(entry["result"])
    return known
