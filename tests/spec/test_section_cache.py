"""A function of a run is called again when, and only when, a section that it read is another."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vexp.errors import DataError
from vexp.spec.problems import problems_of
from vexp.spec.resolve import resolve
from vexp.spec.run import RL, Compute, Prompt, RunSpec, replace
from vexp.spec.section_cache import SectionCache

PROMPTS = [Prompt(system=text) for text in ("", "one", "two")]
PARTS = [RL(steps=steps) for steps in (1, 2)]


@pytest.fixture(scope="module")
def base() -> RunSpec:
    return resolve([])


def either(run):
    """Reads `rl` only where the prompt says so."""
    return (run.prompt.system, run.rl.steps if run.prompt.system == "one" else None)


@given(st.lists(st.tuples(st.sampled_from(PROMPTS), st.sampled_from(PARTS), st.integers(0, 3))))
def test_it_is_the_function_called_once_for_what_it_reads(base, drawn):
    called = []
    remembered = SectionCache(lambda run: called.append(1) or either(run))
    for prompt, rl, seed in drawn:
        run = replace(base, prompt=prompt, rl=rl, seed=seed)
        assert remembered(run) == either(run)
    read = {(p.system, rl.steps if p.system == "one" else None) for p, rl, _ in drawn}
    assert len(called) == len(read)


def test_an_equal_section_is_looked_at_again(base):
    called = []
    remembered = SectionCache(lambda run: called.append(1) or run.rl.steps)
    for _ in range(2):
        assert remembered(replace(base, rl=RL(steps=7))) == 7
    assert len(called) == 2  # who it is counts, not what it equals: 1 equals 1.0 and true


@pytest.mark.parametrize(
    "function",
    [
        lambda run: run.processes,
        lambda run: list(run.emits("rl")),
        lambda run: [path for path, _ in run.components()],
        lambda run: problems_of(run),
    ],
)
def test_methods_and_properties_of_a_run_count_by_the_sections_that_they_read(base, function):
    called = []
    remembered = SectionCache(lambda run: called.append(1) or function(run))
    for seed in (1, 2, 3):
        run = replace(base, seed=seed)
        assert remembered(run) == function(run)
    assert len(called) == 1
    run = replace(base, compute=Compute(processes=2), credit=resolve(["experiment=ease"]).credit)
    assert remembered(run) == function(run)


@pytest.mark.parametrize(
    "function",
    [
        lambda run: run == replace(run, seed=1) and run.seed,
        lambda run: [path for path, _ in run.components()] + [run.seed],
        lambda run: (dataclasses.replace(run, seed=9).rl, run.seed),
        lambda run: run.seed if isinstance(run, RunSpec) else None,
        lambda run: vars(run).get("seed"),
        lambda run: (vars(run)["seed"], run.rl),
        lambda run: {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}["seed"],
    ],
)
def test_one_that_reads_a_run_in_another_way_is_called_each_time(base, function):
    remembered = SectionCache(function)
    for seed in (1, 2, 1, 3):
        run = replace(base, seed=seed)
        assert remembered(run) == function(run)


def test_its_errors_are_its_own(base):
    def fails(run):
        raise DataError(f"no data for {run.seed}")

    remembered = SectionCache(fails)
    for seed in (1, 2):
        with pytest.raises(DataError, match=f"no data for {seed}"):
            remembered(replace(base, seed=seed))
