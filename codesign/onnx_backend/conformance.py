"""The standard's own backend cases against the executor: which pass, and for those that do not, whether that is known.

The cases are those that the wheel of onnx 1.22.0 ships (newer ones ship none), 1,905 models with inputs and expected
outputs: of single operators, of graphs exported from PyTorch, of sequences and gradients.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import yaml
from onnx import numpy_helper

from codesign.dtypes import name_of
from codesign.onnx_backend.backend import CodesignBackend
from codesign.study.packages import Wheel, unpacked

if TYPE_CHECKING:
    from rich.console import RenderableType

CASES = Wheel(
    "onnx",
    "1.22.0",
    "1d0a2bdb15eb2b3cb65c438f3423d9620d14fdce32f92380e6bb1b2e09568ef5",
    ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
)
FOLDER = "onnx/backend/test/data"
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Differences allowed. bfloat16 has 8 bits: two units in the last place, as in ONNX's runner since 1.23."""
BFLOAT16_RELATIVE = 2.0**-6


@dataclass(frozen=True, slots=True)
class Case:
    """A model with inputs and outputs; `folder` holds it."""

    kind: str
    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failure` says what went wrong, None when nothing did; `known` why that is expected, None when it is not."""

    case: Case
    failure: str | None
    known: str | None

    @property
    def surprising(self) -> bool:
        """A case that fails without a reason on record, or passes in spite of one."""
        return (self.failure is None) == (self.known is not None)


@cache
def exceptions() -> dict[str, str]:
    """Why a case cannot pass, by its name."""
    found = yaml.safe_load((files("codesign.onnx_backend") / "exceptions.yaml").read_text(encoding="utf-8"))
    return {name: " ".join(reason.split()) for name, reason in found["cases"].items()}


def cases(kinds: Iterable[str] = KINDS) -> Iterator[Case]:
    """All cases in order of kind and name, fetched when they are not in the cache. Raises Unavailable."""
    root = unpacked(CASES, FOLDER)
    for kind in kinds:
        for folder in sorted((root / kind).iterdir()):
            if (folder / "model.onnx").is_file():
                yield Case(kind, folder.name, folder)


def outcome(case: Case) -> Outcome:
    """Run a case. What the executor raises is a failure, not an error here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(case)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return Outcome(case, f"{type(error).__name__}: {reason}", exceptions().get(case.name))
    return Outcome(case, None, exceptions().get(case.name))


def _run(case: Case) -> None:
    model = onnx.load(case.folder / "model.onnx")
    runner = CodesignBackend.prepare(model)
    for data in sorted(case.folder.glob("test_data_set_*")):
        inputs = [_read(data / f"input_{index}.pb", model.graph.input[index]) for index in range(_count(data, "input"))]
        results = runner.run(inputs)
        expected = [
            _read(data / f"output_{index}.pb", model.graph.output[index]) for index in range(_count(data, "output"))
        ]
        check_similar(results, expected)


def _count(folder: Path, what: str) -> int:
    return len(list(folder.glob(f"{what}_*.pb")))


def _read(path: Path, described: onnx.ValueInfoProto) -> Any:
    content = path.read_bytes()
    if described.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if described.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def check_similar(found: Sequence[Any], expected: Sequence[Any], where: str = "output") -> None:
    """Raises AssertionError when two lists of values differ in number, kind, shape, type, or by more than allowed."""
    assert len(found) == len(expected), f"{where}: {len(found)} values, expected {len(expected)}"
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        what = f"{where} {number}"
        if isinstance(theirs, list | tuple):
            assert isinstance(mine, list | tuple), f"{what}: expected a sequence"
            check_similar(mine, theirs, what)
        elif theirs is None:
            assert mine is None, f"{what}: expected nothing"
        else:
            _check_array(np.asarray(mine), np.asarray(theirs), what)


def _check_array(mine: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], what: str) -> None:
    kind = name_of(theirs.dtype)
    assert mine.shape == theirs.shape, f"{what}: shape {mine.shape}, expected {theirs.shape}"
    assert name_of(mine.dtype) == kind, f"{what}: type {name_of(mine.dtype)}, expected {kind}"
    if kind == "string":
        assert mine.tolist() == theirs.tolist(), f"{what}: text differs"
        return
    wide = np.complex128 if theirs.dtype.kind == "c" else np.float64
    relative = BFLOAT16_RELATIVE if kind == "bfloat16" else RELATIVE
    np.testing.assert_allclose(mine.astype(wide), theirs.astype(wide), relative, ABSOLUTE, err_msg=what)


def conformance(on_progress: Callable[[int], None] = lambda done: None) -> list[Outcome]:
    """The outcome of every case; `on_progress` is told how many are done. Raises Unavailable."""
    found = []
    for case in cases():
        found.append(outcome(case))
        on_progress(len(found))
    return found


def conformance_table(outcomes: Sequence[Outcome]) -> RenderableType:
    """Passed of all by kind of case, and the reasons of those that fail as expected."""
    from rich.console import Group
    from rich.text import Text

    from codesign.report.tables import add_names, add_numbers, heading, plain_table

    totals = Counter(one.case.kind for one in outcomes)
    passed = Counter(one.case.kind for one in outcomes if one.failure is None)
    table = plain_table()
    add_names(table, "cases")
    add_numbers(table, "passed", "of")
    for kind in KINDS:
        table.add_row(kind, f"{passed[kind]:,}", f"{totals[kind]:,}")
    table.add_row("all", f"{passed.total():,}", f"{totals.total():,}", style="bold")
    title = heading(f"ONNX {CASES.version}'s backend cases, relative {RELATIVE:g} and absolute {ABSOLUTE:g}")
    reasons: dict[str, list[str]] = {}
    for one in outcomes:
        if one.failure is not None and one.known is not None:
            reasons.setdefault(one.known, []).append(one.case.name)
    lines = [Text(f"{', '.join(names)}: {reason}", "dim") for reason, names in reasons.items()]
    return Group(title, table, *lines)
