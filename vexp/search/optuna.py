"""Optuna's samplers, through its ask-and-tell interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vexp.config.types import Count, PositiveInt
from vexp.errors import Problem
from vexp.registry import register
from vexp.search.base import Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "cmaes", "gp", "nsga2", "nsga3", "random"]
_SINGLE = ("cmaes",)  # samplers of one objective only


@register("search", "optuna")
@dataclass(frozen=True, kw_only=True)
class Optuna(Search):
    """Optuna's samplers: TPE, CMA-ES, Gaussian process, NSGA-II and NSGA-III, random."""

    sampler: Sampler = "tpe"  # how the next trial is chosen; a grid is a search of its own
    startup_trials: Count | None = None  # random trials at first (tpe, cmaes, gp); null: Optuna's
    population: PositiveInt | None = None  # trials per generation (cmaes, nsga); null: Optuna's

    def mistakes(self) -> Iterator[Problem]:
        yield from super().mistakes()
        if self.sampler in _SINGLE and len(self.objectives) > 1:
            yield Problem(
                f"the sampler {self.sampler!r} has one objective",
                where="sampler",
                accepted="for several: nsga2, nsga3, tpe, gp",
            )
        if self.population is not None and self.sampler not in ("cmaes", "nsga2", "nsga3"):
            yield Problem(f"{self.sampler!r} has no population", where="population")
        if self.startup_trials is not None and self.sampler not in ("tpe", "cmaes", "gp"):
            yield Problem(f"{self.sampler!r} has no startup trials", where="startup_trials")

    def propose(self, study: Study, number: int) -> Mapping[str, Any]:
        study.sampler = self.build(self.draw_seed(number))
        trial = study.ask({key: d.optuna() for key, d in self.space.items()})
        return {key: self.space[key].exact(value) for key, value in trial.params.items()}

    def build(self, seed: int) -> BaseSampler:
        """The sampler; made anew for each trial, so its memory is the study alone."""
        from optuna import samplers

        first = _given(n_startup_trials=self.startup_trials)
        many = _given(population_size=self.population)
        quiet: dict[str, Any] = {"warn_independent_sampling": False}
        match self.sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed, **first)
            case "cmaes":
                size = _given(popsize=self.population)
                return samplers.CmaEsSampler(seed=seed, **first, **size, **quiet)
            case "gp":
                return samplers.GPSampler(seed=seed, **first, **quiet)
            case "nsga2":
                return samplers.NSGAIISampler(seed=seed, **many)
            case "nsga3":
                return samplers.NSGAIIISampler(seed=seed, **many)
            case "random":
                return samplers.RandomSampler(seed=seed)


def _given(**settings: Any) -> dict[str, Any]:
    """Those that are set; for the others Optuna has defaults of its own."""
    return {name: value for name, value in settings.items() if value is not None}
