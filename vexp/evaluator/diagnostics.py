"""Where a checkpoint looks while it answers, and which of its tokens depend on the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vexp.config.types import Positive, PositiveInt
from vexp.distortion.base import Distortion
from vexp.engine.base import Generated
from vexp.evaluator.base import Sample
from vexp.evaluator.heldout import Heldout, mean
from vexp.layer.base import Layer
from vexp.registry import register, slot
from vexp.target.base import Target

if TYPE_CHECKING:
    from vexp.dataset.base import Item
    from vexp.spec import RunSpec
    from vexp.train.experience import Experience
    from vexp.train.policy import Policy
    from vexp.train.prompts import PromptBatch

Metrics = dict[str, dict[str, float | None]]

OWN = ("layer", "visual_layer", "distortion", "target", "kappa")  # fields that Heldout lacks
# Values of a sample, where they are defined; the metrics are their means.
VALUES = (
    "evidence_mass", "evidence_area", "pointing", "coverage", "attention_kl",
    "attention/image", "attention/rest", "late_early", "focus_correlation",
    "grounded_share", "entropy/grounded", "entropy/other", "entropy/gap",
)  # fmt: skip


@register("evaluator", "diagnostics")
@dataclass(frozen=True, kw_only=True)
class Diagnostics(Heldout):
    """Greedy answers read once more, teacher-forced at temperature 1, for what they look at.

    Beside the metrics of `heldout`, means over the answers for which they are defined:

        evidence_mass, pointing   attention on evidence, its peak on evidence; also by /<tag> (EASE)
        evidence_area             what evidence_mass is for uniform attention
        coverage                  boxes with at least `kappa` times uniform; two boxes or more
        attention_kl              nats from pooled attention to `target`; /spearman correlates it
                                  with correctness; /bin_1 to /bin_5 and wrong/kl_bin_1 to _5 are
                                  KL and share of wrong answers in bins of equal count
        attention/image, /rest    share of all attention, on the image and on all else
        late_early                the former in the second half of an answer over the first; also
                                  /correct and /wrong (VGPO)
        focus_correlation         of a token's likeness to the image with attention/image (VGPO)
        grounded_share            tokens that the image makes likelier by more than 0.2 (VICRA)
        entropy/grounded, /other  in nats, of those and all other tokens; /gap is the difference
        without_evidence          answers that the metrics of evidence leave out: no image, no box

    Attention on the query and on the response itself is not told apart: it is one `rest`. Means are
    over answers, each the mean over its tokens, so that long answers do not weigh more. Attention
    correlates with what was used; it proves nothing, and less so in a model of few layers.
    """

    needs = ("boxes",)
    produces = (
        *Heldout.produces, *VALUES, "without_evidence", "evidence_mass/*", "pointing/*",
        "attention_kl/*", "wrong/*", "late_early/*",
    )  # fmt: skip

    size: PositiveInt = 500  # questions per dataset; fewer if the split is smaller
    layer: Layer = slot("layer", "two_thirds")  # whose attention is compared with the evidence
    visual_layer: Layer = slot("layer", "last")  # whose attention on the whole image is measured
    distortion: Distortion = slot("distortion", "discard")  # what grounded tokens are told by
    target: Target = slot("target", "gaussian_mixture")  # what attention_kl measures from
    kappa: Positive = 1.0  # a box is covered from this multiple of uniform attention on

    def protocol(self, run: RunSpec) -> Mapping[str, Any]:
        from vexp.config.identity import plain

        return {**super().protocol(run), **{name: plain(getattr(self, name)) for name in OWN}}

    def metrics(self, samples: list[Sample]) -> Metrics:
        if not samples:
            return {}
        found = super().metrics(samples)
        lacking = [float("evidence_mass" not in sample.values) for sample in samples]
        found["without_evidence"] = mean(lacking)
        for name in VALUES:
            found |= _mean_of(name, samples, name)
        for tag in sorted({sample.tag for sample in samples if sample.tag}):
            tagged = [sample for sample in samples if sample.tag == tag]
            found |= _mean_of("evidence_mass", tagged, f"evidence_mass/{tag}")
            found |= _mean_of("pointing", tagged, f"pointing/{tag}")
        right = [sample for sample in samples if sample.correct == 1]
        wrong = [sample for sample in samples if sample.correct < 1]
        found |= _mean_of("late_early", right, "late_early/correct")
        found |= _mean_of("late_early", wrong, "late_early/wrong")
        return found | _against_outcome(samples)

    def _values(
        self,
        policy: Policy,
        run: RunSpec,
        items: Sequence[Item],
        prompts: PromptBatch,
        generated: Generated,
    ) -> Sequence[Mapping[str, float]]:
        from vexp.train.experience import micro_batches
        from vexp.train.signals import Request, observe

        answers = _answers(policy, run, items, prompts, generated)
        layers = {layer.index(policy.layers) for layer in (self.layer, self.visual_layer)}
        request = Request(
            old_logprobs=True,
            entropy=True,
            similarity=True,
            counterfactual={self.distortion: False},
            attention=tuple(sorted(layers)),
        )
        rows = range(len(items))
        portions = micro_batches(rows, rows, run.compute.micro_batch_size)
        seen = observe(answers, policy, None, portions, request, temperature=1.0, seed=0, step=0)
        return [self._of(seen, row) for row in rows]

    def _of(self, seen: Experience, row: int) -> dict[str, float]:
        """What is defined of one answer."""
        assert seen.grids is not None
        if seen.grids[row] == (0, 0) or not bool(seen.mask[row].any()):
            return {}
        found = {**self._evidence(seen, row), **self._visual(seen, row), **self._entropy(seen, row)}
        return {name: value for name, value in found.items() if value is not None}

    def _evidence(self, seen: Experience, row: int) -> dict[str, float | None]:
        from vexp.train import diagnostics
        from vexp.train.evidence import token_masks

        assert seen.evidence is not None and seen.grids is not None
        boxes, grid = seen.evidence[row], seen.grids[row]
        if not boxes:
            return {}
        masks = token_masks(boxes, grid)
        union = masks.any(dim=0)
        pooled = seen.attended(self.layer).pooled[row, : len(union)].cpu()
        target = self.target.distribution(boxes, grid)
        return {
            "evidence_mass": diagnostics.evidence_mass(pooled, union),
            "evidence_area": float(union.double().mean()),
            "pointing": diagnostics.pointing(pooled, union),
            "coverage": diagnostics.coverage(pooled, masks, self.kappa),
            "attention_kl": diagnostics.target_divergence(pooled, target),
        }

    def _visual(self, seen: Experience, row: int) -> dict[str, float | None]:
        from vexp.train import diagnostics

        assert seen.similarity is not None
        valid = seen.mask[row]
        image = seen.attended(self.visual_layer).image[row][valid].cpu()
        on_image = min(1.0, float(image.double().mean()))
        return {
            "attention/image": on_image,
            "attention/rest": 1 - on_image,
            "late_early": diagnostics.late_over_early(image),
            "focus_correlation": diagnostics.pearson(seen.similarity[row][valid].cpu(), image),
        }

    def _entropy(self, seen: Experience, row: int) -> dict[str, float | None]:
        from vexp.train import diagnostics

        assert seen.old_logprobs is not None and seen.entropy is not None
        valid = seen.mask[row]
        blind = seen.counterfactual[self.distortion].logprobs
        score = (seen.old_logprobs[row].double().exp() - blind[row].double().exp())[valid].cpu()
        found = diagnostics.grounded(seen.entropy[row][valid].cpu(), score)
        assert found is not None
        return {
            "grounded_share": found.share,
            "entropy/grounded": found.entropy,
            "entropy/other": found.other_entropy,
            "entropy/gap": found.gap,
        }


def _answers(
    policy: Policy,
    run: RunSpec,
    items: Sequence[Item],
    prompts: PromptBatch,
    generated: Generated,
) -> Experience:
    """One answer to each item, as the experience pass takes them."""
    import torch

    from vexp.train.evidence import relative_boxes
    from vexp.train.experience import Experience

    boxes = [relative_boxes(item.boxes, item.image.size)[0] if item.image else () for item in items]
    count, device = len(items), policy.device
    return Experience(
        prompts=prompts,
        group=torch.arange(count, device=device),
        tokens=generated.tokens,
        mask=generated.mask,
        rewards=torch.zeros(count, dtype=torch.float64, device=device),
        sampling_logprobs=generated.logprobs,
        has_image=torch.tensor([item.image is not None for item in items], device=device),
        boxes=tuple(item.boxes for item in items),
        evidence=tuple(boxes),
        grids=policy.grids(prompts),
        layers=policy.layers,
        items=tuple(items),
        prompt_of=run.prompt,
        place=torch.zeros(count, dtype=torch.int64, device=device),
    )


def _mean_of(value: str, samples: Sequence[Sample], name: str) -> Metrics:
    """The metric `name`, unless no sample has the value."""
    known = [sample.values[value] for sample in samples if value in sample.values]
    return {name: mean(known)} if known else {}


def _against_outcome(samples: Sequence[Sample]) -> Metrics:
    """How far attention is from its target, against whether the answer is right (EASE, fig. 3)."""
    import torch

    from vexp.train.diagnostics import quantile_bins, spearman

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
    for number, members in enumerate(quantile_bins(values), start=1):
        found[f"attention_kl/bin_{number}"] = mean(values[members].tolist())
        found[f"wrong/kl_bin_{number}"] = mean((1 - correct[members]).tolist())
    return found
