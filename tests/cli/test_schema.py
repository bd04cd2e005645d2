"""The schema that ships is what the result dataclasses say."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_schema_is_up_to_date() -> None:
    pytest.importorskip("pydantic")
    loader = importlib.machinery.SourceFileLoader("schema_script", str(REPOSITORY / "scripts" / "schema"))
    spec = importlib.util.spec_from_loader("schema_script", loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    shipped = json.loads((REPOSITORY / "edgeseq" / "schema.json").read_text(encoding="utf-8"))
    assert shipped == script.make(), "run scripts/schema"
    jsonschema.Draft202012Validator.check_schema(shipped)


def test_schema_refuses_other_documents() -> None:
    schema = json.loads((REPOSITORY / "edgeseq" / "schema.json").read_text(encoding="utf-8"))
    check = jsonschema.Draft202012Validator({**schema, "$ref": "#/commands/check"})
    good = {"outputs": [], "provider": "cpu", "reference": "keras", "samples": 1}
    assert check.is_valid(good)
    assert not check.is_valid({**good, "samples": "one"})
    assert not check.is_valid({**good, "extra": 1})
    assert not check.is_valid({key: value for key, value in good.items() if key != "provider"})
