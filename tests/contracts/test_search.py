"""What every registered search promises."""

from __future__ import annotations

import optuna
import pytest

from vexp.config.schema import build, to_dict
from vexp.registry import REGISTRY
from vexp.search.base import Distribution, Objective

SPACE = {
    "rl.learning_rate": Distribution(type="float", low=1.0, high=4.0, step=0.5),
    "rl.steps": Distribution(type="int", low=2, high=8, step=2),
    "algorithm": Distribution(type="categorical", choices=("grpo", "dapo")),
}
POINTS = ({"rl.steps": 2, "algorithm": "grpo"}, {"rl.steps": 4, "algorithm": "dapo"})


@pytest.fixture(params=REGISTRY.names("search"))
def search(request):
    cls = REGISTRY.get("search", request.param)
    settings = {"space": SPACE, "trials": 12}
    if request.param == "list":
        settings = {"points": POINTS}
    return cls(objectives=(Objective(metric="accuracy"),), **settings)


def proposals(search, value=lambda params: params["rl.steps"]):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, found = optuna.create_study(direction="maximize"), []
    keys = {key: d.optuna() for key, d in search.distributions().items()}
    for number in range(search.total):
        params = dict(search.propose(study, number))
        if len(study.trials) == number:
            study.enqueue_trial(params)
            study.ask(keys)
        assert study.trials[number].params == params
        study.tell(number, value(params))
        found.append(params)
    return found


def test_proposals_lie_in_the_space(search):
    for params in proposals(search):
        assert params.keys() == search.distributions().keys()
        for key, distribution in search.distributions().items():
            inside = distribution.optuna()
            assert inside._contains(inside.to_internal_repr(params[key]))
            size = distribution.size
            assert params[key] in [distribution.value(index) for index in range(size)]


def test_proposals_are_a_function_of_seed_and_history(search):
    assert proposals(search) == proposals(search)


def test_there_are_as_many_as_asked_for(search):
    assert len(proposals(search)) == search.total == (12 if search.space else 2)


def test_settings_survive_their_own_dict(search):
    assert build(type(search), {k: v for k, v in to_dict(search).items() if k != "name"}) == search
