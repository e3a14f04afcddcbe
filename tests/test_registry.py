"""Devices by name or file, with parameters replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import codesign
from codesign import registry
from codesign.errors import BadParameter


@pytest.mark.parametrize("name", codesign.device_names())
def test_every_device_file_is_complete(name) -> None:
    """It can be built, says where its numbers come from, and each calibrated parameter is one it has."""
    found = codesign.device(name)
    provenance = found.provenance
    assert provenance.description
    assert provenance.sources
    names = registry.parameter_names(found.parameters.model_dump())
    assert names
    for calibrated in provenance.calibrated:
        assert any(parameter == calibrated or parameter.startswith(f"{calibrated}.") for parameter in names), calibrated
    assert found.supports(found.default_dtype)
    assert {"analytic", "event"} <= set(found.fidelities)
    assert set(found.compute_resources) <= {resource.name for resource in found.resources()}


@pytest.mark.parametrize("name", codesign.device_names())
def test_every_parameter_can_be_set_to_what_it_is(name) -> None:
    found = codesign.device(name)
    dumped = found.parameters.model_dump()
    values = {}
    for dotted in registry.parameter_names(dumped):
        values[dotted] = dumped
        for part in dotted.split("."):
            values[dotted] = values[dotted][part]
    assert codesign.device(name, **values).parameters == found.parameters


def test_overrides_change_one_device_and_name_it() -> None:
    plain, changed = codesign.device("h200"), codesign.device("h200", **{"dram.bandwidth": 1e12})
    assert changed.parameters.dram.bandwidth == 1e12
    assert plain.parameters.dram.bandwidth != 1e12
    assert codesign.device("h200").parameters == plain.parameters
    assert changed.name == f"{plain.name} (dram.bandwidth=1000000000000.0)"


def test_a_file_of_ones_own_is_a_device(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    shutil.copy(registry.device_files()["stm32l4r5"], path)
    found = codesign.device(str(path), **{"core.clock": 60e6})
    assert found.parameters.core.clock == 60e6
    path.write_text(path.read_text().replace("name: ", "name: my-"))
    assert codesign.device(str(path)).name.startswith("my-")


def test_devices_of_other_packages_are_found(tmp_path, monkeypatch) -> None:
    package = tmp_path / "acme_devices"
    package.mkdir()
    (package / "__init__.py").write_text("")
    shutil.copy(registry.device_files()["stm32l4r5"], package / "acme-1.yaml")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_packages", lambda: ["hwmodels", "acme_devices"])
    registry.device_files.cache_clear()
    try:
        assert "acme-1" in codesign.device_names()
        assert codesign.device("acme-1").device_class == "mcu"
    finally:
        registry.device_files.cache_clear()


def test_classes_are_folders_and_their_modules_optional() -> None:
    assert registry.device_classes() == ["cpu", "gpu", "mcu", "npu", "pim"]
    assert registry.class_module("npu", "device") is not None
    assert registry.class_module("npu", "nothing_of_that_name") is None
    assert registry.class_module("nothing", "device") is None


def test_an_error_inside_a_device_class_is_not_taken_for_its_absence(tmp_path, monkeypatch) -> None:
    package = tmp_path / "acme_broken"
    (package / "tpu").mkdir(parents=True)
    for folder in (package, package / "tpu"):
        (folder / "__init__.py").write_text("")
    (package / "tpu" / "device.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_packages", lambda: ["acme_broken"])
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        registry.class_module("tpu", "device")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dram.bandwith": 1.0}, r"has no parameter 'dram\.bandwith'; did you mean dram\.bandwidth"),
        ({"dram.bandwidth": 0.0}, r"'dram\.bandwidth' = 0\.0: input should be greater than 0"),
        ({"dram.bandwidth": float("inf")}, "finite"),
        ({"sm.count": 1.5}, r"'sm\.count' = 1\.5"),
        ({"sm.count": "many"}, "valid integer"),
        ({"sm.count.half": 1}, "'count' is a single value"),
    ],
)
def test_parameters_that_cannot_be_are_refused(overrides, message) -> None:
    with pytest.raises(BadParameter, match=message):
        codesign.device("h200", **overrides)


def test_a_file_in_another_encoding_is_refused(tmp_path) -> None:
    path: Path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(BadParameter, match="not valid YAML"):
        codesign.device(str(path))
