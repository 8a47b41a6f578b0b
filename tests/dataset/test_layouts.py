"""Published datasets as tables: small files in each true layout, and what is wrong with them."""

from __future__ import annotations

import io
import json
import shutil

import PIL.Image
import pytest
from click.testing import CliRunner

from vexp.cli.main import cli
from vexp.dataset.layouts import clevr as clevr_layout
from vexp.dataset.layouts import convert, describe, names
from vexp.dataset.layouts._row import unboxed
from vexp.dataset.layouts._scenes import NoEvidence, evidence
from vexp.dataset.table import Table
from vexp.errors import ConfigError, DataError


def png(size=(40, 20), color="red", image_format="PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(buffer, image_format)
    return buffer.getvalue()


def save(path, size=(40, 20), color="red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, color).save(path)


def write_json(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_parquet(path, rows) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def virl39k(root) -> None:
    save(root / "images/a-0.jpg")
    save(root / "images/b-0.jpg")
    common = {"source": "x", "category": "y", "PassRate_32BTrained": 0.5}
    rows = [
        {
            "question": "<image>\nFind x.",
            "answer": "\\boxed{3}",
            "qid": "a",
            "image": ["images/a-0.jpg"],
        },
        {
            "question": "<image><image>?",
            "answer": "\\boxed{1}",
            "qid": "b",
            "image": ["images/a-0.jpg", "images/b-0.jpg"],
        },
        {"question": "Text only: 1+1?", "answer": "\\boxed{\\frac{4}{2}}", "qid": "c", "image": []},
    ]
    write_parquet(root / "39Krelease.parquet", [row | common for row in rows])


def geometry3k(root) -> None:
    def row(n):
        image = {"bytes": png(color=(n, 0, 0)), "path": None}
        return {"images": [image], "problem": f"<image>Find x{n}.", "answer": str(n)}

    write_parquet(root / "data/train-00000-of-00002.parquet", [row(1), row(2)])
    write_parquet(root / "data/train-00001-of-00002.parquet", [row(1)])
    write_parquet(root / "data/validation-00000-of-00001.parquet", [row(3)])
    write_parquet(root / "data/test-00000-of-00001.parquet", [row(4)])


def mmk12(root) -> None:
    def row(n):
        image = {"bytes": png(), "path": "x.png"}
        return {
            "id": str(n),
            "question": f"<image>q{n}",
            "answer": "A",
            "subject": "math",
            "image": image,
        }

    write_parquet(root / "data/train-00000-of-00001.parquet", [row(0), row(1)])
    write_parquet(root / "data/test-00000-of-00001.parquet", [row(0)])


def zwz(root) -> None:
    save(root / "original_images/sa_1.jpg", (200, 100))
    row = {
        "images": ["images/sa_1_marked.jpg"],
        "original_images": ["original_images/sa_1.jpg"],
        "problem": "<image>\nOnly focus on the objects inside the red bounding box in the image to "
        "answer this question. What color is the cup?\nA. red\nB. blue",
        "answer": "A",
        "bbox": "(10.5,20.0,60.0,80.2)",
    }
    write_parquet(root / "train.parquet", [row, row | {"bbox": "(150.0,20.0,260.0,80.0)"}])
    write_parquet(root / "train1.parquet", [row])


def space10(root) -> None:
    row = {
        "index": 7,
        "question": "How many chairs?",
        "answer": "B",
        "category": "eq",
        "A": "1",
        "B": "2",
        "C": "3",
        "D": None,
        "image": [png()],
    }
    write_parquet(root / "single-choice/eq/test-00000-of-00001.parquet", [row])
    several = row | {"index": 8, "image": [png(), png()]}
    write_parquet(root / "single-choice/oo/test-00000-of-00001.parquet", [row, several])


def refocus(root) -> None:
    row = {
        "id": "chart_1",
        "question": "Which bar is highest?",
        "answer": "A",
        "image": {"bytes": png((100, 50)), "path": None},
        "thoughts": ["focus"],
        "edited_image": {"bytes": png(), "path": None},
        "focus_areas_bbox": {"x1": [10, 50], "y1": [5, 5], "x2": [20, 60], "y2": [45, 45]},
    }
    none = row | {
        "id": "chart_2",
        "focus_areas_bbox": {side: [] for side in ("x1", "y1", "x2", "y2")},
    }
    write_parquet(root / "data/train-00000-of-00003.parquet", [row, none])
    write_parquet(root / "data/val-00000-of-00001.parquet", [row])


def gqa(root) -> None:
    save(root / "images/23.jpg", (300, 200))
    graph = {
        "width": 300,
        "height": 200,
        "objects": {
            "5": {
                "name": "cup",
                "x": 10,
                "y": 20,
                "w": 30,
                "h": 40,
                "attributes": [],
                "relations": [],
            },
            "6": {
                "name": "table",
                "x": 0,
                "y": 100,
                "w": 300,
                "h": 100,
                "attributes": [],
                "relations": [],
            },
        },
    }

    def question(**annotations):
        return {
            "imageId": "23",
            "question": "What is on the table?",
            "answer": "cup",
            "fullAnswer": "The cup.",
            "isBalanced": True,
            "semantic": [],
            "annotations": annotations,
        }

    questions = {
        "001": question(question={"4": "6"}, answer={"0": "5"}, fullAnswer={"1": "5"}),
        "002": question(question={}, answer={}, fullAnswer={"1": "5"}),
        "003": question(question={}, answer={}, fullAnswer={}),
        "004": question(question={}, answer={}, fullAnswer={}) | {"imageId": "99"},
    }
    for split in ("train", "val"):
        write_json(root / f"questions/{split}_balanced_questions.json", questions)
        write_json(root / f"sceneGraphs/{split}_sceneGraphs.json", {"23": graph})


SCENE = {  # of CLEVR: three things from the left to the right
    "image_filename": "CLEVR_train_000000.png",
    "image_index": 0,
    "objects": [
        {
            "shape": "sphere",
            "size": "large",
            "color": "red",
            "material": "metal",
            "pixel_coords": [100, 160, 10.0],
            "rotation": 0.0,
        },
        {
            "shape": "cube",
            "size": "small",
            "color": "red",
            "material": "rubber",
            "pixel_coords": [240, 160, 10.5],
            "rotation": 30.0,
        },
        {
            "shape": "cylinder",
            "size": "small",
            "color": "blue",
            "material": "metal",
            "pixel_coords": [400, 10, 10.5],
            "rotation": 0.0,
        },
    ],
    "relationships": {
        "left": [[], [0], [0, 1]],
        "right": [[1, 2], [2], []],
        "front": [[], [], []],
        "behind": [[], [], []],
    },
}


def step(function, *inputs, value=None):
    return {"function": function, "inputs": list(inputs), "value_inputs": [value] if value else []}


LEFT_OF_CYLINDER = [  # what color is the sphere left of the cylinder?
    step("scene"),
    step("filter_shape", 0, value="cylinder"),
    step("unique", 1),
    step("relate", 2, value="left"),
    step("filter_shape", 3, value="sphere"),
    step("unique", 4),
    step("query_color", 5),
]
COUNT_RED = [step("scene"), step("filter_color", 0, value="red"), step("count", 1)]
NO_GREEN = [step("scene"), step("filter_color", 0, value="green"), step("exist", 1)]
MORE_RED = [
    step("scene"),
    step("filter_color", 0, value="red"),
    step("count", 1),
    step("scene"),
    step("filter_color", 3, value="blue"),
    step("count", 4),
    step("greater_than", 2, 5),
]
SAME_COLOR = [
    step("scene"),
    step("filter_shape", 0, value="sphere"),
    step("unique", 1),
    step("same_color", 2),
    step("count", 3),
]


def clevr(root) -> None:
    for split in ("train", "val"):
        save(root / f"images/{split}/CLEVR_{split}_000000.png", (480, 320))
        asked = [
            ("What color is the sphere?", "red", LEFT_OF_CYLINDER),
            ("How many red things?", "2", COUNT_RED),
            ("Is there a green thing?", "no", NO_GREEN),
        ]
        questions = [
            {
                "question": text,
                "answer": answer,
                "program": program,
                "question_index": n,
                "image_filename": f"CLEVR_{split}_000000.png",
                "image_index": 0,
                "split": split,
            }
            for n, (text, answer, program) in enumerate(asked)
        ]
        scene = SCENE | {"image_filename": f"CLEVR_{split}_000000.png"}
        write_json(
            root / f"questions/CLEVR_{split}_questions.json", {"info": {}, "questions": questions}
        )
        write_json(root / f"scenes/CLEVR_{split}_scenes.json", {"info": {}, "scenes": [scene]})


def superclevr(root) -> None:
    things = [("truck", "red"), ("tandem", "purple"), ("school", "gray")]
    scenes, questions = [], []
    for index in (0, 20_000, 25_000):
        name = f"superCLEVR_new_{index:06d}.png"
        save(root / "images" / name, (640, 480))
        scenes.append(
            {
                "image_filename": name,
                "image_index": index,
                "objects": [
                    {
                        "shape": shape,
                        "color": color,
                        "size": "small",
                        "material": "metal",
                        "parts": {},
                    }
                    for shape, color in things
                ],
                "relationships": {"left": [[], [0], [0, 1]]},
                "obj_mask_box": {
                    "0": {"info": "truck", "obj": [[10, 20, 30, 40], "5,6"]},
                    "1": {"info": "tandem", "obj": [[100, 20, 30, 40], "5,6"]},
                    "2": {"info": "school", "obj": [[0, 0, 0, 0], ""]},
                },
            }
        )

        def typed(program):
            return [
                {"type": s["function"], "inputs": s["inputs"], "side_inputs": s["value_inputs"]}
                for s in program
            ]

        bicycle = [step("scene"), step("filter_shape", 0, value="bicycle"), step("exist", 1)]
        bus = [step("scene"), step("filter_shape", 0, value="bus"), step("exist", 1)]
        part = [step("scene"), step("object2part", 0), step("count", 1)]
        for number, (answer, program) in enumerate(((True, bicycle), (True, bus), (1, part))):
            questions.append(
                {
                    "question": f"Q{number}?",
                    "answer": answer,
                    "program": typed(program),
                    "image_filename": name,
                    "image_index": index,
                    "question_index": number,
                    "template_filename": "zero_hop.json",
                    "split": "new",
                }
            )
    write_json(root / "superCLEVR_scenes.json", {"info": {}, "scenes": scenes})
    write_json(root / "superCLEVR_questions_30k.json", {"info": {}, "questions": questions})


LAYOUTS = {
    f.__name__: f
    for f in (virl39k, geometry3k, mmk12, zwz, space10, refocus, gqa, clevr, superclevr)
}


@pytest.fixture
def made(tmp_path):
    """Writes a layout, converts it, and gives the folder, what was written, and its items."""

    def make(name, **options):
        source, target = tmp_path / f"{name} source", tmp_path / f"{name} table"
        source.mkdir(exist_ok=True)
        LAYOUTS[name](source)
        done = convert(name, source, target, **options)
        own = {f"{s}_path": str(target / f"{s}.jsonl") for s in ("dev", "test") if s in done.rows}
        table = Table(path=str(target / "train.jsonl"), dev_fraction=0.0, test_fraction=0.0, **own)
        assert list(table.data_problems()) == []
        items = {
            s: [table.item(s, i) for i in range(table.size(s))] for s in ("train", "dev", "test")
        }
        return target, done, items

    return make


def test_every_layout_is_tested_and_described() -> None:
    assert sorted(LAYOUTS) == names()
    for name in names():
        assert "\n    " in describe(name), "says what lies in the folder"


def test_virl39k(made) -> None:
    _, done, items = made("virl39k")
    assert [(i.id, i.question, i.answer) for i in items["train"]] == [
        ("a", "Find x.", "3"),
        ("c", "Text only: 1+1?", "\\frac{4}{2}"),
    ]
    assert items["train"][0].image.size == (40, 20)
    assert items["train"][1].image is None
    assert done.left_out == {"it has several images": ["b"]}


def test_geometry3k(made) -> None:
    target, done, items = made("geometry3k")
    assert [len(items[s]) for s in ("train", "dev", "test")] == [3, 1, 1]
    assert [i.question for i in items["train"]] == ["Find x1.", "Find x2.", "Find x1."]
    assert items["test"][0].answer == "4"
    assert len({i.id for split in items.values() for i in split}) == 5
    assert items["train"][1].image.getpixel((0, 0)) == (2, 0, 0)
    assert len(list((target / "images").iterdir())) == 4, "equal images are one file"
    assert done.rows["train"] == {"single": 0, "multi": 0, "untagged": 3}


def test_mmk12(made) -> None:
    _, _, items = made("mmk12")
    assert [i.id for i in items["train"]] == ["train/0", "train/1"]
    assert [i.id for i in items["test"]] == ["test/0"]
    assert items["train"][1].question == "q1"


def test_zwz(made) -> None:
    _, done, items = made("zwz")
    assert [i.id for i in items["train"]] == ["train/0", "train1/0"]
    item = items["train"][0]
    assert item.question == "What color is the cup?\nA. red\nB. blue"
    assert item.boxes == ((10.5, 20.0, 60.0, 80.2),)
    assert item.tag == "single"
    assert done.left_out == {"a box reaches out of the image": ["train/1"]}


def test_space10(made) -> None:
    _, done, items = made("space10")
    assert [i.id for i in items["train"]] == ["eq/7", "oo/7"]
    assert items["train"][0].question == "How many chairs?\nA. 1\nB. 2\nC. 3"
    assert items["train"][0].answer == "B"
    assert done.left_out == {"it has several images": ["oo/8"]}


def test_refocus(made) -> None:
    _, _, items = made("refocus")
    boxed, plain = items["train"]
    assert boxed.boxes == ((10, 5, 20, 45), (50, 5, 60, 45))
    assert (boxed.tag, plain.tag, plain.boxes) == ("multi", "", ())
    assert [len(items[s]) for s in ("train", "dev", "test")] == [2, 1, 0]


def test_gqa(made) -> None:
    _, done, items = made("gqa")
    multi, single = items["train"]
    assert multi.boxes == ((0, 100, 300, 200), (10, 20, 40, 60)), "in the order of the words"
    assert (multi.tag, single.tag) == ("multi", "single")
    assert single.boxes == ((10, 20, 40, 60),)
    assert done.left_out == {
        "it is linked to no object": ["train/003", "val/003"],
        "its image has no scene graph": ["train/004", "val/004"],
    }
    assert len(items["dev"]) == 2


def test_clevr(made) -> None:
    _, done, items = made("clevr")
    relation, count = items["train"]
    assert (relation.tag, count.tag) == ("multi", "multi")
    assert [i.id for i in items["dev"]] == ["val/0", "val/1"]
    assert done.left_out == {"the answer is that there is none": ["train/2", "val/2"]}
    sphere = 525 * 0.7 / 10
    assert relation.boxes[0] == pytest.approx(
        (100 - sphere, 160 - sphere, 100 + sphere, 160 + sphere)
    )
    assert relation.boxes[1][1] == 0, "cut to the image"


def test_superclevr(made) -> None:
    _, done, items = made("superclevr")
    assert [len(items[s]) for s in ("train", "dev", "test")] == [1, 1, 1]
    item = items["train"][0]
    assert (item.question, item.answer, item.boxes) == ("Q0?", "yes", ((100, 20, 130, 60),))
    assert {reason: len(ids) for reason, ids in done.left_out.items()} == {
        "an object of its evidence is hidden": 3,
        "it asks about parts of objects": 3,
    }


# --- evidence of a program


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (LEFT_OF_CYLINDER, [0, 2]),
        (COUNT_RED, [0, 1]),
        (MORE_RED, [0, 1, 2]),
        (SAME_COLOR, [0, 1]),
    ],
)
def test_the_evidence_is_what_the_answer_was_read_from(program, expected) -> None:
    assert evidence(program, SCENE) == expected


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (NO_GREEN, "there is none"),
        ([step("scene"), step("unique", 0)], "does not fit"),
        ([step("scene"), step("frobnicate", 0)], "unknown step 'frobnicate'"),
        ([step("unique", 3)], "does not fit"),
        ([step("scene"), step("filter_taste", 0, value="sour")], "does not fit"),
    ],
)
def test_programs_without_evidence_are_named(program, message) -> None:
    with pytest.raises(NoEvidence, match=message):
        evidence(program, SCENE)


def test_a_box_of_clevr_grows_with_the_thing_and_shrinks_with_its_distance() -> None:
    thing = {"shape": "cube", "size": "small", "pixel_coords": [240, 160, 10]}
    small, large = clevr_layout.box(thing), clevr_layout.box(thing | {"size": "large"})
    far = clevr_layout.box(thing | {"pixel_coords": [240, 160, 20]})
    widths = [x2 - x1 for x1, _, x2, _ in (far, small, large)]
    assert widths == pytest.approx([18.375, 36.75, 73.5])


# --- what is wrong


def test_a_missing_file_is_one_message(tmp_path) -> None:
    gqa(tmp_path)
    (tmp_path / "sceneGraphs/val_sceneGraphs.json").unlink()
    with pytest.raises(DataError) as caught:
        convert("gqa", tmp_path, tmp_path / "out")
    assert "there is no val_sceneGraphs.json or sceneGraphs/val_sceneGraphs.json" in str(
        caught.value
    )
    assert "`vexp convert gqa`" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_renamed_column_is_one_message(tmp_path) -> None:
    write_parquet(
        tmp_path / "39Krelease.parquet",
        [{"questions": "?", "answer": "", "qid": "", "image": [""]}],
    )
    with pytest.raises(DataError, match="no column 'question'") as caught:
        convert("virl39k", tmp_path, tmp_path / "out")
    assert "did you mean 'questions'" in str(caught.value)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_empty_folder_is_one_message(name, tmp_path) -> None:
    with pytest.raises(DataError, match="there is no "):
        convert(name, tmp_path, tmp_path / "out")


def test_a_damaged_file_is_one_message(tmp_path) -> None:
    (tmp_path / "39Krelease.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*39Krelease"):
        convert("virl39k", tmp_path, tmp_path / "out")
    gqa(tmp_path)
    (tmp_path / "questions/train_balanced_questions.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read as JSON[\s\S]*train_balanced"):
        convert("gqa", tmp_path, tmp_path / "out")


def test_a_record_of_another_form_is_one_message(tmp_path) -> None:
    gqa(tmp_path)
    write_json(tmp_path / "sceneGraphs/train_sceneGraphs.json", {"23": ["objects"]})
    with pytest.raises(DataError, match="does not have the form of the layout 'gqa'"):
        convert("gqa", tmp_path, tmp_path / "out")
    write_json(tmp_path / "questions/train_balanced_questions.json", {"1": {"imageID": "23"}})
    with pytest.raises(DataError, match=r"a record has no 'imageId'[\s\S]*did you mean 'imageID'"):
        convert("gqa", tmp_path, tmp_path / "out")


def test_unusable_images_are_counted_with_their_ids(tmp_path) -> None:
    rows = []
    for n, content in enumerate((png(), b"no image", png()[:60], png((401, 2)), b"")):
        (tmp_path / f"images/{n}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"images/{n}.jpg").write_bytes(content)
        rows.append({"question": "?", "answer": "1", "qid": f"q{n}", "image": [f"images/{n}.jpg"]})
    rows += [
        rows[0] | {"qid": "gone", "image": ["images/9.jpg"]},
        rows[0] | {"qid": "out", "image": ["/etc/x"]},
    ]
    rows += [
        rows[0] | {"qid": "up", "image": ["../x.jpg"]},
        rows[0] | {"qid": "mute", "question": ""},
    ]
    write_parquet(tmp_path / "39Krelease.parquet", rows)
    done = convert("virl39k", tmp_path, tmp_path / "out")
    assert done.rows["train"]["untagged"] == 1
    left = {item: reason for reason, ids in done.left_out.items() for item in ids}
    assert sorted(left) == ["gone", "mute", "out", "q1", "q2", "q3", "q4", "up"]
    assert "not an image" in left["q1"] == left["q4"]
    assert "damaged" in left["q2"]
    assert "200 times" in left["q3"]
    assert "does not exist" in left["gone"]
    assert left["up"] == left["out"] == "the image lies outside the folder"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["left_out"]["the question is empty"] == {"count": 1, "ids": ["mute"]}


# Layouts with images in Parquet files: the file, and a row with an image's cell.
IN_PARQUET = {
    "geometry3k": (
        "data/train-0.parquet",
        lambda _, cell: {"images": [cell], "problem": "<image>?", "answer": "$\\boxed{4}$"},
    ),
    "mmk12": (
        "data/train-0.parquet",
        lambda n, cell: {"id": n, "question": "<image>?", "answer": "4", "image": cell},
    ),
    "refocus": (
        "data/train-0.parquet",
        lambda n, cell: {
            "id": n, "question": "?", "answer": "4", "image": cell, "focus_areas_bbox": None,
        },
    ),
    "space10": (
        "single-choice/eq/train-0.parquet",
        lambda n, cell: {
            "index": n, "question": "?", "answer": "B", "A": "x", "B": "y", "image": cell,
        },
    ),
    "virl39k": (
        "39Krelease.parquet",
        lambda n, cell: {"question": "<image>?", "answer": "4", "qid": n, "image": cell},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", IN_PARQUET)
def test_an_image_that_is_a_path_is_read_and_a_lost_one_is_left_out(tmp_path, layout) -> None:
    file, row = IN_PARQUET[layout]
    save(tmp_path / "in/below/a.png", (40, 20))
    save((tmp_path / "in" / file).parent / "beside.png", (30, 20))
    cells = [
        {"bytes": None, "path": "below/a.png"},
        {"bytes": None, "path": "beside.png"},
        {"bytes": png((20, 20)), "path": "gone.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": None},
        {"bytes": None, "path": "../out.png"},
    ]
    write_parquet(tmp_path / "in" / file, [row(str(n), cell) for n, cell in enumerate(cells)])
    run = CliRunner().invoke(cli, ["convert", layout, str(tmp_path / "in"), str(tmp_path / "out")])
    assert run.exit_code == 1
    assert "1 rows name an image that is not below" in run.output
    table = Table(path=str(tmp_path / "out/train.jsonl"), dev_fraction=0, test_fraction=0)
    sizes = [table.item("train", n).image.size for n in range(table.size("train"))]
    assert sizes == [(40, 20), (30, 20), (20, 20)]
    assert table.item("train", 0).answer in ("4", "B")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    reasons = {reason: left["count"] for reason, left in manifest["left_out"].items()}
    assert reasons == {
        "the image does not exist": 1,
        "it has no image": 1,
        "the image lies outside the folder": 1,
    }
    assert manifest["without_image"] == {"train": 0}


def test_questions_without_an_image_are_counted(made) -> None:
    target, done, _ = made("virl39k")
    assert done.without_image == {"train": 1}
    assert json.loads((target / "manifest.json").read_text())["without_image"] == {"train": 1}


def test_placeholders_that_stand_for_no_image_are_left_out(tmp_path) -> None:
    save(tmp_path / "in/a.png")
    texts = ("<image>?", "<image><image>?", "Is <|image_pad|> it?", "<video>?", "x" * 1_000_001)
    rows = [
        {"question": text, "answer": "4", "qid": str(n), "image": ["a.png"]}
        for n, text in enumerate(texts)
    ]
    write_parquet(tmp_path / "in/39Krelease.parquet", rows)
    done = convert("virl39k", tmp_path / "in", tmp_path / "out")
    assert done.left_out == {
        "its question has placeholders that stand for no image": ["1", "2", "3"],
        "the question has more than 1,000,000 characters": ["4"],
    }


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path) -> None:
    rows = [{"question": "?", "answer": "1", "qid": "a", "image": ["images/none.jpg"]}]
    write_parquet(tmp_path / "39Krelease.parquet", rows)
    with pytest.raises(DataError, match=r"no row for training[\s\S]*the image does not exist: 1"):
        convert("virl39k", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_exists_is_never_overwritten(made, tmp_path) -> None:
    target, _, _ = made("virl39k")
    with pytest.raises(ConfigError, match="exists already"):
        convert("virl39k", tmp_path, target)
    with pytest.raises(ConfigError, match="did you mean 'virl39k'"):
        convert("virl39", tmp_path, tmp_path / "new")
    with pytest.raises(DataError, match="no such folder"):
        convert("virl39k", tmp_path / "nowhere", tmp_path / "new")


# --- the table


def test_the_same_source_gives_the_same_bytes_wherever_it_lies(tmp_path) -> None:
    first = tmp_path / "a"
    gqa(first)
    shutil.copytree(first, tmp_path / "b/c")
    convert("gqa", first, tmp_path / "one")
    convert("gqa", tmp_path / "b/c", tmp_path / "deep/er/two", images="copy")
    found = [tmp_path / "one", tmp_path / "deep/er/two"]
    contents = [Table(path=str(path / "train.jsonl")).content() for path in found]
    assert contents[0] == contents[1]


def test_copied_images_do_without_the_source(made, tmp_path) -> None:
    target, _, items = made("gqa", images="copy")
    shutil.rmtree(tmp_path / "gqa source")
    table = Table(path=str(target / "train.jsonl"), dev_fraction=0.0, test_fraction=0.0)
    assert table.item("train", 0).image.tobytes() == items["train"][0].image.tobytes()


def test_a_limit_keeps_rows_that_do_not_depend_on_the_others(tmp_path) -> None:
    def rows(qids):
        return [{"question": "?", "answer": "1", "qid": q, "image": []} for q in qids]

    kept = []
    for name, qids in (("a", range(40)), ("b", range(39, -1, -1))):
        write_parquet(tmp_path / name / "39Krelease.parquet", rows([str(q) for q in qids]))
        convert("virl39k", tmp_path / name, tmp_path / f"{name}-out", limit=7)
        lines = (tmp_path / f"{name}-out/train.jsonl").read_text().splitlines()
        kept.append([json.loads(line)["id"] for line in lines])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 7
    assert kept[0] != [str(n) for n in range(7)]


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("\\boxed{3}", "3"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("3", "3"),
        (None, ""),
        (0, "0"),
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("$\\boxed{4}$", "4"),
        ("$$ \\boxed{4} $$", "4"),
        ("\\(\\boxed{\\text{A}}\\).", "\\text{A}"),
        ("\\boxed {4}", "4"),
        ("$\\fbox{4}$", "4"),
        ("$\\boxed{1}$ or $\\boxed{2}$", "$\\boxed{1}$ or $\\boxed{2}$"),
        ("$5$", "$5$"),
        ("$", "$"),
        (5.0, "5"),
        (2.5, "2.5"),
        (0.699999988079071, "0.7"),
        (float("nan"), ""),
    ],
)
def test_boxes_around_answers_are_removed(text, inner) -> None:
    assert unboxed(text) == inner


def test_the_command_says_what_was_written_and_what_comes_next(tmp_path) -> None:
    gqa(tmp_path / "gqa")
    run = CliRunner().invoke(cli, ["convert", "gqa", str(tmp_path / "gqa"), str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "train: 2 rows (1 single, 1 multi)" in run.output
    assert "left out: 2, it is linked to no object: train/003, val/003" in run.output
    assert f"mix.datasets.main.dev_path={tmp_path}/out/dev.jsonl" in run.output
    listed = CliRunner().invoke(cli, ["convert"]).output.splitlines()
    assert [line.split()[0] for line in listed] == names()
    assert "sceneGraphs" in CliRunner().invoke(cli, ["convert", "gqa"]).output
    as_json = CliRunner().invoke(
        cli, ["convert", "gqa", str(tmp_path / "gqa"), str(tmp_path / "two"), "--json"]
    )
    assert json.loads(as_json.output)["rows"]["dev"] == {"single": 1, "multi": 1, "untagged": 0}
