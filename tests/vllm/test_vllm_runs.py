"""Runs with vLLM: a switch of engines, one update late, several processes."""

from __future__ import annotations

import json

import pytest

from tests.vllm.test_vllm_engine import RUN, SMALL, ends_early
from vexp.engine import _vllm
from vexp.engine._vllm_server import Server
from vexp.engine.hf import HF
from vexp.errors import EngineFailed
from vexp.runs import engine_switch
from vexp.runs.execute import execute
from vexp.runs.store import RunStore
from vexp.runs.workspace import SilentReporter
from vexp.spec.resolve import resolve
from vexp.train import off_policy
from vexp.train.checkpoint import State
from vexp.train.learner import make_learner
from vexp.train.timing import Clock

LEARNS = (
    "reward.terms.short={name:overlong,buffer:10}",
    "rollout.max_response_length=10",
    "rl.learning_rate=1e-3",
)
VLLM = ("engine=vllm", *SMALL)
APART = (*VLLM, "engine.separate=true")


def rows_of(store):
    (run,) = store.runs()
    path = run.folder / "attempts" / f"{run.published():04d}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_whose_vllm_broke_down_goes_on_with_hf(tmp_path, monkeypatch):
    more = ("rl.steps=4", "checkpoint.every=1", f"results_dir={tmp_path}")
    run, store = resolve([*RUN, *LEARNS, *VLLM, *more]), RunStore(tmp_path)
    plain, asked = Server.answer, []

    def breaks(self, *arguments):
        asked.append(1)
        if len(asked) == 3:
            raise RuntimeError("the kernel is gone")
        return plain(self, *arguments)

    monkeypatch.setattr(Server, "answer", breaks)
    with pytest.raises(EngineFailed, match="the kernel is gone") as caught:
        execute(run, reporter=SilentReporter(), store=store, evaluate=False)
    assert "--switch engine=hf" in str(caught.value)
    assert [status.state for status in store.statuses()] == ["stopped"]
    outcome = execute(run, reporter=SilentReporter(), store=store, evaluate=False, engine=HF())
    assert outcome.state == "finished"
    told = "mixed: engine=hf from step 3 on (engine=vllm before)"
    assert engine_switch.mixed(outcome.run.folder) == told
    assert [row["step"] for row in rows_of(store)] == [1, 2, 3, 4]
    assert _vllm._live is None  # a run that is over keeps no engine


def test_one_update_late_the_engine_supports_prefetch_and_everything_stays_the_same(monkeypatch):
    found, begun = {}, []
    plain = _vllm._Subprocess.prefetch

    def prefetch(self, asked):
        begun.append(asked.sampling.step)
        plain(self, asked)

    monkeypatch.setattr(_vllm._Subprocess, "prefetch", prefetch)
    for name, engine in (("hf", ()), ("here", VLLM), ("apart", APART)):
        run = resolve([*RUN, *LEARNS, *engine, "rl.staleness=1", "rl.steps=4"])
        learner, state = make_learner(run, None, None, "cpu"), State()
        ends_early(learner.policy)
        late = off_policy.pending(learner, state, None)
        tokens, rows = [], []
        for _ in range(4):
            tokens.append(late.batch.experience.tokens.tolist())
            state, late = off_policy.off_policy_step(learner, state, late, Clock())
            rows.append(state.metrics)
        found[name] = tokens, rows
        run.engine.close()
    assert begun == [2, 3, 4]
    for name in ("here", "apart"):
        assert found[name][0] == found["hf"][0]
        for one, other in zip(found[name][1], found["hf"][1], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert one["mismatch/max"] < 1e-5
    assert found["hf"][1][2]["kl_sampling"] > 1e-8


def test_each_process_of_a_run_has_an_engine_beside_it(tmp_path):
    found = {}
    for name, engine in (("hf", ()), ("apart", (*APART, "compute.processes=2"))):
        more = ("rl.steps=2", f"results_dir={tmp_path / name}")
        store = RunStore(tmp_path / name)
        run = resolve([*RUN, *LEARNS, *engine, *more])
        execute(run, reporter=SilentReporter(), store=store, evaluate=False)
        found[name] = rows_of(store)
    assert len(found["apart"]) == 2
    for one, other in zip(found["hf"], found["apart"], strict=True):
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-6)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
