"""`vexp search best | pareto | importance`, and the other commands about a sweep with a search."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from tests.sweeps.fabricate import publish, score
from tests.sweeps.test_search_chain import search
from tests.sweeps.test_search_journal import Nobody
from vexp.cli.main import main
from vexp.runs.claim import acquire
from vexp.sweeps.launch import launch
from vexp.sweeps.search import propose

TWO = "[{metric: accuracy}, {metric: length, direction: minimize}]"


@pytest.fixture
def run(capsys):
    """A function that runs a command line: its exit code, output and errors."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def found(plan, fabricate):
    """A function: a search whose trials are complete, but for the last; its plan."""

    def make(text, total):
        launch(plan(text), Nobody())
        for _ in range(total):
            propose.propose(plan(text).state)
        now = plan(text)
        for number, planned in enumerate(now.runs):
            claim = acquire(fabricate.store.runs_dir / planned.name)
            if number == total - 1:
                claim.release("pruned")
                continue
            spec = planned.training.run
            quality = math.exp(-abs(math.log10(spec.rl.learning_rate) + 4))
            publish(claim, spec)
            length = abs(math.log10(spec.rl.learning_rate) + 5)
            score(fabricate.store, spec, {"accuracy": quality, "length": length})
        return plan(text)

    return make


def best_of(plan):
    scored = [(now.values[0], -n) for n, now in enumerate(plan.search.outcomes) if now.values]
    return -max(scored)[1]


def test_best(found, run, project):
    plan = found(search(6, "random"), 6)
    code, out, _ = run("search", "best", "small.yaml", "--json", "--top", "2")
    content = json.loads(out)
    assert code == 0
    assert content["found"][0]["trial"] == best_of(plan)
    assert len(content["found"]) == 2
    assert content["trials"] == {"complete": 5, "pruned": 1, "failed": 0, "live": 0, "open": 0}
    code, out, _ = run("search", "best", "small.yaml", "--plot", "plots/history.png")
    assert code == 0
    assert f"trial {best_of(plan)} by hand: vexp run" in out
    assert (project / "plots/history.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_trial_by_hand_is_that_run(found, run):
    plan = found(search(4, "random"), 4)
    _, out, _ = run("search", "best", "small.yaml")
    line = next(line for line in out.splitlines() if "by hand: vexp run" in line)
    import shlex

    overrides = shlex.split(line.partition("vexp run ")[2])
    _, shown, _ = run("show", *overrides, "--json")
    assert json.loads(shown)["id"] == plan.search.trials[best_of(plan)].runs[0].run


def test_pareto(found, run, project):
    text = search(8, "random").replace("[{metric: accuracy}]", TWO)
    plan = found(text, 8)
    code, out, _ = run("search", "pareto", "small.yaml", "--json", "--plot", "front.svg")
    assert code == 0
    content = json.loads(out)
    values = {n: now.values for n, now in enumerate(plan.search.outcomes) if now.values}
    beaten = {
        n for n, (a, b) in values.items()
        if any(x >= a and y <= b and (x, y) != (a, b) for x, y in values.values())
    }  # fmt: skip
    assert {each["trial"] for each in content["found"]} == values.keys() - beaten
    assert "<svg" in (project / "front.svg").read_text()
    code, _, err = run("search", "best", "small.yaml")
    assert (code, "has no best trial" in err, "search pareto" in err) == (1, True, True)


def test_importance_finds_the_key_that_matters(found, run, project):
    rates, sizes = (1e-6, 1e-5, 1e-4, 1e-2), (2, 4)
    points = [{"rl.learning_rate": x, "rollout.group_size": n} for x in rates for n in sizes]
    text = search(9, "list").partition("  space:")[0]
    found(f"{text}  points: {json.dumps([*points, {**points[0], 'rollout.group_size': 8}])}\n", 9)
    code, out, _ = run("search", "importance", "small.yaml", "--json", "--plot", "i.png")
    assert code == 0
    (shares,) = json.loads(out)["importances"].values()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["rl.learning_rate"] > 0.7
    assert (project / "i.png").stat().st_size > 1000
    code, out, _ = run("search", "importance", "small.yaml")
    assert "rl.learning_rate" in out


def test_plan_status_and_table_of_a_search(found, run):
    text = search(4, "random") + "table: {columns: [{metric: accuracy, evaluator: dev}]}\n"
    plan = found(text, 3)
    code, out, _ = run("plan", "small.yaml")
    assert "3 declared: 2 done, 1 pruned" in out
    assert "4 trials: 2 complete, 1 pruned, 1 to be proposed" in out
    code, out, _ = run("status", "small.yaml", "--json")
    assert [row["state"] for row in json.loads(out)["runs"]] == ["done", "done", "pruned"]
    code, out, _ = run("status", "small.yaml")
    assert "pruned" in out
    code, out, err = run("table", "small.yaml", "--format", "json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    values = [now.values[0] for now in plan.search.outcomes if now.values]
    means = [cell.get("mean") for row in rows for cell in row["cells"]]
    assert [mean for mean in means if mean is not None] == pytest.approx(values)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "best", "small.yaml"), "no trial of this search is complete yet"),
        (("search", "importance", "small.yaml"), "no trial of this search is complete yet"),
        (("search", "pareto", "small.yaml"), "this search has one"),
        (("search", "best", "small.yaml", "--plot", "x.gif"), "cannot plot to .gif"),
        (("search", "best", "quickstart"), "has no search"),
    ],
)
def test_what_cannot_be_answered_is_one_message(sweep, run, arguments, said):
    sweep(search(4))
    code, _, err = run(*arguments)
    assert code in (1, 2)
    assert said in err


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_a_launcher_that_proposes_no_trials_is_refused_before_anything_starts(
    sweep, run, project, registry, command
):
    plugin = project / "plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from vexp.launcher.local import Local\n"
        "from vexp.registry import register\n"
        "@register('launcher', 'simple')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Simple(Local):\n"
        "    searches = False\n"
    )
    path = sweep(search(4, "random"))
    code, _, error = run(command, str(path), "plugins=[plugin.py]", "launcher=simple")
    assert (code, "cannot run a search" in error) == (2, True)
    assert not (project / "results").exists()


def test_commands_of_sweeps_without_a_search_do_not_import_optuna(sweep):
    sweep()
    code = (
        "import sys\nfrom vexp.cli.main import main\n"
        "try: main(['plan', 'small.yaml'])\nexcept SystemExit: pass\n"
        "assert 'optuna' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_report_of_a_search_shows_its_trials(found, run, project):
    plan = found(search(4, "random"), 4)
    code, out, err = run("report", "small.yaml")
    assert (code, err) == (0, "")
    (page,) = (project / "results/tables").glob("*.html")
    assert page.name in out
    text = page.read_text()
    scored = [number for number, run in enumerate(plan.runs) if run.state == "done"]
    assert len(scored) == 3
    assert all(f">trial {number}</th><td>" in text for number in scored)
