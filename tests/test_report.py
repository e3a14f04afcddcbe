"""The result document and its views."""

from __future__ import annotations

import json
from pathlib import Path

from codesign.report.schema import json_schema

DATA = Path(__file__).parent / "data"


def test_schema_is_the_published_one() -> None:
    assert json_schema() == json.loads((DATA / "report_schema.json").read_text())


def test_every_field_of_the_schema_is_described() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for model in (schema, *definitions.values()):
        assert all("description" in field for field in model["properties"].values())
