"""The results of all benchmarks as one Markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_report(found: dict[str, Any], path: Path) -> str:
    """Write the page of one full run and return it."""
    sections = {
        "step_vs_trl": _steps,
        "method_overhead": _overhead,
        "losses_vs_trl": _losses,
        "startup": _startup,
        "plan_vs_hydra": _planning,
        "many_runs": _many_runs,
    }
    parts = [section(found[name]) for name, section in sections.items() if name in found]
    text = "\n".join([_head(found), *parts])
    path.write_text(text)
    return text


def _head(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"# Benchmarks of {found['date']}\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; load "
        f"{machine['load_1min']} when they began. Python {machine['python']}, {versions}.\n\n"
        "Written by `make bench`; the numbers are in the JSON file of the same date.\n"
    )


def _steps(found: dict[str, Any]) -> str:
    settings = found["settings"]
    rows = [
        "## A GRPO step beside TRL's\n",
        f"{settings['prompts']} prompts x {settings['group_size']} responses, one update, "
        f"{settings['threads']} threads, {settings['timed']} steps each after {settings['warm']}. "
        f"Worst ratio {found['ratio']:.2f}; wanted {found['target']:g}.\n",
        "| tokens | side | step (s) | generate | score | update | over ours | quartiles | CPU |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *_step_rows(found["lengths"]),
    ]
    best = [
        f"- {length} tokens: " + ", ".join(f"{k} {v}" for k, v in one["trl_best"].items())
        for length, one in found["lengths"].items()
    ]
    return "\n".join([*rows, "\nTRL's best settings:\n", *best, ""])


def _step_rows(lengths: dict[str, Any]) -> Iterator[str]:
    for length, one in lengths.items():
        for name, side in one["sides"].items():
            times = side["phases_s"]
            phases = " | ".join(f"{times[p]:.3f}" for p in ("generate", "score", "update"))
            low, high = side["ratio_quartiles"]
            over = f"{side['ratio']:.2f} | {low:.2f}-{high:.2f} | {side['ratio_cpu']:.2f}"
            yield f"| {length} | {name} | {side['median_s']:.3f} | {phases} | {over} |"


def _overhead(found: dict[str, Any]) -> str:
    settings = found["settings"]
    bars = ", ".join(
        f"{name} {found['ratios'][name]:.3f} (at most {bar})" for name, bar in found["bars"].items()
    )
    rows = [
        "## Methods beside DAPO\n",
        f"{settings['prompts']} prompts x {settings['group_size']} responses of "
        f"{settings['length']} tokens, images of {(settings['image_size'] // 28) ** 2} tokens, "
        f"{settings['threads']} threads, {settings['timed']} steps each after {settings['warm']}; "
        f"load {settings['machine']['load_1min']} when it began. "
        f"Without generation, at {max(settings['updates'])} updates per batch: {bars}.\n",
        "| updates | method | step (s) | x | without generation (s) | x | memory (MB) |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for updates, methods in found["updates"].items():
        for name, one in methods.items():
            rows.append(
                f"| {updates} | {name} | {one['seconds']:.3f} | {one['whole']:.3f} | "
                f"{one['seconds_without_generation']:.3f} | {one['without_generation']:.3f} | "
                f"{one['peak_memory_mb']} |"
            )
    return "\n".join([*rows, ""])


def _losses(found: dict[str, Any]) -> str:
    rows = [
        "## Losses beside TRL's\n",
        "| comparison | loss | gradient (relative) | log-probs | allowed | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in found["differences"]:
        apart = f"{row['loss']:.1e} | {row['gradient']:.1e} | {row['logprobs']:.1e}"
        verdict = "" if row["ok"] else "too far"
        rows.append(f"| {row['name']} | {apart} | {row['tolerance']:.0e} | {verdict} |")
    return "\n".join([*rows, ""])


def _startup(found: dict[str, Any]) -> str:
    rows = [
        "## Starting\n",
        "| | median (ms) | bare starts | in CPU time | at most |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, seconds in found["median_s"].items():
        times, cpu = found["times_bare"].get(name), found["cpu_times_bare"].get(name)
        ratio = " | " if times is None else f"{times:.1f} | {cpu:.1f}"
        limit = found["limits"].get(name)
        allowed = "" if limit is None else f"{limit:g}"
        rows.append(f"| {name} | {seconds * 1000:.1f} | {ratio} | {allowed} |")
    return "\n".join([*rows, ""])


def _planning(found: dict[str, Any]) -> str:
    ratio = f"{found['ratio']:.0f} in CPU time, {found['ratio_wall']:.0f} in time"
    return "\n".join(
        [
            "## Planning beside Hydra\n",
            f"Hydra's `compose` of a point over a planned point: {ratio}; "
            f"wanted {found['target']:g}.\n",
            *_command_rows(found),
            "",
        ]
    )


def _many_runs(found: dict[str, Any]) -> str:
    head = [f"## Commands over {found['settings']['runs']:,} finished runs\n"]
    return "\n".join([*head, *_command_rows(found), ""])


def _command_rows(found: dict[str, Any]) -> Iterator[str]:
    yield "| command | time (s) | CPU (s) | at most |"
    yield "| --- | ---: | ---: | ---: |"
    for name, took in found["commands"].items():
        limit = found["limits_s"].get(name)
        allowed = "" if limit is None else f"{limit:g}"
        yield f"| {name} | {took['wall_s']:.2f} | {took['cpu_s']:.2f} | {allowed} |"
