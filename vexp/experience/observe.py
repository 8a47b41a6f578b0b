"""The experience pass: everything that components want to know about finished responses.

One forward pass of the policy serves all of them, one more each distinct counterfactual, one the
reference. Nothing here carries a gradient, and nothing is run that nobody asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from vexp.experience.batch import Counterfactual, Experience, ImageAttention, forward
from vexp.experience.evidence import layout_masks
from vexp.policy import parallel, stopping
from vexp.policy.policy import Reading
from vexp.policy.randomness import derive
from vexp.probe.attention import ImageLogits, Probe
from vexp.probe.layout import count
from vexp.registry import Component

if TYPE_CHECKING:
    from vexp.distortion.base import Distortion
    from vexp.layer.base import Layer
    from vexp.policy.lora import Untrained
    from vexp.policy.policy import Policy, PolicyOutput
    from vexp.spec.run import RunSpec


# What attention a portion has seen: `image_tokens`, `evidence_tokens`, and by `<layer>/<name>` the
# values of `ImageAttention`
Seen = dict[str, Tensor]


@dataclass(frozen=True)
class SignalRequest:
    """What the experience pass has to find out."""

    old_logprobs: bool = False
    entropy: bool = False
    reference: bool = False
    similarity: bool = False
    counterfactual: Mapping[Distortion, bool] = field(default_factory=dict)  # with its KL?
    attention: tuple[int, ...] = ()  # decoder layers
    predictor: bool = False  # similarity and attention of what predicts a token, not its own

    @property
    def own(self) -> bool:
        """Whether the policy itself has to look at the responses again."""
        kl = any(self.counterfactual.values())
        return bool(self.old_logprobs or self.entropy or self.similarity or self.attention or kl)

    def __bool__(self) -> bool:
        return self.own or self.reference or bool(self.counterfactual)


def requested(run: RunSpec, layers: int, *, several_updates: bool) -> SignalRequest:
    """What the components of a run ask for, with equal questions asked once."""
    found = asked_by(asking(run), layers)
    return dataclasses.replace(
        found,
        old_logprobs=several_updates or found.old_logprobs,
        entropy=run.rl.log_entropy or found.entropy,
        predictor=run.rl.row_alignment == "predictor",
    )


def asked_by(components: Iterable[Component], layers: int) -> SignalRequest:
    """What these components ask for, with equal questions asked once."""
    asked: set[str] = set()
    counterfactual: dict[Distortion, bool] = {}
    attention: set[int] = set()
    for component in components:
        needs = set(component.required())
        asked |= needs
        if needs & {"counterfactual_logprobs", "counterfactual_kl"}:
            distortion = cast("Distortion", getattr(component, "distortion"))  # noqa: B009
            kl = counterfactual.get(distortion, False) or "counterfactual_kl" in needs
            counterfactual[distortion] = kl
        if "attention" in needs:
            attention.add(cast("Layer", getattr(component, "layer")).index(layers))  # noqa: B009
    return SignalRequest(
        old_logprobs="old_logprobs" in asked,
        entropy="entropy" in asked,
        reference="reference_logprobs" in asked,
        similarity="similarity" in asked,
        counterfactual=counterfactual,
        attention=tuple(sorted(attention)),
    )


def asking(run: RunSpec) -> Iterator[Component]:
    """The components that take part in training; evaluators ask for themselves."""
    return (c for path, c in run.components() if not path.startswith("evaluator."))


@torch.no_grad()
def observe(
    experience: Experience,
    policy: Policy,
    reference: Policy | Untrained | None,
    portions: Iterable[Sequence[int]],
    request: SignalRequest,
    *,
    temperature: float,
    seed: int,
    step: int,
) -> Experience:
    """The experience with what was requested, found over `portions` of its rows.

    Rows in no portion keep zeros; what is not asked for stays None. Each process looks at its share
    of the portions, which have no row in common, and all get the whole.
    """
    if not request:
        return experience
    found = _Found(experience, request)
    for rows in parallel.of_rank(list(portions)):
        stopping.check()
        part = experience.select(rows)
        hidden = None
        if request.own:
            summary = _Summary(part) if request.attention else None
            reading = Reading(
                entropy=request.entropy,
                similarity=request.similarity,
                hidden=any(request.counterfactual.values()),
                probe=Probe(request.attention, lse=True, consume=summary) if summary else None,
                predictor=request.predictor,
            )
            output = forward(policy, part, temperature, reading)
            found.put(rows, part, output, summary)
            hidden = output.hidden
        for distortion, with_kl in request.counterfactual.items():
            reading = Reading(hidden=with_kl, loose=True)
            other = forward(
                policy, distorted(part, policy, distortion, seed, step), temperature, reading
            )
            kl = None
            if with_kl and hidden is not None and other.hidden is not None:
                kl = policy.divergence(hidden, other.hidden, temperature)
            found.put_counterfactual(rows, part, distortion, other.logprobs, kl)
        if reference is not None:
            found.place(
                found.tokens["reference_logprobs"],
                rows,
                part,
                forward(reference, part, temperature).logprobs,
            )
    found.share()
    return found.experience()


def distorted(
    part: Experience, policy: Policy, distortion: Distortion, seed: int, step: int
) -> Experience:
    """The same responses after prompts with distorted images; a function of its arguments."""
    if part.items is None or part.place is None or part.prompt_of is None:
        raise ValueError("distorting needs the items the prompts were made from")
    group = part.group.tolist()
    if distortion.per_rollout:
        owners = group
        places: list[int] = part.place.tolist()
        index = torch.arange(len(group), device=part.group.device)
    else:
        owners = list(range(len(part.items)))
        places, index = [0] * len(owners), part.group
    items = []
    for owner, place in zip(owners, places, strict=True):
        item = part.items[owner]
        key = derive(seed, "distortion", step, item.id, place)
        items.append(distortion.apply(item, np.random.Generator(np.random.Philox(key=key))))
    return dataclasses.replace(part, prompts=policy.encode(items, part.prompt_of), group=index)


class _Found:
    """Results over the whole experience, filled portion by portion."""

    def __init__(self, experience: Experience, request: SignalRequest) -> None:
        self.before = experience
        self.request = request
        shape, device = experience.tokens.shape, experience.tokens.device
        wanted = {
            "old_logprobs": request.old_logprobs,
            "entropy": request.entropy,
            "similarity": request.similarity,
            "reference_logprobs": request.reference,
        }

        def empty() -> Tensor:
            return torch.zeros(shape, device=device)

        self.tokens = {name: empty() for name, asked in wanted.items() if asked}
        self.counterfactual = {
            distortion: Counterfactual(empty(), empty() if kl else None)
            for distortion, kl in request.counterfactual.items()
        }
        self.summaries: list[tuple[Sequence[int], Seen]] = []

    def place(self, target: Tensor, rows: Sequence[int], part: Experience, value: Tensor) -> None:
        target[rows, : value.shape[1]] = value.masked_fill(~part.mask, 0.0)

    def put(
        self, rows: Sequence[int], part: Experience, output: PolicyOutput, summary: _Summary | None
    ) -> None:
        values = {
            "old_logprobs": output.logprobs,
            "entropy": output.entropy,
            "similarity": output.similarity,
        }
        for name, value in values.items():
            if name in self.tokens and value is not None:
                self.place(self.tokens[name], rows, part, value)
        if summary is not None:
            self.summaries.append((rows, summary.seen()))

    def put_counterfactual(
        self,
        rows: Sequence[int],
        part: Experience,
        distortion: Distortion,
        logprobs: Tensor,
        kl: Tensor | None,
    ) -> None:
        target = self.counterfactual[distortion]
        self.place(target.logprobs, rows, part, logprobs)
        if target.kl is not None and kl is not None:
            empty = torch.zeros(part.mask.shape, device=kl.device)
            self.place(target.kl, rows, part, empty.masked_scatter(part.mask, kl))

    def share(self) -> None:
        """Put together what the processes have found; a row of another one's portions is 0."""
        known = self.counterfactual.values()
        kl = [found.kl for found in known if found.kl is not None]
        parallel.all_reduce([*self.tokens.values(), *(found.logprobs for found in known), *kl])
        if parallel.world_size() > 1 and self.request.attention:
            self.summaries = _from_all(self.summaries, self.before.mask.device)

    def experience(self) -> Experience:
        old, has_image = self._old_logprobs(), self.before.has_image
        counterfactual = dict(self.counterfactual)
        if has_image is not None and not bool(has_image.all()):
            # Without an image there is nothing to take away: no difference, to the last bit.
            for distortion, known in self.counterfactual.items():
                same = ~has_image.unsqueeze(1)
                logprobs = known.logprobs if old is None else old.where(same, known.logprobs)
                kl = None if known.kl is None else known.kl.masked_fill(same, 0.0)
                counterfactual[distortion] = Counterfactual(logprobs, kl)
        changes: dict[str, Any] = {**self.tokens, "counterfactual": counterfactual}
        if old is not None:
            changes["old_logprobs"] = old
        if self.summaries:
            changes["attention"] = {
                layer: _merged(self.before, layer, self.summaries)
                for layer in self.request.attention
            }
        return dataclasses.replace(self.before, **changes)

    def _old_logprobs(self) -> Tensor | None:
        """Those found here; replayed rollouts keep those of the policy that sampled them."""
        found, known = self.tokens.get("old_logprobs"), self.before.old_logprobs
        if found is None or known is None or self.before.replayed is None:
            return found
        return known.where(self.before.replayed.unsqueeze(1), found)


class _Summary:
    """Sums up the attention rows of a portion as they come; called by the probe."""

    def __init__(self, part: Experience) -> None:
        self.mask = part.mask
        layouts = part.layouts or ()
        counts = torch.tensor([count(layout) for layout in layouts], dtype=torch.int64)
        most = max([1, *counts.tolist()])
        masks = torch.zeros(len(layouts), most, dtype=torch.bool)
        for index, (boxes, layout) in enumerate(zip(part.evidence or (), layouts, strict=True)):
            if boxes and layout:
                masks[index, : counts[index]] = layout_masks(boxes, layout).any(dim=0)
        device = part.group.device
        self.evidence = masks.to(device)[part.group]  # [rollout, image token]
        self.count = counts.to(device)[part.group]
        self.layers: dict[int, dict[str, Tensor]] = {}

    def seen(self) -> Seen:
        """What was summed up, once all layers have been through."""
        counts = {"image_tokens": self.count, "evidence_tokens": self.evidence.sum(dim=1)}
        return counts | {
            f"{layer}/{name}": value
            for layer, kept in self.layers.items()
            for name, value in kept.items()
        }

    def __call__(self, layer: int, piece: ImageLogits) -> None:
        if layer not in self.layers:
            tokens = {name: torch.zeros(self.mask.shape) for name in ("image", "evidence", "share")}
            tokens["pooled"] = torch.zeros(self.evidence.shape)
            self.layers[layer] = {k: v.to(self.mask.device) for k, v in tokens.items()}
        kept = self.layers[layer]
        here = slice(piece.start, piece.start + piece.logits.shape[2])
        valid = self.mask[:, here, None]
        evidence = self.evidence[:, None, None, : piece.logits.shape[-1]].float()
        if piece.lse is not None:
            full = (piece.logits - piece.lse.unsqueeze(-1)).exp_()
            kept["image"][:, here] = full.sum(-1).mean(1).masked_fill(~valid[..., 0], 0.0)
            inside = full.mul_(evidence).sum(-1).mean(1)
            kept["evidence"][:, here] = inside.masked_fill(~valid[..., 0], 0.0)
        if piece.lse is not None and piece.own_lse is not None:
            own = (piece.own_lse - piece.lse).exp().mean(1).masked_fill(~valid[..., 0], 0.0)
            kept.setdefault("response", torch.zeros_like(kept["image"]))[:, here] = own
        # A row without image tokens has no distribution over them: zeros, not NaN.
        conditional = piece.logits.softmax(-1).nan_to_num_(0.0).mean(1).masked_fill(~valid, 0.0)
        kept["share"][:, here] = (conditional * evidence[:, 0]).sum(-1)
        kept["pooled"][:, : conditional.shape[-1]] += conditional.sum(1)


def _from_all(
    summaries: Sequence[tuple[Sequence[int], Seen]], device: torch.device
) -> list[tuple[Sequence[int], Seen]]:
    """The summaries of all processes."""
    tensors = {
        f"{number}/{name}": value
        for number, (_, seen) in enumerate(summaries)
        for name, value in seen.items()
    }
    found = []
    for theirs, portions in parallel.all_gather(tensors, [list(rows) for rows, _ in summaries]):
        for number, rows in enumerate(portions):
            names = [name for name in theirs if name.startswith(f"{number}/")]
            seen = {name.partition("/")[2]: theirs[name].to(device) for name in names}
            found.append((rows, seen))
    return found


def _merged(
    before: Experience, layer: int, summaries: Sequence[tuple[Sequence[int], Seen]]
) -> ImageAttention:
    rollouts, width = before.mask.shape
    device = before.mask.device
    names = ["image", "evidence", "share"]
    if all(f"{layer}/response" in seen for _, seen in summaries):
        names.append("response")
    tokens = {name: torch.zeros(rollouts, width, device=device) for name in names}
    most = max(seen[f"{layer}/pooled"].shape[1] for _, seen in summaries)
    pooled = torch.zeros(rollouts, most, device=device)
    counts = torch.zeros(2, rollouts, dtype=torch.int64, device=device)
    lengths = before.mask.sum(dim=1, keepdim=True).clamp(min=1)
    for rows, seen in summaries:
        for name, target in tokens.items():
            value = seen[f"{layer}/{name}"]
            target[rows, : value.shape[1]] = value
        value = seen[f"{layer}/pooled"]
        pooled[rows, : value.shape[1]] = value / lengths[rows]
        counts[0, rows], counts[1, rows] = seen["image_tokens"], seen["evidence_tokens"]
    return ImageAttention(
        **tokens, pooled=pooled, image_tokens=counts[0], evidence_tokens=counts[1]
    )
