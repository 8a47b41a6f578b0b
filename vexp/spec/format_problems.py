"""An answer format that is rewarded, and that nothing tells the model of.

A model that follows instructions answers in the form it is asked for. Where no supervised stage
teaches the form and no prompt names it, right answers are judged wrong, and training learns nothing
or learns to guess the form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vexp.errors import DataError, Problem

if TYPE_CHECKING:
    from vexp.dataset.base import Dataset
    from vexp.spec.run import RunSpec

# What a prompt that asks for an answer format has in it.
MARKS = {"think_boxed": ("<think>", "\\boxed"), "answer_tag": ("<answer>",)}
# Any of these makes an answer readable for the verifiers.
READABLE = ("\\boxed", "<answer>", "answer:")
INSTRUCTIONS = {
    # EasyR1's examples/format_prompt/math.jinja
    "think_boxed": "You FIRST think about the reasoning process as an internal monologue and then "
    "provide the final answer. The reasoning process MUST BE enclosed within <think> </think> "
    "tags. The final answer MUST BE put in \\boxed{}.",
    # the same with the other tags
    "answer_tag": "You FIRST think about the reasoning process as an internal monologue and then "
    "provide the final answer. The reasoning process MUST BE enclosed within <think> </think> "
    "tags. The final answer MUST BE put in <answer> </answer> tags.",
}
_LOOKED_AT = 4  # questions of a dataset


def format_problems(run: RunSpec) -> Iterator[Problem]:
    """The parts of a run that read an answer format of which its prompts say nothing.

    Only of runs that begin with reinforcement learning of a model that follows instructions: a
    twin learns the format from demonstrations, and so does a run with a supervised stage.
    """
    if run.stages != ("rl",) or not run.backbone.follows_instructions:
        return
    if not (reader := _reader(run)):
        return
    chosen = run.prompt.response_format
    yield Problem(
        f"{reader}, and neither the prompt nor the questions ask for that form; an answer in any "
        "other form counts as wrong",
        where="prompt.instruction and prompt.system",
        accepted=f"a text with {' and '.join(MARKS[chosen])}, as prompt.response_format={chosen}",
        remedy=f"set 'prompt.instruction=\"{INSTRUCTIONS[chosen]}\"', or your own words",
    )


def _reader(run: RunSpec) -> str:
    """What reads an answer in a form that is not asked for; empty if there is nothing."""
    chosen = run.prompt.response_format
    format_paid = [
        name for name, term in run.reward.terms.items() if term.name == "format" and term.weight
    ]
    if format_paid and _unnamed(run, MARKS[chosen], every=True):
        return f"reward.terms.{format_paid[0]} pays for the format {chosen}"
    if run.rollout.stop == "answer" and _unnamed(run, MARKS[chosen][-1:], every=True):
        return f"rollout.stop=answer ends a response with an answer in the format {chosen}"
    if run.verifier.reads_format and _unnamed(run, READABLE, every=False):
        return (
            f"verifier {run.verifier.name!r} looks for the answer in \\boxed{{}}, in <answer> tags "
            'or in a last line "Answer: ..."'
        )
    return ""


def _unnamed(run: RunSpec, marks: Sequence[str], *, every: bool) -> bool:
    """Whether prompts lack the marks: some of them, or with `every` false all of them."""
    wanted = all if every else any
    own = f"{run.prompt.system}\n{run.prompt.instruction}".lower()
    texts = [own]
    if not wanted(mark in own for mark in marks):
        texts = [f"{own}\n{text}".lower() for d in run.mix.datasets.values() for text in _some(d)]
    return any(not wanted(mark in text for mark in marks) for text in texts)


def _some(dataset: Dataset) -> list[str]:
    """A few training questions; none where they cannot be read, which others report."""
    try:
        count = min(_LOOKED_AT, dataset.size("train"))
        return [dataset.question_of("train", index) for index in range(count)]
    except DataError:
        return []
