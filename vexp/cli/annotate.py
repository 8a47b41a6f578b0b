"""`vexp annotate`: evidence boxes for a dataset."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vexp.cli.options import UserPathType, config_dir_option, json_option

if TYPE_CHECKING:
    from vexp.annotate.output import AnnotationSummary
    from vexp.annotate.spec import Annotation


@click.command("annotate")
@click.argument("settings", nargs=-1, metavar="[FILE.yaml | OVERRIDE]...")
@click.option("--data", type=UserPathType(), help="Folder with train.jsonl, or a table.")
@click.option("--output", type=UserPathType(), required=True, help="The new folder to write.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked and what it may cost.")
@click.option("--skip-unanswered", is_flag=True, help="Publish without items that got no answer.")
@config_dir_option
@json_option
def command(
    settings: tuple[str, ...],
    data: Path | None,
    output: Path,
    dry_run: bool,
    skip_unanswered: bool,
    config_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Find the evidence boxes of the training items in --data and write a table with them.

    Phrases, boxes and verdicts come from the extractor, the localizers and the validator that the
    settings name. Ctrl-C saves and stops; the same command goes on, and asks nothing twice.

    Example: `vexp annotate annotation=ease --data data/virl39k --output data/virl39k_boxes`.
    """
    from vexp.annotate.compose import resolve, table_in

    files = [Path(text) for text in settings if _is_file(text)]
    overrides = [text for text in settings if not _is_file(text)]
    if data is not None:
        overrides.append(f"dataset.path='{table_in(data)}'")
    spec = resolve(overrides, config_dirs=config_dirs, files=files)
    if dry_run:
        _dry_run(spec, output, as_json)
        return
    found = _finished(spec, output) or _annotated(spec, output, skip_unanswered)
    if as_json:
        click.echo(json.dumps({"output": str(output), **asdict(found)}, indent=2))
        return
    _show(found, output)


def _is_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) and "=" not in text


def _annotated(spec: Annotation, output: Path, skip_unanswered: bool) -> AnnotationSummary:
    from vexp.annotate.run import annotate
    from vexp.cli.progress import ProgressBar

    with ProgressBar() as progress:
        return annotate(spec, output, progress, skip_unanswered=skip_unanswered)


def _finished(spec: Annotation, output: Path) -> AnnotationSummary | None:
    """What the output says, where it is this very annotation."""
    from vexp.annotate.folder import MANIFEST
    from vexp.annotate.output import AnnotationSummary
    from vexp.files import read_json

    found = read_json(output / MANIFEST)
    if not isinstance(found, dict) or found.get("identity") != spec.identity:
        return None
    if found.get("items") != spec.size:
        return None
    return AnnotationSummary(
        **{name: found[name] for name in AnnotationSummary.__dataclass_fields__}
    )


def _dry_run(spec: Annotation, output: Path, as_json: bool) -> None:
    from vexp.annotate.estimate import estimate
    from vexp.annotate.folder import JOURNAL, partial_of
    from vexp.annotate.journal import finished_in

    done = finished_in(partial_of(output) / JOURNAL, spec.identity)
    missing = [index for index in range(spec.size) if index not in done]
    found = estimate(spec, missing)
    costs = [step.cost_at_most for step in found if step.cost_at_most is not None]
    total = sum(costs) if costs else None
    if as_json:
        steps = [step.to_dict() for step in found]
        content = {"items": spec.size, "missing": len(missing), "steps": steps}
        click.echo(json.dumps(content | {"cost_at_most": total}, indent=2))
        return
    click.echo(f"{len(missing)} of {spec.size} items are to be annotated")
    for step in found:
        cost = "" if step.cost_at_most is None else f", at most ${step.cost_at_most:,.2f}"
        click.echo(
            f"  {step.step:17} {step.model}: {step.requests:,.0f} requests, "
            f"{step.prompt_tokens:,.0f} tokens in, "
            f"at most {step.reply_tokens_at_most:,.0f} out{cost}"
        )
    click.echo(f"assumed: {spec.phrases_expected} phrases an item (phrases_expected)")
    if total is not None:
        click.echo(f"at most ${total:,.2f}, of what has a price")


def _show(summary: AnnotationSummary, output: Path) -> None:
    click.echo(f"{summary.items} items: {summary.single} single, {summary.multi} multi")
    for reason, left in sorted(summary.left_out.items()):
        named = ", ".join(left["ids"])
        click.echo(f"left out: {left['count']}, {reason}: {named}")
    if summary.without_boxes:
        click.echo(f"kept without boxes: {summary.without_boxes}")
    if summary.unanswered:
        click.echo(f"left out: {summary.unanswered}, no answer from an endpoint")
    for step, count in sorted(summary.misread.items()):
        click.echo(f"answers that could not be read: {count} of the {step}")
    for asked in summary.asked:
        cost = "" if asked["cost"] is None else f", ${asked['cost']:,.2f}"
        click.echo(
            f"asked {asked['model']}: {asked['requests']:,} requests, "
            f"{asked['prompt_tokens']:,} tokens in, {asked['reply_tokens']:,} out{cost}"
        )
    main = "mix.datasets.main"
    click.echo(f"next: vexp run experiment=ease {main}=table {main}.path={output / 'train.jsonl'}")
