"""What trained networks answer: a file's type, a line of text, a pitch, notes, where speech is, which way is up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from tests import trained_signals as signals
from tests.trained import Inputs, tone
from tests.trained_signals import Array

Run = Callable[[Inputs], Mapping[str, Array]]
"""A network in some arithmetic: outputs by name for inputs by name."""


# The types of files


def file_types() -> list[str]:
    """The names that the network's outputs stand for."""
    (config,) = (
        file.locate() for file in distribution("magika").files or () if file.name == "config.min.json"
    )  # fmt: skip
    found: list[str] = json.loads(Path(str(config)).read_text())["target_labels_space"]
    return found


def file_type(run: Run, content: bytes) -> tuple[str, float]:
    """The most likely type of a file and its score."""
    (scores,) = run({"bytes": signals.ends_of_file(content)}).values()
    best = int(scores[0].argmax())
    return file_types()[best], float(scores[0, best])


# A line of text


def read_line(run: Run, characters: str, text: str) -> str:
    """What is read of a picture of `text`: the likeliest character at each place, repeats and blanks left out (CTC,
    Graves et al., ICML 2006). `characters` are the model's own, a line each; a blank precedes, a space follows them."""
    (scores,) = run({"x": signals.line_of_text(text, width=LINE_WIDTH)}).values()
    letters = ["", *characters.splitlines(), " "]
    best = scores[0].argmax(axis=1).tolist()
    return "".join(letters[now] for before, now in zip([0, *best], best, strict=False) if now != before).strip()


LINE_WIDTH = 640
"""Of all pictures of lines, so that one graph reads them."""


def edits(one: str, other: str) -> int:
    """The fewest insertions, deletions and replacements that make `one` of `other` (Levenshtein)."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        above, row[0] = row[0], place
        for column, candidate in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (letter != candidate))
    return row[-1]


# Sounds


def pitch(run: Run, hertz: float) -> float:
    """The pitch found in a second of a tone of `hertz`: the median over its frames, in hertz."""
    return float(np.median(run(tone(hertz))["pitch"]))


def notes(run: Run, keys: tuple[int, ...], rate: int = 22050, samples: int = 43844) -> list[int]:
    """The notes found in a chord, as many as it has, by their numbers in MIDI; the lowest key of 88 is 21."""
    sound = signals.chord(keys, rate, samples)[None, :, None]
    found = run({"serving_default_input_2:0": sound})["StatefulPartitionedCall:1"]
    return sorted((np.argsort(-found[0].mean(axis=0))[: len(keys)] + 21).tolist())


def speech(run: Run, sound: Array) -> Array:
    """(chunks,) how likely each 512 samples of a sound at 16 kHz are speech."""
    state, context, found = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for start in range(0, sound.size - 511, 512):
        chunk = np.concatenate([context, sound[start : start + 512]])[None]
        results = run({"input": chunk, "state": state})
        state, context = results["stateN"], chunk[0, -64:]
        found.append(float(results["output"][0, 0]))
    return np.array(found)


# Which way is up


def clockwise_turns(run: Run, turns: int) -> int:
    """By how many quarters a page that was turned so often is found to be turned."""
    (scores,) = run({"x": signals.page_of_text(224, turns)}).values()
    return int(scores[0].argmax())
