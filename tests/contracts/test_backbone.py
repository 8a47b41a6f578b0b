"""Every backbone composes, knows its layers, has an id of its own and a family that is tested."""

from __future__ import annotations

import pytest

from tests.backbone.models import REAL
from vexp.backbone._family import FAMILIES
from vexp.registry import REGISTRY
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve

BACKBONES = [
    name
    for name in REGISTRY.names("backbone")
    if REGISTRY.get("backbone", name).__module__.startswith("vexp.")
]
every = pytest.mark.parametrize("name", BACKBONES)


@every
def test_it_composes_under_a_papers_settings(name):
    blind = "attention" in REGISTRY.get("backbone", name).lacks
    experiment = "dapo" if blind else "ease"
    run = resolve([f"experiment={experiment}", "scale=ease_paper", f"backbone={name}"])
    layers = run.backbone.decoder_layers
    assert layers is not None
    assert layers >= 6
    if not blind:
        assert 0 < run.auxiliary["ease"].layer.index(layers) < layers - 1
    assert not run.unknown()


def test_each_has_an_id_of_its_own():
    ids = {training_id(resolve([f"backbone={name}"])).hash for name in BACKBONES}
    assert len(ids) == len(BACKBONES)


@every
def test_its_family_is_one_that_is_tested(name):
    family = REGISTRY.get("backbone", name).model_type
    assert family in FAMILIES
    assert family in REAL
    assert f"tiny_{family}" in BACKBONES
