"""Pictures, sounds and bytes made for trained networks: lines and pages of text, chords, a voice, files as features.

All are made here, the same on every machine; the font is the one that Pillow carries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import lfilter

Array = np.ndarray[Any, Any]

SENTENCE = "The quick brown fox jumps over 13 lazy dogs."
_PAGE = "It was the best of times it was the worst of times it was the age of wisdom it was the age of foolishness"
_IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
"""Mean and standard deviation of the pictures that most classifiers are trained on."""


def line_of_text(text: str = SENTENCE, height: int = 48, width: int | None = None) -> Array:
    """(1, 3, height, width) of values -1 to 1: `text` in black on white, as wide as it needs or filled up with grey."""
    font = ImageFont.load_default(height * 5 // 6)
    picture = Image.new("RGB", (int(font.getlength(text)) + height // 2, height * 4 // 3), "white")
    ImageDraw.Draw(picture).text((height // 4, height // 6), text, font=font, fill="black")
    needed = round(picture.width * height / picture.height / 8) * 8
    small = picture.resize((min(needed, width or needed), height), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    return np.pad(values, ((0, 0), (0, 0), (0, 0), (0, max((width or needed) - small.width, 0))))


def page_of_text(size: int, quarter_turns: int = 0, first_word: int = 0) -> Array:
    """(1, 3, size, size), normalised as photographs are: the middle of a page, turned clockwise."""
    font = ImageFont.load_default(28)
    page = Image.new("RGB", (640, 640), "white")
    draw, text = ImageDraw.Draw(page), _PAGE.split()
    for row in range(14):
        words = (text[(first_word + row * 5 + place) % len(text)] for place in range(7))
        draw.text((30, 25 + row * 42), " ".join(words), font=font, fill="black")
    turned = page.rotate(-90 * quarter_turns).resize((256, 256), Image.Resampling.BILINEAR)
    middle = turned.crop((16, 16, 240, 240)).resize((size, size), Image.Resampling.BILINEAR)
    scaled = (np.asarray(middle, np.float32) / 255 - _IMAGENET[0]) / _IMAGENET[1]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def photograph(size: int) -> Array:
    """(1, 3, size, size) of values 0 to 1 that change as slowly as a picture's do."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255


def harmonic(hertz: float | Array, rate: int, samples: int) -> Array:
    """(samples,) a tone of one pitch, or of one for each sample, with overtones that fall off as a string's do."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, samples)) / rate
    sound = sum(np.sin(phase * number) / number**1.5 for number in range(1, 7))
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def chord(keys: tuple[int, ...], rate: int, samples: int) -> Array:
    """(samples,) of notes by their number in MIDI, 69 the A of 440 Hz."""
    notes = sum(harmonic(440 * 2 ** ((key - 69) / 12), rate, samples) for key in keys)
    return np.asarray(0.5 * notes / np.abs(notes).max(), np.float32)


_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (660, 1720, 2410))
"""The first three resonances of the vocal tract in hertz: means of men's vowels (Peterson and Barney 1952)."""


def voice(seconds: float = 2.0, rate: int = 16000, hertz: float = 120) -> Array:
    """(samples,) five vowels a second, at a pitch around `hertz`, through the resonances of a vocal tract."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.08 * np.sin(2 * np.pi * 2.5 * time))) / rate
    source = np.asarray(sum(np.cos(phase * number) / number for number in range(1, 40)))
    sound, length = np.zeros(time.size), rate // 5
    for number, start in enumerate(range(0, time.size, length)):
        part = source[start : start + length]
        for centre, width in zip(_VOWELS[number % len(_VOWELS)], (80, 90, 120), strict=True):
            radius = np.exp(-np.pi * width / rate)
            part = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / rate), radius**2], part)
        sound[start : start + length] = part / np.abs(part).max() * np.hanning(part.size) ** 0.5
    return (0.3 * sound).astype(np.float32)


def noise(samples: int, amplitude: float = 0.1) -> Array:
    return (amplitude * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def ends_of_file(content: bytes, block: int = 4096, size: int = 1024, padding: int = 256) -> Array:
    """(1, 2 size) the first and last bytes of a file, blanks around them taken off and places left over filled."""
    first, last = content[:block].lstrip(), content[-block:].rstrip()
    if len(content) <= block:
        first = last = content.strip()
    first, last = first[:size], last[-size:]
    empty = [padding]
    return np.array([[*first, *empty * (size - len(first)), *empty * (size - len(last)), *last]], np.int32)
