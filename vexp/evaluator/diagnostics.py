"""Where a checkpoint looks while it answers, and which of its tokens depend on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from vexp.config.types import UNHASHED, Count, Positive, PositiveInt
from vexp.diagnostics.gallery import picture
from vexp.distortion.base import Distortion
from vexp.engine.base import Generated
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout, Place, SampleExtras, mean, ratio
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.target.base import Target

if TYPE_CHECKING:
    from torch import Tensor

    from vexp.dataset.base import Item
    from vexp.experience.batch import Experience
    from vexp.policy.policy import Policy
    from vexp.policy.prompts import PromptBatch
    from vexp.spec.run import RunSpec

Metrics = dict[str, dict[str, float | None]]

PLACES = ("image", "query", "response")
# Fields that Heldout lacks.
OWN = ("layer", "visual_layer", "distortion", "target", "kappa", "bins", "points")
# Values of a sample, where they are defined; the metrics of these names are their means.
VALUES = (
    "evidence_mass", "evidence_area", "pointing", "coverage", "coverage_2", "attention_kl",
    "attention/image", "attention/query", "attention/response", "late_early",
    "tas", "attention_ratio", "focus_correlation",
    "grounded_share", "entropy/grounded", "entropy/other", "entropy/gap",
    "grounded_share/high_entropy", "high_entropy_share/grounded",
)  # fmt: skip
# Scores at which the distribution function of grounded scores is kept.
ECDF = (-0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
# Curves of a sample, each value with its number behind: `attention/image/at_1`.
CURVES = (
    *(f"attention/{place}/at" for place in (*PLACES, "evidence")),
    "attention/image/entropy", "attention/evidence/entropy",
)  # fmt: skip
# Shares of a sample, of whose means late_early_focus is the ratio.
FOCUSED = ("focused_late", "focused_early")


@register("evaluator", "diagnostics")
@dataclass(frozen=True, kw_only=True)
class Diagnostics(Heldout):
    """Greedy answers read once more, teacher-forced at temperature 1, for what they look at.

    Beside the metrics of `heldout`, means over the answers for which they are defined:

        evidence_mass, pointing   attention on evidence, its peak on evidence; also by /<tag> (EASE)
        evidence_area             what evidence_mass is for uniform attention
        coverage, coverage_2      boxes with at least `kappa` (2 kappa) times uniform; two or more
        attention_kl              nats from pooled attention to `target`; /spearman correlates it
                                  with correctness; /bin_1, … and wrong/kl_bin_1, … are
                                  KL and share of wrong answers in `bins` of equal count;
                                  /correct and /wrong are its means over such answers
        attention/image, /query,  shares of all attention, which add up to 1; the query is the
          /response               prompt without the image
        tas, attention_ratio      SAYO's target attention score, and its reward before weighting
        late_early                attention/image in the second half of an answer over the first
        late_early_focus          share of an answer that is focused (the 40 % of its tokens most
                                  like the image) and late, over that focused and early, means
                                  over answers; both also /correct and /wrong (VGPO)
        focus_correlation         of a token's likeness to the image with attention/image (VGPO)
        grounded_share            tokens that the image makes likelier by more than 0.2 (VICRA)
        entropy/grounded, /other  in nats, of those and all other tokens; /gap is the difference
          /high_entropy           the same of the 20 % of an answer's tokens with most entropy;
                                  high_entropy_share/grounded is the share of grounded tokens
                                  that are among them (VICRA, fig. 5)
        without_evidence          answers that the metrics of evidence leave out: no image, no box

    With `points`, also curves, each in so many values:

        attention/<place>/at_1, …     in equal parts of an answer, from its start; places are image,
                                      query, response (VGPO, fig. 2, 6) and evidence (SAYO, fig. 4)
        attention/<place>/entropy_1   in equal parts of its tokens ordered by entropy, from low on:
                                      image and evidence (SAYO, fig. 4, 6, 7)
        grounded_score/ecdf_<x>       tokens that the image makes likelier by at most x (VICRA)

    The answers to the first `gallery` questions of each dataset keep what `vexp report` draws: the
    image, its boxes, and each token with its attention on the image.

    Means are over answers, each the mean over its tokens, so that long answers do not weigh more.
    Attention correlates with what was used; it proves nothing, and less so in a model of few
    layers.
    """

    needs = ("boxes",)
    reads = ("attention", "similarity")
    version = 3  # 3: late_early_focus averages shares; it was a ratio of counts
    produces = (
        *Heldout.produces, *VALUES, "without_evidence", "evidence_mass/*", "pointing/*",
        "attention_kl/*", "wrong/*", "late_early/*", "late_early_focus", "late_early_focus/*",
        *(f"{name}_*" for name in CURVES), "grounded_score/*",
    )  # fmt: skip

    size: PositiveInt = 500  # questions per dataset; fewer if the split is smaller
    layer: Layer = slot("layer", "two_thirds")  # whose attention is compared with the evidence
    visual_layer: Layer = slot("layer", "last")  # whose attention on the whole image is measured
    distortion: Distortion = slot("distortion", "discard")  # what grounded tokens are told by
    target: Target = slot("target", "gaussian_mixture")  # what attention_kl measures from
    kappa: Positive = 1.0  # a box is covered from this multiple of uniform attention on
    bins: PositiveInt = 5  # of equal count, by attention_kl; EASE, fig. 3, states no number
    points: Count = 0  # values of a curve; 0: no curves
    gallery: Annotated[Count, UNHASHED] = 8  # questions whose answers can be drawn; no score's part

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        from vexp.config.hashing import plain

        return {**super().protocol(run), **{name: plain(getattr(self, name)) for name in OWN}}

    def metrics(self, samples: list[Sample]) -> Metrics:
        if not samples:
            return {}
        found = super().metrics(samples)
        lacking = [float("evidence_mass" not in sample.values) for sample in samples]
        found["without_evidence"] = mean(lacking)
        for name in (*VALUES, *self._curves()):
            found |= _mean_of(name, samples, name)
        for tag in sorted({sample.tag for sample in samples if sample.tag}):
            tagged = [sample for sample in samples if sample.tag == tag]
            found |= _mean_of("evidence_mass", tagged, f"evidence_mass/{tag}")
            found |= _mean_of("pointing", tagged, f"pointing/{tag}")
        right = [sample for sample in samples if sample.correct == 1]
        wrong = [sample for sample in samples if sample.correct < 1]
        for part, chosen in (("", samples), ("/correct", right), ("/wrong", wrong)):
            for name in ("late_early", "attention_kl"):
                found |= _mean_of(name, chosen, f"{name}{part}")
            known = [s.values for s in chosen if all(name in s.values for name in FOCUSED)]
            found |= ratio(f"late_early_focus{part}", *([v[c] for v in known] for c in FOCUSED))
        return found | _against_outcome(samples, self.bins)

    def _curves(self) -> tuple[str, ...]:
        """The values of all curves, by name."""
        if not self.points:
            return ()
        places = [f"{name}_{number}" for name in CURVES for number in range(1, self.points + 1)]
        return (*places, *_ecdf_names())

    def _looked(
        self,
        policy: Policy,
        run: RunSpec,
        places: Sequence[Place],
        items: Sequence[Item],
        prompts: PromptBatch,
        generated: Generated,
    ) -> Sequence[SampleExtras]:
        from vexp.experience.batch import micro_batches
        from vexp.experience.build import answers
        from vexp.experience.observe import SignalRequest, observe

        nothing = [0.0] * len(items)
        found = answers(run, policy, items, prompts, generated, nothing)
        layers = {layer.index(policy.layers) for layer in (self.layer, self.visual_layer)}
        request = SignalRequest(
            old_logprobs=True,
            entropy=True,
            similarity=True,
            counterfactual={self.distortion: False},
            attention=tuple(sorted(layers)),
        )
        rows = range(len(items))
        portions = micro_batches(rows, rows, run.compute.micro_batch_size)
        seen = observe(found, policy, None, portions, request, temperature=1.0, seed=0, step=0)
        columns = {name: values.tolist() for name, values in self._of(seen).items()}
        return [
            SampleExtras(
                {
                    name: values[row]
                    for name, values in columns.items()
                    if not math.isnan(values[row])
                },
                self._picture(seen, policy, row) if places[row][1] < self.gallery else {},
            )
            for row in rows
        ]

    def _picture(self, seen: Experience, policy: Policy, row: int) -> dict[str, Any]:
        from vexp.diagnostics import grounding

        effect = grounding.image_effect(seen, self.distortion)
        assert seen.entropy is not None and effect is not None
        values = {"image effect": effect, "entropy": seen.entropy}
        if int(seen.attended(self.layer).evidence_tokens[row]):
            values["attention on evidence"] = seen.attended(self.layer).share
        return picture(seen, policy, row, self.layer.index(policy.layers), values)

    def _of(self, seen: Experience) -> dict[str, Tensor]:  # of [answer], NaN where not defined
        from vexp.diagnostics import grounding, measures

        layer = seen.attended(self.visual_layer)
        visual = {
            f"attention/{name}" if name in PLACES else name: value
            for name, value in grounding.visual(layer, seen).items()
        }
        score = grounding.image_effect(seen, self.distortion)
        assert seen.entropy is not None and score is not None
        sighted = seen.mask & (layer.image_tokens > 0).unsqueeze(1)
        grounded = measures.grounded(seen.entropy, score, sighted)
        both = measures.overlap(seen.entropy, score, sighted)
        found = {
            **grounding.evidence(seen.attended(self.layer).pooled, seen, self.target, self.kappa),
            **visual,
            **grounding.focused(seen),
            "grounded_share": grounded.share,
            "entropy/grounded": grounded.entropy,
            "entropy/other": grounded.other_entropy,
            "entropy/gap": grounded.gap,
            "grounded_share/high_entropy": both.of_uncertain,
            "high_entropy_share/grounded": both.of_grounded,
        }
        if self.points:
            curves = grounding.curves(layer, seen, self.points)
            found |= {f"attention/{name}": value for name, value in curves.items()}
            shares = measures.distribution_function(score, sighted, ECDF).unbind(1)
            found |= dict(zip(_ecdf_names(), shares, strict=True))
        empty = ~seen.mask.any(dim=1)
        return {name: value.masked_fill(empty, math.nan) for name, value in found.items()}


def _ecdf_names() -> list[str]:
    return [f"grounded_score/ecdf_{x:g}" for x in ECDF]


def _mean_of(value: str, samples: Sequence[Sample], name: str) -> Metrics:
    """The metric `name`, unless no sample has the value."""
    known = [sample.values[value] for sample in samples if value in sample.values]
    return {name: mean(known)} if known else {}


def _against_outcome(samples: Sequence[Sample], bins: int) -> Metrics:
    """How far attention is from its target, against whether the answer is right (EASE, fig. 3)."""
    import torch

    from vexp.diagnostics.measures import quantile_bins, spearman

    pairs = [
        (s.id, s.values["attention_kl"], s.correct) for s in samples if "attention_kl" in s.values
    ]
    pairs.sort()  # so that neither bins nor rounding depend on the order of the samples
    values = torch.tensor([pair[1] for pair in pairs], dtype=torch.float64)
    correct = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64)
    found: Metrics = {}
    rank = spearman(values, correct)
    if rank is not None and len(pairs) > 2:
        # The error behind the usual t-test of a rank correlation.
        stderr = math.sqrt((1 - rank**2) / (len(pairs) - 2))
        found["attention_kl/spearman"] = {"value": rank, "stderr": stderr, "n": len(pairs)}
    for number, members in enumerate(quantile_bins(values, bins), start=1):
        found[f"attention_kl/bin_{number}"] = mean(values[members].tolist())
        found[f"wrong/kl_bin_{number}"] = mean((1 - correct[members]).tolist())
    return found
