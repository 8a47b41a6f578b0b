"""Composition: Hydra's groups and grammar, origins, and names that change after keys were set."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vexp.annotate.compose import resolve as resolve_annotation
from vexp.config.compose import compose
from vexp.config.merge import flat
from vexp.config.schema import to_dict
from vexp.errors import ConfigError
from vexp.paths import shipped
from vexp.registry import KINDS, REGISTRY
from vexp.spec.resolve import resolve


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def problems(overrides, **kwargs):
    with pytest.raises(ConfigError) as error:
        resolve(overrides, **kwargs)
    return error.value.problems


def test_the_base_config_resolves():
    run = resolve([])
    assert run.algorithm.name == "grpo"
    assert run.mix.datasets["main"].name == "digits_vqa"
    assert set(run.reward.terms) == {"accuracy", "format"}


def test_group_value_and_nested_overrides():
    run = resolve(
        ["algorithm=dapo", "algorithm.clip_high=0.3", "seed=7", "reward.terms.format.weight=0",
         "+reward.terms.overlong=overlong", "~evaluator.heldout", "tracker.t=tensorboard",
         "mix.datasets.main=digits_vqa_large"]
    )  # fmt: skip
    assert (run.algorithm.name, run.algorithm.clip_high, run.seed) == ("dapo", 0.3, 7)
    assert run.reward.terms["format"].weight == 0
    assert "overlong" in run.reward.terms
    assert run.evaluator == {}
    assert run.tracker["t"].name == "tensorboard"
    large, small = run.mix.datasets["main"], resolve([]).mix.datasets["main"]
    assert type(large) is type(small) and large != small


def test_overlay_and_user_override_of_the_same_group():
    assert resolve(["experiment=dapo"]).group_filter.name == "dynamic_sampling"
    assert resolve(["experiment=dapo", "algorithm=grpo"]).algorithm.name == "grpo"


def test_origins_name_file_line_and_override(project):
    write(
        project,
        "conf/experiment/mine.yaml",
        """\
        # @package _global_
        rl:
          steps: 5
        algorithm: {clip_low: 0.1}
        """,
    )
    composed = compose(["experiment=mine", "rl.learning_rate=1e-6"])
    text = {".".join(key): str(origin) for key, origin in composed.origins.items()}
    assert text["rl.steps"] == "conf/experiment/mine.yaml:3"
    assert text["algorithm.clip_low"] == "conf/experiment/mine.yaml:4"
    assert text["rl.learning_rate"] == "override `rl.learning_rate=1e-6`"
    assert composed.values["rl"]["learning_rate"] == 1e-6


def test_all_problems_at_once_with_origin_and_close_match(project):
    write(
        project,
        "conf/experiment/bad.yaml",
        """\
        # @package _global_
        rl:
          stepz: 5
        rollout: {temperature: 010}
        """,
    )
    found = problems(["experiment=bad", "+rl.learning_rte=1", "seed=x", "rollout.top_p=2"])
    text = str(ConfigError(found))
    assert len(found) == 5
    assert "did you mean 'steps'" in text and "conf/experiment/bad.yaml:3" in text
    assert "the text '010'" in text and "conf/experiment/bad.yaml:4" in text
    assert "did you mean 'learning_rate'" in text and "`+rl.learning_rte=1`" in text
    assert "seed, set by override `seed=x`" in text
    assert "in [0, 1]" in text


def test_unknown_options_are_all_reported_with_matches():
    found = problems(["algorithm=grop", "credit=unifrom", "experiment=dpao"])
    assert [p.what for p in found] == [
        "unknown algorithm 'grop'", "unknown credit 'unifrom'", "unknown experiment 'dpao'",
    ]  # fmt: skip
    assert "did you mean 'grpo'" in found[0].accepted
    assert "override `credit=unifrom`" in found[1].where
    assert "did you mean 'dapo'" in found[2].accepted


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed", "not an override"),
        ("seed=1,2", "names several values"),
        ("rl.steps=range(1,5)", "names several values"),
        ("=3", "no key"),
        ("algorithm={clip_low: 1}", "takes the name of an option"),
        ("~nothing", "no 'nothing' to delete"),
        ("rl.learning_rate=${oc.env:HOME}", "not accepted"),
        ("rl.steps=${rl.stepz}", "not set"),
        ("rl.steps=${rl.steps}", "refers to itself"),
        ("results_dir=3", "expected text"),
        ("stages=[rl,rl]", "listed twice"),
        ("stages=[rl,warm_start]", "first stage"),
        ("stages=[rl,anchor]", "last stage"),
        ("rollout.group_size=1", "no baseline"),
        ("rl.prompts_per_update=5", "not a multiple"),
        ("reward.terms={}", "there is no reward"),
    ],
)
def test_bad_overrides_are_named(override, what):
    (problem,) = problems([override])
    assert what in problem.what
    assert f"override `{override}`" in problem.where


def test_interpolation_keeps_types_and_reaches_defaults():
    run = resolve(["warm_start.seed=${seed}", "seed=4", "results_dir=out/${seed}"])
    assert (run.warm_start.seed, run.results_dir) == (4, "out/4")
    assert resolve(["warm_start.seed=${seed}"]).warm_start.seed == 1


def test_name_changed_after_files_set_its_keys(project):
    write(
        project,
        "conf/experiment/e.yaml",
        """\
        # @package _global_
        defaults:
          - override /algorithm: gspo
        algorithm: {clip_high: 0.01}
        """,
    )
    assert resolve(["experiment=e"]).algorithm.clip_high == 0.01
    for change in ("algorithm=dapo", "algorithm.name=dapo"):
        assert resolve(["experiment=e", change]).algorithm.clip_high == 0.28
    kept = resolve(["experiment=e", "algorithm=dapo", "algorithm.clip_high=0.5"])
    assert kept.algorithm.clip_high == 0.5


def test_user_keys_of_another_component_fail(project):
    found = problems(["group_filter=none", "group_filter.low=0.2"])
    assert "group_filter 'none' has no setting 'low'" in found[0].what
    assert "override `group_filter.low=0.2`" in found[0].where


def test_yaml_variant_is_an_option_everywhere(project):
    write(project, "conf/algorithm/gentle.yaml", "name: dapo\nclip_high: 0.21\n")
    assert resolve(["algorithm=gentle"]).algorithm.clip_high == 0.21
    assert resolve(["algorithm.name=gentle"]).algorithm.clip_high == 0.21
    assert resolve(["algorithm=gentle", "algorithm.clip_low=0.1"]).algorithm.clip_low == 0.1
    other = project / "more"
    write(other, "algorithm/gentle.yaml", "name: dapo\nclip_high: 0.25\n")
    assert resolve(["algorithm=gentle"], config_dirs=[other]).algorithm.clip_high == 0.25
    (problem,) = problems(["algorithm=gentel"])
    assert "did you mean 'gentle'" in problem.accepted


def test_missing_config_dir():
    (problem,) = problems([], config_dirs=["nowhere"])
    assert "'nowhere' does not exist" in problem.what


PLUGIN = '''
from dataclasses import dataclass
from vexp.credit.base import CreditMethod
from vexp.registry import register

@register("credit", "halved")
@dataclass(frozen=True, kw_only=True)
class Halved(CreditMethod):
    """Half of everything."""
    share: float = 0.5  # of the outcome advantage

    def advantages(self, outcome, experience):
        return self.share * outcome[:, None] * experience.mask
'''


def test_plugin_by_path_from_override_and_from_a_file(project, registry):
    write(project, "halved.py", PLUGIN)
    run = resolve(["plugins=[halved.py]", "credit=halved", "credit.share=0.25"])
    assert run.credit.share == 0.25
    assert run.plugins == (str(project / "halved.py"),)
    registry._classes.pop(("credit", "halved"))
    registry._plugins.clear()
    write(
        project,
        "conf/experiment/mine.yaml",
        """\
        # @package _global_
        defaults:
          - override /credit: halved
        plugins: [halved.py]
        """,
    )
    assert resolve(["experiment=mine"]).credit.name == "halved"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import nowhere_at_all\n", "ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError"),
        (
            PLUGIN.replace("frozen=True, kw_only=True", "frozen=True"),
            "must be frozen and keyword-only",
        ),
        (PLUGIN.replace("CreditMethod)", "object)"), "must be a subclass"),
        (PLUGIN.replace('"credit", "halved"', '"credits", "halved"'), "unknown kind 'credits'"),
        (PLUGIN.replace('"halved")', '"uniform")'), "two components are called credit 'uniform'"),
    ],
)
def test_broken_plugins_are_named(project, registry, text, what):
    registry.get("credit", "uniform")
    path = write(project, "broken.py", text)
    (problem,) = problems(["plugins=[broken.py]"])
    assert what in problem.what and (str(path) in str(problem) or "broken.py" in str(problem))
    (problem,) = problems(["plugins=[none.py]"])
    assert "does not exist" in problem.what


def test_entry_point_components(project, registry, monkeypatch):
    package = project / "site"
    write(package, "vexp_halved.py", PLUGIN)
    info = package / "vexp_halved-1.0.dist-info"
    write(info, "METADATA", "Metadata-Version: 2.1\nName: vexp-halved\nVersion: 1.0\n")
    write(info, "entry_points.txt", "[vexp.components]\nhalved = vexp_halved\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setattr(REGISTRY, "_entry_points_read", False)
    assert resolve(["credit=halved"]).credit.share == 0.5


VALUES = st.one_of(
    st.integers(0, 1000).map(str), st.sampled_from(["1e-6", "off", "010", "12:30:45", "x", "true"])
)
KEYS = [
    "seed",
    "rl.steps",
    "rollout.temperature",
    "warm_start.learning_rate",
    "results_dir",
    "new.key",
]


@settings(max_examples=30, deadline=None)
@given(
    groups=st.fixed_dictionaries(
        {}, optional={
            "algorithm": st.sampled_from(["dapo", "gspo", "dr_grpo"]),
            "group_filter": st.sampled_from(["none", "dynamic_sampling"]),
            "experiment": st.just("dapo"),
        }
    ),
    values=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
)  # fmt: skip
def test_merge_equals_hydras_own_composition(groups, values):
    overrides = [f"{k}={v}" for k, v in groups.items()]
    ours = compose([*overrides, *(f"++{k}={v}" for k, v in values.items())]).values
    GlobalHydra.instance().clear()
    for kind in KINDS:
        for name in REGISTRY.names(kind):
            ConfigStore.instance().store(group=kind, name=name, node={"name": name})
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        theirs = hydra_compose("config", [*overrides, *(f"++{k}={v}" for k, v in values.items())])
    expected = dict(flat(OmegaConf.to_container(theirs)))
    found = dict(flat(ours))
    assert {".".join(k): v for k, v in found.items()} == {
        ".".join(k): v for k, v in expected.items()
    }


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_resolved_configs_survive_their_own_dict(data):
    from vexp.config.schema import build
    from vexp.spec.run import RunSpec

    names = {
        kind: data.draw(st.sampled_from(REGISTRY.names(kind)))
        for kind in ("algorithm", "credit", "group_filter", "verifier")
    }
    assume(names["group_filter"] != "replay" or names["credit"] == "uniform")  # they conflict
    run = resolve([f"{kind}={name}" for kind, name in names.items()])
    assert build(RunSpec, to_dict(run)) == run


def test_composing_everything_imports_no_torch(tmp_path):
    """In an interpreter in which importing torch, transformers or numpy fails."""
    code = """
        import sys
        for name in ("torch", "transformers", "accelerate", "numpy", "sklearn", "PIL"):
            sys.modules[name] = None
        from vexp.spec.resolve import resolve
        from vexp.spec.identity import training_id
        from vexp.registry import KINDS, REGISTRY
        for kind in KINDS:
            for name in REGISTRY.names(kind):
                REGISTRY.get(kind, name)
        print(training_id(resolve(["experiment=dapo"])).name)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dapo-digits_vqa-s1-")


def test_every_shipped_conf_file_composes():
    conf = shipped("conf")
    for path in sorted(conf.glob("*/*.yaml")):
        group, option = path.parent.name, path.stem
        if group in ("dataset",):
            resolve([f"mix.datasets.main={option}"])
        elif group in ("reward", "evaluator", "tracker"):
            resolve([f"{group}.{'terms.' if group == 'reward' else ''}x={option}"])
        elif group == "annotation":
            resolve_annotation([f"annotation={option}"])
        else:
            assert group in KINDS or group in ("experiment", "scale"), path
            resolve([f"{group}={option}"])


def test_problems_of_overrides_and_of_values_are_reported_together(project):
    found = problems(
        ["credit=uniformm", "credit.x=1", "rl.steps=abc", "seed=1,2", "rollout.top_p=2", "+rl.a=1"]
    )
    text = "\n".join(str(problem) for problem in found)
    for part in ("'uniformm'", "rl.steps", "several values", "rollout.top_p", "'a'"):
        assert part in text
    assert "credit.x" not in text  # below an unknown component nothing can be judged


UNSAID = """
from dataclasses import dataclass
from vexp.credit.uniform import Uniform
from vexp.registry import register

@register("credit", "unsaid")
@dataclass(frozen=True, kw_only=True)
class Unsaid(Uniform):
    needs = ("attention", "counterfactual_kl")
"""


def test_a_component_has_to_say_which_layer_and_which_distortion_it_needs(project, registry):
    write(project, "unsaid.py", UNSAID)
    found = [problem.what for problem in problems(["plugins=[unsaid.py]", "credit=unsaid"])]
    assert len(found) == 2
    assert "no field `layer`" in found[0]
    assert "no field `distortion`" in found[1]


def test_a_layer_that_the_backbone_lacks_is_refused_naming_both(project):
    overrides = ["+auxiliary.ease=ease", "auxiliary.ease.layer={name: index, value: 6}"]
    (problem,) = problems(overrides)
    assert "6 decoder layers" in problem.what
    assert "auxiliary.ease.layer" in problem.where and "backbone" in problem.where
    assert resolve([*overrides, "auxiliary.ease.layer.value=5"]).auxiliary["ease"].layer.value == 5


def test_attention_losses_need_boxes(project):
    write(project, "data.jsonl", '{"question": "q", "answer": "1"}\n')
    data = [
        "mix.datasets.main={name: table, path: data.jsonl}",
        "stages=[rl]",
        "~evaluator.heldout",
    ]
    found = [str(p) for p in problems([*data, "+auxiliary.ease=ease"])]
    assert any("boxes" in text for text in found)


def test_null_leaves_an_optional_group_out(project):
    assert resolve(["experiment=null"]) == resolve([])
    assert resolve(["scale=null"]) == resolve(["~scale"]) != resolve([])


def test_nothing_remains_of_a_choice_that_is_deleted():
    """Neither do the settings that other files have for it."""
    found = resolve_annotation(["annotation=ease", "dataset=digits_vqa", "~validator"])
    assert found.validator is None and found.extractor.endpoint.model == "gpt-4.1-mini"
    with pytest.raises(ConfigError, match="'algorithm' has to be set"):
        resolve(["experiment=dapo", "~algorithm"])


@pytest.mark.parametrize(
    ("listed", "what"),
    [
        ("[{override /backbone: '${oc.env:SECRET}'}]", "not accepted in a defaults list"),
        ("[{/backbone@b: 'a${oc.env:SECRET}'}]", "not accepted in a defaults list"),
        ("[{'/${oc.env:SECRET}': x}]", "not accepted in a defaults list"),
        ("['${oc.decode:SECRET}']", "not accepted in a defaults list"),
        ("[{override /backbone: '${oc.env:SECRET'}]", "not accepted in a defaults list"),
        ("[{override /backbone: ['${oc.env:SECRET}']}]", "not accepted in a defaults list"),
        ("{a: b}", "is a list of options"),
        ("[[a]]", "is a list of options"),
        ("[{a: b, c: d}]", "is a list of options"),
        ("[3]", "is a list of options"),
        ("[null]", "is a list of options"),
        ("[{a: [1]}]", "is a list of options"),
        ("[mine]", "lead back to themselves"),
    ],
)
def test_defaults_lists_ask_no_resolver(project, monkeypatch, listed, what):
    monkeypatch.setenv("SECRET", "hunter2")
    write(project, "conf/experiment/mine.yaml", f"# @package _global_\ndefaults: {listed}\n")
    (problem,) = problems(["experiment=mine"])
    assert what in problem.what
    assert "hunter2" not in str(problem)
    assert "mine.yaml:2" in problem.where or what == "lead back to themselves"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# @package\nrl: {steps: 1}", "this header is not understood"),
        ("# @package _global_\nhydra: {searchpath: ['file:///etc']}", "no setting 'hydra'"),
        ("# @package _global_\nrl: {_target_: os.system}", "no setting '_target_'"),
        (f"# @package _global_\nunread: {'[' * 100_000}", "more than 100 levels"),
    ],
)
def test_nothing_of_hydra_is_reached_from_a_conf_file(project, text, what):
    write(project, "conf/experiment/mine.yaml", text)
    (problem,) = problems(["experiment=mine"])
    assert what in problem.what


def test_another_groups_choice_may_be_referred_to(project):
    for group in ("one", "two"):
        write(project, f"conf/{group}/dapo.yaml", "# @package _global_\nrl: {steps: 3}\n")
    lists = "defaults: [{/one: dapo}, {/two: '${one}'}, {override /algorithm: '${one}'}]"
    write(project, "conf/experiment/mine.yaml", f"# @package _global_\n{lists}\n")
    assert resolve(["experiment=mine"]).algorithm.name == "dapo"


@pytest.mark.parametrize("stage", ["rl", "warm_start"])
def test_a_floor_of_a_constant_learning_rate_is_refused(project, stage):
    constant, floor = f"{stage}.schedule=constant", f"{stage}.min_lr_ratio=0.1"
    with pytest.raises(ConfigError, match=f"stage '{stage}' never falls to 0.1 of itself"):
        resolve([constant, floor])
    assert resolve([floor, f"{stage}.schedule=cosine"])
    assert resolve([constant, f"{stage}.min_lr_ratio=0"])


def test_a_stage_that_does_not_run_may_have_any_floor(project):
    assert resolve(["stages=[rl]", "warm_start.min_lr_ratio=0.1"])
