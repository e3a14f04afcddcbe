"""Devices by name: the files of hwmodels/devices and of packages that add theirs by entry points."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from codesign.errors import BadParameter, nearest
from codesign.hardware import Device, Provenance

ENTRY_POINTS = "codesign.devices"
"""Entry-point group whose values name packages that hold device files and, if they add one, a device class."""


@cache
def device_files() -> dict[str, Path]:
    """Path of each device file by device name."""
    first, *others = _packages()
    folders = [Path(str(resources.files(package))) for package in (f"{first}.devices", *others)]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def device_names() -> list[str]:
    return sorted(device_files())


def device(name: str, **overrides: Any) -> Device:
    """The device called `name`, or of the YAML file at that path, with parameters replaced.

    A nested parameter is named with dots: `device("h200", **{"dram.bandwidth": 4e12})`. Raises BadParameter, with the
    nearest known names, for an unknown device or parameter or a value out of range.
    """
    path = _device_file(name)
    description = _read(path)
    device_class = _device_class(str(description["class"]), path)
    parameters = _apply(description.get("parameters") or {}, overrides)
    try:
        built = device_class.parameters_model.model_validate(parameters)
        provenance = Provenance.model_validate(description["provenance"])
    except ValidationError as error:
        raise BadParameter(_describe(error, path, device_class)) from error
    if unknown := [key for key in overrides if not _known(built.model_dump(), key)]:
        names = parameter_names(built.model_dump())
        raise BadParameter(f"device '{name}' has no parameter '{unknown[0]}'{nearest(unknown[0], names)}")
    changed = ", ".join(f"{key}={value}" for key, value in sorted(overrides.items()))
    return device_class(f"{description['name']} ({changed})" if changed else description["name"], built, provenance)


def write_device(base: str, values: Mapping[str, float], data: str, error: float | None, path: Path) -> None:
    """A device file: the device `base` with parameters of dotted names replaced, `data` being what they were fitted to
    and `error` how far from it they are on average."""
    import yaml

    description = deepcopy(_read(_device_file(base)))
    for name, value in values.items():
        level = description["parameters"]
        *groups, key = name.split(".")
        for group in groups:
            level = level.setdefault(group, {})
        level[key] = float(f"{value:.4g}")
    provenance = description["provenance"]
    provenance.pop("transferred", None)
    provenance.pop("validated_on", None)
    provenance.update({"calibrated": dict.fromkeys(values, data)})
    if error is not None:
        provenance.update({"error_band": round(error, 3), "validated_on": f"{data}, cross-validated"})
    text = yaml.safe_dump(description, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _device_file(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise BadParameter(f"device file '{name}': no such file")
        return Path(name)
    if name not in device_files():
        known = nearest(name, device_names()) or f"; known devices: {', '.join(device_names())}"
        raise BadParameter(f"unknown device '{name}'{known}")
    return device_files()[name]


def device_classes() -> list[str]:
    """Names of the device classes that some device file uses."""
    return sorted({_read(path)["class"] for path in device_files().values()})


def class_module(device_class: str, name: str) -> ModuleType | None:
    """A module of a device class's folder, such as its `validation`; None when the class has none of that name."""
    for package in _packages():
        try:
            return importlib.import_module(f"{package}.{device_class}.{name}")
        except ModuleNotFoundError as error:
            if error.name not in (f"{package}.{device_class}", f"{package}.{device_class}.{name}"):
                raise
    return None


def _packages() -> list[str]:
    return ["hwmodels", *(point.value for point in metadata.entry_points(group=ENTRY_POINTS))]


def parameter_names(parameters: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all parameters, nested ones included."""
    names = []
    for key, value in parameters.items():
        nested = isinstance(value, Mapping)
        names += parameter_names(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return names


@cache
def _parsed(path: Path, modified: float) -> Any:
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(f"device file {path}: not valid YAML: {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict[str, Any]:
    description = _parsed(path, path.stat().st_mtime)
    if not isinstance(description, dict) or not {"name", "class", "provenance"} <= description.keys():
        raise BadParameter(f"device file {path}: expected the keys name, class, provenance and parameters")
    for key in ("parameters", "provenance"):
        if not isinstance(description.get(key) or {}, dict):
            raise BadParameter(f"device file {path}: '{key}' is {description[key]!r}; expected names with values")
    return description


def _device_class(name: str, path: Path) -> type[Device]:
    module = class_module(name, "device") if name.isidentifier() else None
    if module is None:
        raise BadParameter(f"device file {path}: unknown device class '{name}'{nearest(name, device_classes())}")
    found: type[Device] = module.DEVICE_CLASS
    return found


def _apply(parameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` with dotted overrides replaced, the original untouched."""
    result = dict(parameters)
    for dotted, value in overrides.items():
        level = result
        *path, last = dotted.split(".")
        for key in path:
            inner = level.get(key, {})
            if not isinstance(inner, Mapping):
                raise BadParameter(f"parameter '{dotted}': '{key}' is a single value and has no parts")
            level[key] = dict(inner)
            level = level[key]
        level[last] = value
    return result


def _known(parameters: Mapping[str, Any], dotted: str) -> bool:
    level: Any = parameters
    for key in dotted.split("."):
        if not isinstance(level, Mapping) or key not in level:
            return False
        level = level[key]
    return True


def _describe(error: ValidationError, path: Path, device_class: type[Device]) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        names = _field_names(device_class.parameters_model)
        return f"device '{path.stem}' has no parameter '{where}'{nearest(where, names)}"
    return f"device '{path.stem}', parameter '{where}' = {first.get('input')!r}: {first['msg'].lower()}"


def _field_names(model: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a pydantic model."""
    names = []
    for name, field in model.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        names += _field_names(field.annotation, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names
