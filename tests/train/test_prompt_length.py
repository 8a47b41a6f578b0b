"""How long prompts get: which are looked at, what has no room, and when that is said."""

from __future__ import annotations

import io
import json

import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from vexp.cli.main import cli
from vexp.dataset.table import Table
from vexp.errors import ConfigError, DataError
from vexp.experience.evidence import relative_boxes, token_masks
from vexp.spec.resolve import resolve
from vexp.train.prompt_length import PromptSize, check_prompts, longest_prompts, room, too_long

TABLE = (
    "stages=[rl]",
    "~evaluator.heldout",
    "mix.datasets.main=table",
    "mix.datasets.main.dev_fraction=0",
    "mix.datasets.main.test_fraction=0",
)


def write(folder, rows) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def picture(folder, name, size, color="white", **options) -> str:
    PIL.Image.new("RGB", size, color).save(folder / name, **options)
    return name


@pytest.fixture(scope="module")
def encoder():
    return resolve([]).backbone.encoder()


@pytest.fixture
def mixed(tmp_path):
    """Twenty short questions, one long text, and one large image."""
    small = picture(tmp_path, "small.png", (56, 56))
    rows = [{"id": f"q{n}", "question": "?", "answer": "1", "image": small} for n in range(20)]
    rows[7]["question"] = "why " * 300
    rows[13]["image"] = picture(tmp_path, "large.png", (400, 300))
    return write(tmp_path, rows)


def test_the_longest_by_text_and_by_image_are_found(mixed, encoder) -> None:
    run = resolve([*TABLE, f"mix.datasets.main.path={mixed}"])
    sizes = longest_prompts(run, encoder, count=4)
    assert {sizes[0].id, sizes[1].id} == {"main/q7", "main/q13"}
    assert len(sizes) <= 4
    by_id = {size.id: size for size in sizes}
    assert by_id["main/q7"].image_tokens == 4
    assert by_id["main/q13"].pixels == (400, 300)
    assert by_id["main/q13"].image_tokens == 14 * 11
    assert sizes == sorted(sizes, key=lambda size: (-size.tokens, size.id))


def test_lengths_are_those_of_the_prompts_in_training(mixed, encoder) -> None:
    run = resolve([*TABLE, f"mix.datasets.main.path={mixed}"])
    policy, dataset = run.backbone.load(), run.mix.datasets["main"]
    for size in longest_prompts(run, encoder, count=6):
        index = int(size.id.removeprefix("main/q"))
        batch = policy.encode([dataset.item("train", index)], run.prompt)
        assert batch.input_ids.shape == (1, size.tokens)


def test_all_prompts_without_room_are_named_at_once(mixed) -> None:
    run = resolve([*TABLE, f"mix.datasets.main.path={mixed}", "prompt.max_length=100"])
    with pytest.raises(ConfigError) as caught:
        check_prompts(run)
    named = {problem.where for problem in caught.value.problems}
    assert named == {"item main/q7", "item main/q13"}
    assert "of them for its image of 400 x 300 pixels; there is room for 100" in str(caught.value)
    check_prompts(resolve([*TABLE, f"mix.datasets.main.path={mixed}"]))


def test_the_room_is_the_context_beside_a_response(encoder) -> None:
    assert encoder.context == 32768
    assert room(resolve(["rollout.max_response_length=768"]), encoder) == 32000
    assert room(resolve(["prompt.max_length=512"]), encoder) == 512
    just = [PromptSize("a", 100, 0, None)]
    assert too_long(just, 100) == []
    assert [problem.where for problem in too_long(just, 99)] == ["item a"]


def test_a_run_says_so_before_it_trains(project, mixed) -> None:
    overrides = [*TABLE, f"mix.datasets.main.path={mixed}", "prompt.max_length=100"]
    found = CliRunner().invoke(cli, ["run", *overrides, "rl.steps=1"])
    assert isinstance(found.exception, ConfigError)
    assert "main/q7" in str(found.exception)
    assert not list(project.glob("results/runs/*/metrics.jsonl"))


def test_a_run_with_a_limit_that_is_not_set_keeps_its_id() -> None:
    from vexp.spec.identity import training_id

    assert training_id(resolve(["prompt.max_length=null"])) == training_id(resolve([]))
    assert training_id(resolve(["prompt.max_length=100"])) != training_id(resolve([]))


# --- images of every kind, as far as the model


def encoded(image, image_format, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def every_kind() -> dict[str, bytes]:
    red, blue = (PIL.Image.new("RGB", (60, 40), color) for color in ("red", "blue"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return {
        "1x1.png": encoded(PIL.Image.new("RGB", (1, 1), "red"), "PNG"),
        "1bit.png": encoded(PIL.Image.new("1", (60, 40)), "PNG"),
        "wide.png": encoded(PIL.Image.new("L", (20_000, 100)), "PNG"),
        "cmyk.jpg": encoded(red.convert("CMYK"), "JPEG"),
        "alpha.png": encoded(PIL.Image.new("RGBA", (60, 40), (0, 0, 0, 0)), "PNG"),
        "palette.gif": encoded(red.convert("P"), "GIF", transparency=0),
        "animated.gif": encoded(red, "GIF", save_all=True, append_images=[blue]),
        "turned.jpg": encoded(red, "JPEG", exif=exif),
        "webp.webp": encoded(blue, "WEBP"),
    }


def test_images_of_every_kind_become_prompts(tmp_path, encoder) -> None:
    rows = []
    for name, data in every_kind().items():
        (tmp_path / name).write_bytes(data)
        rows.append({"id": name, "question": "?", "answer": "1", "image": name})
    run = resolve([*TABLE, f"mix.datasets.main.path={write(tmp_path, rows)}"])
    run.mix.check_data()
    sizes = {size.id: size for size in longest_prompts(run, encoder, count=100)}
    assert len(sizes) == len(rows)
    assert all(1 <= size.image_tokens <= 256 for size in sizes.values())
    assert sizes["main/turned.jpg"].pixels == (40, 60)
    check_prompts(run)


def test_unusable_images_are_named_and_counted_together(tmp_path) -> None:
    noise = PIL.Image.effect_noise((80, 80), 90)
    bad = {
        "cut.jpg": encoded(noise, "JPEG")[:-400],
        "text.png": b"not an image",
        "empty.png": b"",
        "sliver.png": encoded(PIL.Image.new("L", (20_000, 1)), "PNG"),
        "bomb.png": encoded(PIL.Image.new("1", (20_000, 20_000)), "PNG"),
    }
    rows = [{"id": "gone", "question": "?", "answer": "1", "image": "gone.png"}]
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        rows.append({"id": name, "question": "?", "answer": "1", "image": name})
    run = resolve([*TABLE, f"mix.datasets.main.path={write(tmp_path, rows)}"])
    with pytest.raises(ConfigError) as caught:
        run.mix.check_data()
    message = str(caught.value)
    assert "6 problems" in message
    for name in (*bad, "gone.png"):
        assert name in message
    assert "too many pixels" in message
    assert "200 times" in message
    for index in range(6):
        with pytest.raises(DataError, match=r"\(id '"):
            Table(path=str(tmp_path / "data.jsonl"), dev_fraction=0, test_fraction=0).item(
                "train", index
            )


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(300, 200), (171, 333), (90, 56)])
def test_boxes_cover_the_tokens_that_show_what_is_in_them(
    tmp_path, encoder, orientation, size
) -> None:
    """The tokens of a box are those whose patches are red where the picture is red."""
    shown = PIL.Image.new("RGB", size, "white")
    width, height = size
    box = (0.26 * width, 0.1 * height, 0.8 * width, 0.6 * height)
    shown.paste((255, 0, 0), tuple(map(round, box)))
    stored = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]  # how it lies in the file
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    shown.rotate(stored, expand=True).save(tmp_path / "a.png", exif=exif)
    row = {"question": "?", "answer": "1", "image": "a.png", "boxes": [list(map(round, box))]}
    table = Table(path=write(tmp_path, [row]), dev_fraction=0, test_fraction=0)
    assert list(table.data_problems()) == []
    item = table.item("train", 0)
    assert item.image.size == size
    batch = encoder.encode([item], resolve([]).prompt)
    _, rows, columns = (int(v) for v in batch.image_grid_thw[0])
    patches = batch.pixel_values.view(rows * columns // 4, 4, 3, -1).mean(dim=(1, 3))
    redness = patches[:, 0] - patches[:, 1]  # of each image token: red over green
    inside = redness > (redness.min() + redness.max()) / 2
    boxes, dropped = relative_boxes(item.boxes, item.image.size)
    (covered,) = token_masks(boxes, (rows // 2, columns // 2))
    assert not dropped
    edge = int((inside ^ covered).sum())
    assert edge <= 0.25 * int(covered.sum()), "up to tokens that the edge goes through"
    centre = torch.nonzero(covered).float().mean()
    assert torch.nonzero(inside).float().mean() == pytest.approx(centre, abs=2)
