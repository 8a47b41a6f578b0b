"""What searches propose, without any run: spaces, draws, and samplers that find an optimum."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.errors import ConfigError
from vexp.registry import REGISTRY
from vexp.search.base import Distribution, Objective, Pruner

SPACE = {
    "x": Distribution(type="float", low=-5.0, high=5.0),
    "n": Distribution(type="int", low=2, high=8, step=2),
    "c": Distribution(type="categorical", choices=("a", None, True, 3)),
}
ONE = (Objective(metric="accuracy"),)
TWO = (Objective(metric="accuracy"), Objective(metric="length", direction="minimize"))


def make(name, **settings):
    defaults = {"objectives": ONE, "space": SPACE} if name != "list" else {"objectives": ONE}
    return REGISTRY.get("search", name)(**{**defaults, **settings})


def study_of(search):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=[o.direction for o in search.objectives])


def follow(search, value, count):
    """Propose and tell, one after the other; the settings."""
    study, found = study_of(search), []
    for number in range(count):
        params = dict(search.propose(study, number))
        if len(study.trials) == number:
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=params,
                    distributions={k: d.optuna() for k, d in search.distributions().items()},
                )
            )
        keys = search.distributions()
        known = study.trials[number].params
        assert {key: keys[key].exact(value) for key, value in known.items()} == params
        study.tell(number, value(params))
        found.append(params)
    return found


def test_a_grid_is_every_combination_once_in_order():
    space = {k: SPACE[k] for k in ("n", "c")} | {
        "f": Distribution(type="float", low=0.0, high=0.3, step=0.1)
    }
    grid = make("grid", space=space)
    found = [tuple(grid.propose(None, n).values()) for n in range(grid.total)]
    values = ([2, 4, 6, 8], ["a", None, True, 3], pytest.approx([0.0, 0.1, 0.2, 0.3]))
    expected = list(itertools.product(values[0], values[1], [0.0, 0.1, 0.2, 0.3]))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected])


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.1, 0.6, 0.1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (0.7, 1.3, 0.2, [0.7, 0.9, 1.1, 1.3]),
        (1e-6, 5e-6, 1e-6, [1e-6, 2e-6, 3e-6, 4e-6, 5e-6]),
        (-0.3, 0.3, 0.15, [-0.3, -0.15, 0.0, 0.15, 0.3]),
        (0.1, 0.65, 0.25, [0.1, 0.35, 0.6]),
    ],
)
@pytest.mark.parametrize("name", ["grid", "random", "optuna"])
def test_decimal_steps_are_the_numbers_written_by_hand(name, low, high, step, values):
    space = {"f": Distribution(type="float", low=low, high=high, step=step)}
    search = make(name, space=space, trials=len(values))
    found = [params["f"] for params in follow(search, lambda params: params["f"], len(values))]
    assert set(found) <= set(values)
    assert name != "grid" or found == values


def test_a_range_ends_where_its_steps_do():
    space = {
        "n": Distribution(type="int", low=4, high=15, step=4),
        "f": Distribution(type="float", low=0.1, high=0.65, step=0.25),
        "even": Distribution(type="float", low=0.1, high=0.6, step=0.1),
        "log": Distribution(type="float", low=1e-5, high=1e-2, log=True),
        "c": Distribution(type="categorical", choices=(1, 2)),
    }
    assert space["n"].ends == (4, 12)
    search = make("optuna", space=space, trials=3)
    assert list(search.notes()) == [
        "n: steps of 4 from 4 end at 12; high (15) is never proposed",
        "f: steps of 0.25 from 0.1 end at 0.6; high (0.65) is never proposed",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space["n"].optuna()
        space["f"].optuna()


def test_a_list_is_taken_as_it_stands():
    points = ({"x": 1, "c": "a"}, {"x": 2, "c": "b"}, {"x": 1, "c": "b"})
    listed = make("list", points=points)
    assert follow(listed, lambda p: p["x"], listed.total) == list(points)


def test_random_draws_are_the_trials_own_and_even():
    search = make("random", trials=1, seed=5)
    draws = [search.propose(None, n) for n in range(4000)]
    assert draws[7] == make("random", trials=9, seed=5).propose(None, 7)
    assert draws[7] != make("random", trials=9, seed=6).propose(None, 7)
    counts = Counter(draw["n"] for draw in draws)
    assert counts.keys() == {2, 4, 6, 8}
    assert max(counts.values()) < 1.15 * min(counts.values())
    assert set(map(str, {draw["c"] for draw in draws})) == {"a", "None", "True", "3"}
    assert sum(draw["x"] for draw in draws) / 4000 == pytest.approx(0, abs=0.2)


@given(
    low=st.floats(1e-8, 1e3), ratio=st.floats(1, 1e6), number=st.integers(0, 10**6),
)  # fmt: skip
def test_random_logarithms_stay_within_their_ends(low, ratio, number):
    key = Distribution(type="float", low=low, high=low * ratio, log=True)
    found = make("random", trials=1, space={"x": key}).propose(None, number)["x"]
    assert low <= found <= low * ratio
    whole = Distribution(type="int", low=max(1, int(low)), high=int(low * ratio) + 1, log=True)
    found = make("random", trials=1, space={"x": whole}).propose(None, number)["x"]
    assert isinstance(found, int)
    assert whole.low <= found <= whole.high


def test_logarithms_are_drawn_evenly():
    key = Distribution(type="float", low=1e-6, high=1e-2, log=True)
    search = make("random", trials=1, space={"x": key})
    decades = Counter(math.floor(math.log10(search.propose(None, n)["x"])) for n in range(4000))
    assert decades.keys() == {-6, -5, -4, -3}
    assert max(decades.values()) < 1.15 * min(decades.values())


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "nsga3", "random"])
def test_equal_seeds_give_equal_proposals_and_others_do_not(sampler):
    space = {k: SPACE[k] for k in ("x", "n")}

    def ten(seed):
        search = make("optuna", sampler=sampler, trials=10, seed=seed, space=space)
        return follow(search, lambda p: -abs(p["x"] - 1), 10)

    assert ten(1) == ten(1)
    assert ten(1) != ten(2)


@pytest.mark.parametrize(("sampler", "count"), [("tpe", 40), ("cmaes", 40), ("gp", 16)])
def test_samplers_do_better_than_chance(sampler, count):
    """Of a smooth function of two numbers, the best of `count` trials, over three seeds."""
    space = {k: Distribution(type="float", low=-5.0, high=5.0) for k in ("x", "y")}

    def value(p):
        return -((p["x"] - 1) ** 2) - (p["y"] + 2) ** 2

    def best(search):
        return max(map(value, follow(search, value, count)))

    ours = [
        best(make("optuna", sampler=sampler, trials=count, space=space, seed=s)) for s in (1, 2, 3)
    ]
    chance = [best(make("random", trials=count, space=space, seed=s)) for s in (1, 2, 3)]
    assert sorted(ours)[1] > sorted(chance)[1]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "gp"])
def test_several_objectives(sampler):
    space = {"x": Distribution(type="float", low=0.0, high=3.0)}
    search = make(
        "optuna", sampler=sampler, objectives=TWO, trials=12, space=space,
        **({"population": 4} if sampler.startswith("nsga") else {}),
    )  # fmt: skip
    assert len(follow(search, lambda p: (p["x"], (p["x"] - 1) ** 2), 12)) == 12


def problems(build):
    with pytest.raises(ConfigError) as caught:
        build()
    return " | ".join(str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"type": "float", "low": 2.0, "high": 1.0}, "`low` (2) is above `high` (1)"),
        ({"type": "float", "low": 2.0}, "needs a `high`"),
        ({"type": "float", "low": 0.0, "high": 1.0, "log": True}, "`log` needs a `low` above 0"),
        ({"type": "float", "low": 1.0, "high": 2.0, "log": True, "step": 0.1}, "exclude each"),
        ({"type": "int", "low": 1.5, "high": 4.0}, "1.5 is not a whole number"),
        ({"type": "int", "low": 1.0, "high": 4.0, "choices": (1,)}, "has no choices"),
        ({"type": "categorical"}, "needs choices"),
        ({"type": "categorical", "choices": (1, 2), "low": 1.0}, "has no `low`"),
        ({"type": "categorical", "choices": (1, 1)}, "listed twice"),
        ({"type": "categorical", "choices": ([1], 2)}, "a single value"),
    ],
)
def test_bad_distributions(settings, said):
    assert said in problems(lambda: Distribution(**settings))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("random", {"trials": 3, "space": {}}, "the space is empty"),
        ("random", {}, "needs a number of trials"),
        ("random", {"trials": 3, "objectives": ()}, "there is no objective"),
        ("random", {"trials": 3, "objectives": ONE * 2}, "an objective is listed twice"),
        ("grid", {"space": SPACE}, "a grid needs a step for 'x'"),
        ("grid", {"space": {"n": SPACE["n"]}, "trials": 5}, "there are only 4 points, not 5"),
        ("list", {}, "there are no points"),
        ("list", {"points": ({"x": 1}, {"y": 1})}, "all points have to set the same keys"),
        ("list", {"points": ({"x": [1]},)}, "no lists and mappings"),
        ("list", {"points": ({"x": 1},), "space": SPACE}, "a list of points has no space"),
        ("optuna", {"trials": 3, "sampler": "cmaes", "objectives": TWO}, "has one objective"),
        ("optuna", {"trials": 3, "population": 3}, "has no population"),
        (
            "random",
            {
                "trials": 3, "objectives": TWO,
                "pruner": Pruner(name="median", metric="reward", every=1),
            },
            "a pruner needs a single objective",
        ),
    ],
)  # fmt: skip
def test_bad_searches(name, settings, said):
    assert said in problems(lambda: make(name, **settings))
