"""Which decoder layer is meant, for models of all depths."""

from __future__ import annotations

import pytest

from vexp.config.schema import build
from vexp.errors import ConfigError
from vexp.layer.base import Layer
from vexp.registry import REGISTRY


def index(name, layers, **fields):
    return REGISTRY.get("layer", name)(**fields).index(layers)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (28, {"early": 9, "middle": 14, "two_thirds": 18, "last": 27}),
        (36, {"early": 12, "middle": 18, "two_thirds": 24, "last": 35}),
        (4, {"early": 1, "middle": 2, "two_thirds": 2, "last": 3}),
        (1, {"early": 0, "middle": 0, "two_thirds": 0, "last": 0}),
    ],
)
def test_layers_by_depth(layers, expected):
    assert {name: index(name, layers) for name in expected} == expected


@pytest.mark.parametrize("name", sorted(set(REGISTRY.names("layer")) - {"index"}))
def test_a_layer_by_depth_exists_in_every_model(name):
    assert all(0 <= index(name, layers) < layers for layers in range(1, 101))


def test_a_layer_by_number():
    assert [index("index", 4, value=value) for value in range(4)] == [0, 1, 2, 3]


def test_a_number_that_the_model_does_not_have():
    with pytest.raises(ConfigError, match=r"layer 28 does not exist.* 28 decoder layers") as error:
        index("index", 28, value=28)
    assert "0 to 27" in str(error.value)


def test_the_number_has_to_be_given_and_is_never_negative():
    cls = REGISTRY.get("layer", "index")
    assert issubclass(cls, Layer)
    with pytest.raises(ConfigError, match="'value' has to be set"):
        build(cls, {})
    with pytest.raises(ConfigError, match="at least 0"):
        build(cls, {"value": -1})
