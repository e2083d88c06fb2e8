"""ray_cluster.yaml against Ray's own schema and defaults."""

from __future__ import annotations

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CONFIG = Path(__file__).resolve().parent.parent / "ray_cluster.yaml"


def test_it_is_what_ray_up_accepts() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(node.get("max_workers", 0) for node in types.values()) <= config["max_workers"]


def test_it_opens_nothing_to_the_world() -> None:
    text = CONFIG.read_text()
    assert "0.0.0.0" not in text
    assert "security_group" not in text, "Ray's own group lets in SSH only"
