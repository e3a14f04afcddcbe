"""The list of operators is made of what there is: ONNX's definitions, the registry, the front end's handlers."""

from __future__ import annotations

import json

import onnx

from codesign.frontend.coverage import FUNCTION, GRAPH, KERNEL, NONE, coverage
from codesign.frontend.handlers import HANDLERS
from codesign.ops.base import operators
from tests.commands import run


def test_every_operator_of_the_standard_runs():
    found = {one.name: one for one in coverage() if one.domain == ""}
    assert {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain} <= set(found)
    assert [name for name, one in found.items() if one.by == NONE] == []
    assert found["Conv"].by == KERNEL
    assert found["Conv"].versions[:2] == (1, 11)
    assert found["Constant"].simulated


def test_what_is_not_supported_is_listed_too():
    missing = {(one.domain, one.name) for one in coverage() if one.by == NONE}
    assert ("ai.onnx.preview.training", "Gradient") in missing
    assert not missing & {*operators(), *HANDLERS}


def test_what_the_front_end_resolves_and_what_the_standard_defines_by_others():
    by = {(one.domain, one.name): one.by for one in coverage()}
    assert by["ai.onnx.ml", "ZipMap"] == GRAPH
    assert by["ai.onnx.preview", "FlexAttention"] in (FUNCTION, KERNEL)
    assert ("", "Refuse") not in by


def test_the_list_on_the_command_line(capsys):
    assert run("operators") == 0
    shown = capsys.readouterr().out
    assert "com.microsoft" in shown
    assert "MatMulNBits" in shown
    assert run("operators", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"domain", "name", "versions", "by", "simulated"} == set(rows[0])
    assert len(rows) == len(coverage())
