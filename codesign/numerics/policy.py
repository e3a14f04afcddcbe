"""A policy: which formats a device holds weights, activations, sums and results in, by operation; read from YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from codesign.errors import BadParameter, CodesignError, nearest
from codesign.numerics.formats import FLOATS, FP32, Codebook, FloatFormat, Format, IntegerFormat, number_format
from codesign.numerics.rounding import Rounding

OperationClass = Literal[
    "contraction", "attention", "map", "reduce", "move", "gather", "scan", "sort", "transform", "other"
]
"""The class of an operation's Work, in small letters: contraction holds products and convolutions, reduce holds
normalisations, softmax and pooling, map what is elementwise, scan recurrent layers."""
Method = Literal["minmax", "percentile", "mse", "entropy"]

PERCENTILE = 99.99
"""Percent of the values inside a range that is chosen by percentile, unless told otherwise."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Holding(_Part):
    """How the values of one operand are held. In YAML the name of a format alone will do."""

    format: str = Field(description="name of a number format; none leaves values in the model's own type")
    scale: Literal["none", "tensor", "channel", "token", "group"] | None = Field(
        default=None,
        description="what shares a scale: the tensor, an output channel, a row of activations (token), or `group` "
        "neighbours along the summed axis; default: channel for weights, tensor for activations, none for 16 bits up",
    )
    group: int = Field(default=128, ge=1, description="values that share a scale where scale is group")
    symmetric: bool | None = Field(
        default=None, description="zero point 0; default: true for weights, false for activations"
    )
    range: Literal["static", "dynamic"] | None = Field(
        default=None, description="activations: calibrated, or of the values at hand; default: static for tensor scales"
    )
    method: Method | None = Field(
        default=None, description="how a range is chosen; default: minmax, or the calibration's"
    )
    percentile: float | None = Field(default=None, gt=50, le=100, description="default: the calibration's")
    rounding: Rounding = Field(default="nearest-even", description="round mode")
    saturate: bool | None = Field(default=None, description="floats: largest value instead of infinity on overflow")

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "none":
            number_format(name)
        return name

    @property
    def form(self) -> Format | None:
        return None if self.format == "none" else number_format(self.format)

    def shared(self, weights: bool) -> str:
        """What shares a scale, the default resolved."""
        if self.scale is not None:
            return self.scale
        form = self.form
        scaled = isinstance(form, IntegerFormat | Codebook) or (isinstance(form, FloatFormat) and form.bits <= 8)
        return ("channel" if weights else "tensor") if scaled else "none"

    @property
    def is_static(self) -> bool:
        """Whether activations need a calibrated range."""
        return self.shared(False) == "tensor" and self.range != "dynamic"


class Accumulator(_Part):
    """What products are summed in. In YAML the name alone will do: fp32, fp16, bf16, tf32, or int8 to int64."""

    format: str = Field(description="fp32, fp16, bf16, tf32, or intN of 8 to 64 bits")
    overflow: Literal["saturate", "wrap"] = Field(default="saturate", description="integers beyond the width")
    block: int = Field(
        default=1, ge=1, description="products summed exactly (in fp32 or whole numbers) before they meet the sum"
    )
    rounding: Rounding = Field(default="nearest-even", description="round mode of floating-point sums")

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        match = re.fullmatch(r"int(\d+)", name)
        if match and 8 <= int(match[1]) <= 64:
            return name
        if name in FLOATS and FLOATS[name].bits >= 16:
            return name
        known = ["fp32", "fp16", "bf16", "tf32", "int16", "int18", "int24", "int32"]
        raise BadParameter(f"unknown accumulator '{name}'{nearest(name, known)}; known: {', '.join(known)}, any intN")

    @property
    def bits(self) -> int | None:
        """Width of an integer accumulator; None of a floating-point one."""
        return int(self.format[3:]) if self.format.startswith("int") else None

    @property
    def form(self) -> FloatFormat:
        return FLOATS[self.format] if self.bits is None else FP32

    @property
    def can_lose(self) -> bool:
        """Whether sums can differ from those in float32 by more than its rounding: all but fp32 and 32 bits up."""
        return self.format != "fp32" if self.bits is None else self.bits < 32


class Formats(_Part):
    """The formats of one operation; what is not given stays in the model's own type."""

    weights: Holding | None = Field(default=None, description="constants that are multiplied or added")
    activations: Holding | None = Field(default=None, description="values computed, as the operation reads them")
    accumulator: Accumulator | None = Field(default=None, description="what a contraction sums in; default: fp32")
    output: Holding | None = Field(default=None, description="results, after what is fused behind the operation")

    @model_validator(mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        parts = ("weights", "activations", "accumulator", "output")
        return {k: {"format": v} if k in parts and isinstance(v, str) else v for k, v in given.items()}


class Rule(Formats):
    """Formats of the operations that every given list selects; each list names alternatives."""

    classes: list[OperationClass] = Field(default_factory=list, description="classes of operations")
    kinds: list[str] = Field(default_factory=list, description="operators, such as Conv or LayerNormalization")
    layers: list[str] = Field(
        default_factory=list, description="names of operations or ONNX nodes; * and ? stand for any characters"
    )


class Calibration(_Part):
    """How ranges of activations are chosen from sample inputs."""

    method: Method = Field(
        default="minmax",
        description="minmax; percentile of the values; mse: least squared error in the format; entropy: least "
        "Kullback-Leibler divergence of 8-bit histograms (Migacz 2017, TensorRT)",
    )
    percentile: float = Field(default=PERCENTILE, gt=50, le=100, description="share of the values inside, in percent")
    mask_beyond: float = Field(
        default=9000.0,
        gt=0,
        description="values at minus this and below stand for masks of attention: they widen no range and stay as they "
        "are under a scale; -10,000 plus a score is the usual mask of least magnitude",
    )


class Policy(_Part):
    """Rules in order: each that selects an operation sets the formats it gives, later ones over earlier."""

    name: str = Field(default="", description="what reports call it")
    description: str = Field(default="", description="what it stands for")
    rules: list[Rule] = Field(description="formats by operation")
    calibration: Calibration = Field(default_factory=Calibration, description="ranges of activations")
    seed: int = Field(default=0, ge=0, description="of stochastic rounding")


@cache
def presets() -> dict[str, Policy]:
    """The policies that have a name, in the order of their file."""
    text = resources.files("codesign.numerics").joinpath("presets.yaml").read_text(encoding="utf-8")
    described = _yaml(text, "presets")
    return {name: _policy({"name": name, **body}, f"preset '{name}'") for name, body in described.items()}


def policy(name: str | Path) -> Policy:
    """The preset called `name`, or the policy of the YAML file at that path.

    Raises BadParameter, naming the file, the rule and the nearest names, for what is unknown or ill-formed.
    """
    text = str(name)
    if not text.endswith((".yaml", ".yml")):
        if text not in presets():
            known = f"; known: {', '.join(presets())}, and paths ending in .yaml"
            raise BadParameter(f"unknown numerics '{text}'{nearest(text, presets())}{known}")
        return presets()[text]
    path = Path(name)
    if not path.is_file():
        raise BadParameter(f"numerics file '{path}': no such file")
    where = f"numerics file {path}"
    body = _yaml(path.read_text(encoding="utf-8", errors="replace"), where)
    if not isinstance(body, dict):
        raise BadParameter(f"{where}: expected the key 'rules' with a list")
    return _policy({"name": path.stem, **body}, where)


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise BadParameter(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _policy(body: dict[str, Any], where: str) -> Policy:
    try:
        return Policy.model_validate(body)
    except CodesignError as error:
        raise BadParameter(f"{where}: {error}") from error
    except ValidationError as error:
        raise BadParameter(f"{where}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first thing wrong, with the names that might have been meant."""
    first = error.errors()[0]
    place, last = list(first["loc"]), first["loc"][-1] if first["loc"] else ""
    path = ".".join(str(part) for part in place) or "policy"
    if first["type"] == "extra_forbidden":
        return f"unknown key '{last}' at {path}{nearest(str(last), _keys())}"
    if first["type"] == "missing":
        return f"key '{last}' is missing at {path}"
    given = first.get("input")
    close = nearest(given, re.findall(r"'([^']+)'", first["msg"])) if isinstance(given, str) else ""
    return f"{path} = {given!r}: {first['msg'].lower()}{close}"


def _keys() -> Iterator[str]:
    for part in (Policy, Rule, Holding, Accumulator, Calibration):
        yield from part.model_fields
