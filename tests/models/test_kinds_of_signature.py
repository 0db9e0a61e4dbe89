"""The four kinds of signature, from the export to all who read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models_to_build import (
    FEEDS,
    METHODS,
    Scorer,
    assert_same,
    call_by_v1,
    call_by_v2,
    in_session,
    vocabulary,
)
from support import Pai

from pai_runner import export

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

KINDS = {"tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress"}


def by_session(words: str, directory: str) -> tuple[export.Export, dict[str, Any]]:
    with in_session(words) as model:
        made = export.saved_model(model.session, directory, model.signatures)
        return made, {name: model.run(name, feeds) for name, feeds in FEEDS.items()}


def by_module(words: str, directory: str) -> tuple[export.Export, dict[str, Any]]:
    model = Scorer(words)
    made = export.saved_model(model, directory, model.signatures())
    return made, {
        name: call_by_v2(made.location, name, feeds, ("serve",)) for name, feeds in FEEDS.items()
    }


@pytest.mark.parametrize("exported", [by_session, by_module])
def test_every_kind_is_what_it_was_for_every_reader(
    exported: Any, pai: Pai, tmp_path: Path
) -> None:
    directory = tmp_path / "export"
    made, expected = exported(vocabulary(tmp_path), str(directory))
    assert set(METHODS.values()) > KINDS  # and one of its own
    assert set(made.signatures) == set(METHODS)
    loaded = export.load(directory)
    for name, feeds in FEEDS.items():
        assert loaded[name].method == METHODS[name]
        assert_same(loaded[name](**feeds), expected[name])
        assert_same(call_by_v2(made.location, name, feeds, ("serve",)), expected[name])
        assert_same(call_by_v1(made.location, name, feeds, ("serve",)), expected[name])
    shown = pai("models", "show", str(directory), "--json")
    (graph,) = json.loads(shown.stdout)["meta_graphs"]
    assert graph["eas"] == made.signatures
    assert {name: one["method"] for name, one in graph["signatures"].items()} == METHODS
    structure = pai("models", "show", str(directory), "--eas", "--signature", "classify")
    assert json.loads(structure.stdout) == made.signatures["classify"]
    assert json.loads(structure.stdout)["inputs"] == [
        {"name": "inputs", "shape": [-1], "type": "DT_STRING"}
    ]
