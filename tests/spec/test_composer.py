"""Many runs composed together are what each would be composed alone, mistakes included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexp.config import compose
from vexp.config.schema import field_types
from vexp.errors import ConfigError
from vexp.paths import shipped
from vexp.registry import KINDS, REGISTRY
from vexp.spec.composer import Composer
from vexp.spec.identity import training_id
from vexp.spec.resolve import resolve
from vexp.spec.run import RunSpec

SHIPPED = sorted(
    f"{path.parent.name}={path.stem}"
    for path in shipped("conf").glob("*/*.yaml")
    # an annotation is read by `vexp annotate` and is no part of a run
    if path.parent.name not in ("dataset", "annotation")
)
GROUPS = ("algorithm", "credit", "group_filter", "verifier", "rollout", "engine", "mix", "backbone")
OPTIONS = sorted(
    {*SHIPPED, *(f"{kind}={name}" for kind in GROUPS for name in REGISTRY.names(kind))}
    | {"experiment=null", "~experiment", "algorithm=nonsense", "credit=7", "+experiment=dapo"}
)
VALUES = [
    "0", "1", "2", "8", "0.5", "1e-6", "-3", "true", "off", "null", "x", "[1,2]", "[warm_start]",
    "{a:1}", "${seed}", "${rl.steps}", "'a b'", "heldout", "digits_vqa", "ease", "accuracy",
    "hard_box", "digits_vqa_large",
]  # fmt: skip
KEYS = [
    "seed", "stages", "results_dir", "rl.steps", "rl.learning_rate", "rl.stepz", "warm_start.seed",
    "warm_start.steps", "rollout.group_size", "rollout.temperature", "algorithm.clip_high",
    "algorithm.kl_coef", "credit.floor", "auxiliary.ease", "auxiliary.ease.weight",
    "auxiliary.ease.target", "reward.terms.format", "reward.terms.format.weight",
    "mix.datasets.main", "mix.datasets.more", "evaluator.heldout.size", "evaluator.dev",
    "compute.threads", "launcher.workers", "checkpoint.every", "new.key", "tracker.t",
]  # fmt: skip
SETTINGS = st.builds(
    lambda sign, key, value: f"{sign}{key}={value}",
    st.sampled_from(["", "", "", "+", "++"]), st.sampled_from(KEYS), st.sampled_from(VALUES),
) | st.builds("~{}".format, st.sampled_from(KEYS))  # fmt: skip


def outcome(call):
    """The run, or what is wrong with it."""
    try:
        return call()
    except ConfigError as error:
        return [str(problem) for problem in error.problems]


def sources(overrides):
    return [f"file.yaml:{number}" for number in range(len(overrides))]


@pytest.fixture(scope="module")
def composer():
    """One for all examples, so that what it remembers of one is tried on the others."""
    return Composer()


@settings(max_examples=150)
@given(
    overrides=st.lists(st.sampled_from(OPTIONS), max_size=2).flatmap(
        lambda groups: st.lists(SETTINGS, max_size=4).map(lambda rest: [*groups, *rest])
    )
)
def test_the_fast_path_equals_one_composition_per_point(composer, overrides):
    alone = outcome(lambda: resolve(overrides, source=sources(overrides)))
    together = outcome(lambda: composer.resolve(overrides, sources(overrides)))
    assert together == alone
    if not isinstance(alone, list):
        assert repr(together) == repr(alone)  # 1 is not 1.0
        assert composer.identity(together) == training_id(alone)


@pytest.mark.parametrize("option", SHIPPED)
def test_every_shipped_config_with_values_on_top(composer, option):
    group = option.partition("=")[0]
    if group not in (*KINDS, "experiment", "scale"):
        pytest.fail(f"no way to choose {option}")
    for overrides in ([option], [option, "seed=3", "rl.steps=5", "warm_start.seed=${seed}"]):
        alone = resolve(overrides)
        together = composer.resolve(overrides, ["override"] * len(overrides))
        assert repr(together) == repr(alone)
        assert composer.identity(together) == training_id(alone)


def test_hydra_is_asked_once_for_each_choice_of_files(monkeypatch):
    asked = []
    real = compose.Overlay.files
    monkeypatch.setattr(
        compose.Overlay, "files", lambda self: asked.append(self.groups) or real(self)
    )
    fast = Composer()
    for option in ("experiment=dapo", "algorithm=gspo"):
        for steps in range(1, 20):
            overrides = [option, f"rl.steps={steps}", f"seed={steps % 3}"]
            run = fast.resolve(overrides, sources(overrides))
            assert (run.rl.steps, run.seed) == (steps, steps % 3)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["warm_start.seed=${rl.steps}", "rl.steps=${checkpoint.every}", "checkpoint.every=7"],
        ["warm_start.seed=${rl.steps}", "rl.steps=${checkpoint.every}", "checkpoint.every=9"],
        ["warm_start.seed=${rl.steps}"],  # the schema's default, or a file's
        ["experiment=linked", "seed=5"],
        ["experiment=linked", "seed=6"],
        ["experiment=linked", "seed=6", "rl.steps=8"],
        ["experiment=linked", "seed=6", "rl.steps=${warm_start.steps}", "warm_start.steps=4"],
        ["experiment=linked", "~rl.steps"],
        ["experiment=linked", "~warm_start"],
        ["~auxiliary"],
        ["results_dir=there/${seed}/${rollout.group_size}", "seed=3", "rollout.group_size=4"],
    ],
)
def test_a_section_follows_what_it_refers_to(composer_here, overrides):
    alone = outcome(lambda: resolve(overrides, source=sources(overrides)))
    together = outcome(lambda: composer_here.resolve(overrides, sources(overrides)))
    assert repr(together) == repr(alone)


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=linked", "seed=5"],
        ["experiment=linked", "~warm_start"],
        ["warm_start.seed=${rl.steps}", "rl.steps=${checkpoint.every}"],
        ["experiment=ease", "auxiliary.ease.target=hard_box", "seed=1"],
        [],
    ],
)
def test_a_sound_run_is_put_together_from_sections(composer_here, overrides, monkeypatch):
    monkeypatch.delattr(Composer, "_whole")
    assert repr(composer_here.resolve(overrides, sources(overrides))) == repr(resolve(overrides))


@pytest.fixture(scope="module")
def composer_here(tmp_path_factory):
    """One composer in a project whose conf files refer from section to section."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "conf/experiment").mkdir(parents=True)
    (folder / "conf/experiment/linked.yaml").write_text(
        "# @package _global_\n"
        "rl:\n  steps: ${seed}\n"
        "warm_start:\n  steps: ${rl.steps}\n  seed: ${rl.steps}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Composer()


def test_sections_that_no_override_touches_are_built_once():
    fast = Composer()
    one = fast.resolve(["experiment=ease", "seed=1"], ["a", "b"])
    two = fast.resolve(["experiment=ease", "seed=2", "rollout.group_size=6"], ["a", "b", "c"])
    shared = {name for name in field_types(RunSpec) if getattr(one, name) is getattr(two, name)}
    assert shared == field_types(RunSpec).keys() - {"seed", "rollout"}


def test_what_one_run_sets_does_not_leak_into_the_next(project):
    fast = Composer()
    first = fast.resolve(["auxiliary.ease=ease", "mix.datasets.b=digits_vqa"], ["a", "b"])
    second = fast.resolve(["rl.steps=3"], ["a"])
    assert list(first.auxiliary) == ["ease"]
    assert (dict(second.auxiliary), list(second.mix.datasets)) == ({}, ["main"])


def test_a_plugin_named_by_a_later_run_is_loaded(project, registry):
    (project / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from vexp.credit.uniform import Uniform\n"
        "from vexp.registry import register\n"
        "@register('credit', 'mine')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Uniform):\n    share: float = 0.5\n"
    )
    fast = Composer()
    with pytest.raises(ConfigError, match="unknown credit 'mine'"):
        fast.resolve(["credit=mine"], ["here"])
    overrides = ["plugins=[mine.py]", "credit=mine"]
    assert fast.resolve(overrides, ["a", "b"]).credit.name == "mine"
