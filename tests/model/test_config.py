"""Shapes are validated, counted, written and read back without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from model.config import ConfigError, ModelConfig, MoEConfig
from model.presets import PRESETS


def test_config_and_package_import_without_torch() -> None:
    code = "import sys, model, model.config; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_a_round_trip_through_json(name: str) -> None:
    config = PRESETS[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_impossible_shapes_are_refused_by_name() -> None:
    good = {"d_model": 8, "d_expert": 8, "n_experts": 4, "top_k": 2}
    for change, field in (({"top_k": 5}, "top_k"), ({"d_model": 0}, "d_model"), ({"gate": "relu"}, "gate")):
        with pytest.raises(ConfigError, match=field):
            MoEConfig(**{**good, **change})
    with pytest.raises(ConfigError, match="unexpected"):
        ModelConfig.from_dict({**PRESETS["tiny"].to_dict(), "unexpected": 1})


def test_shared_experts_are_merged_into_one_width() -> None:
    assert MoEConfig(d_model=8, d_expert=4, n_experts=2, top_k=1, n_shared=3).d_shared == 12
