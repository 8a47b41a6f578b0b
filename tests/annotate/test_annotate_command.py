"""`vexp annotate` against a real server: right boxes, faults, kills, and what is published."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.annotate.scene import SQUARES, seeing, settings, step_of, table, text_of
from tests.endpoint.server import Server
from vexp.registry import REGISTRY

KEY = "sk-annotate-secret-7"


@pytest.fixture
def server():
    server = Server(seeing)
    yield server
    server.close()


@pytest.fixture
def data(project):
    return table(project / "data", 6)


def command(*arguments):
    return [sys.executable, "-m", "vexp", "annotate", *map(str, arguments)]


def annotate(*arguments, code=0, **env):
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, env=os.environ | env, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def call(server, data, *more, output="out", endpoint=None, **how):
    told = settings(server.url, **(endpoint or {}))
    return annotate(*told, "--data", data, "--output", output, *more, **how)


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_boxes_tags_and_a_table_to_train_on(server, data):
    done = call(server, data, "--json")
    summary = json.loads(done.stdout)
    assert (summary["items"], summary["single"], summary["multi"]) == (6, 3, 3)
    assert summary["verdicts"] == {"valid": 9}
    (asked,) = summary["asked"]
    assert asked["requests"] == len(server.bodies) == 6 + 9 + 9
    assert asked["prompt_tokens"] == 2400
    for number, row in enumerate(rows("out/train.jsonl")):
        both = [list(map(float, box)) for box in SQUARES.values()]
        assert row["id"] == f"item{number}"
        assert row["boxes"] == (both if number % 2 else both[:1])
        assert row["tag"] == ("multi" if number % 2 else "single")
    found = REGISTRY.get("dataset", "table")(
        path="out/train.jsonl", dev_fraction=0.0, test_fraction=0.0
    )
    assert not list(found.data_problems())
    assert found.size("train") == 6
    item = found.item("train", 1)
    assert item.image.getpixel((30, 20)) == (220, 20, 20)
    assert item.boxes == tuple(tuple(map(float, box)) for box in SQUARES.values())
    assert not Path("out.partial").exists()
    evidence = rows("out/evidence.jsonl")
    assert evidence[1]["phrases"] == ["the red square", "the blue square"]
    assert "question" not in evidence[1]


def test_the_same_command_again_asks_nothing(server, data):
    call(server, data)
    before = len(server.bodies)
    again = call(server, data)
    assert "6 items: 3 single, 3 multi" in again.stdout
    assert len(server.bodies) == before
    other = call(server, data, "merging.agreement=0.5", code=2)
    assert "the folder exists already" in other.stderr


def test_other_settings_ask_only_what_is_new(server, data):
    server.answer = lambda body: (
        ("status", 500, {}, "") if step_of(body) == "validator" else seeing(body)
    )
    call(server, data, "--skip-unanswered", code=2)  # not one item: nothing is published
    before = Counter(map(step_of, server.bodies))
    server.answer = seeing
    server.bodies.clear()
    call(server, data, "merging.near_phrase=0.8")
    assert Counter(map(step_of, server.bodies)) == {"validator": 9}
    assert before["extractor"] == 6


def test_killed_at_random_moments_nothing_is_asked_twice(server, project):
    data = table(project / "many", 24)
    server.delay_s = 0.02
    told = [*settings(server.url), "--data", data, "--output", "out", "workers=3"]
    draw = random.Random(11)
    for _ in range(4):
        seen = len(server.bodies)
        process = subprocess.Popen(command(*told), stderr=subprocess.PIPE)
        while len(server.bodies) < seen + draw.randint(3, 14) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        time.sleep(0.2)
        assert not Path("out").exists()
    annotate(*told)
    assert len(rows("out/train.jsonl")) == 24
    counts = Counter(server.hashes())
    # at each kill, a worker may have sent one question whose answer was not written yet
    assert sum(counts.values()) - len(counts) <= 4 * 3
    assert len(counts) == 24 + 36 + 36
    written = [row["key"] for row in rows("out/journal.jsonl") if "key" in row]
    assert len(written) == len(set(written))


def test_ctrl_c_keeps_what_was_asked_and_loses_nothing(server, data):
    server.delay_s = 0.1
    told = [*settings(server.url), "--data", data, "--output", "out", "workers=2"]
    process = subprocess.Popen(command(*told), stderr=subprocess.PIPE, text=True)
    while len(server.bodies) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 6 items are annotated" in said and "Traceback" not in said
    annotate(*told)
    counts = Counter(server.hashes())
    assert max(counts.values()) == 1  # questions under way were answered and written
    assert len(counts) == 24


def test_two_at_a_time_are_refused(server, data):
    server.delay_s = 0.2
    told = [*settings(server.url), "--data", data, "--output", "out"]
    first = subprocess.Popen(command(*told), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not server.bodies:
        time.sleep(0.01)
    second = annotate(*told, code=1)
    assert "another process works on this annotation" in second.stderr
    assert first.wait(timeout=60) == 0
    first.communicate()


def test_faults_on_the_way_change_nothing(server, data):
    limited = ("status", 429, {"Retry-After": "0.05"}, "{}")
    server.faults = [
        "hangup",
        limited,
        "garbage",
        "cut",
        ("status", 502, {}, "x"),
        limited,
        "hangup",
    ]
    call(server, data, "workers=2", endpoint={"retries": 8})
    call(Server(seeing), data, output="plain")
    for one, other in zip(rows("out/train.jsonl"), rows("plain/train.jsonl"), strict=True):
        assert one == other


def test_answers_that_make_no_sense_are_counted_and_named(server, data):
    def answer(body):
        _, text = text_of(body)
        step = step_of(body)
        again = len(body["messages"]) > 2
        if step == "extractor" and "Question 0" in text:
            return "As a language model I see no squares."
        if step == "extractor" and "Question 2" in text and not again:
            return "sure!"  # the second time it answers
        if step == "localizer" and "blue" in text:
            return '{"box": [5000, 1, 2, 3]}'
        if step == "validator" and "Question 4" in text:
            return '{"valid": "perhaps"}'
        return seeing(body)

    server.answer = answer
    summary = json.loads(call(server, data, "--json").stdout)
    assert summary["left_out"] == {
        "the extractor's answer cannot be read": {"count": 1, "ids": ["item0"]},
        "no box was validated": {"count": 1, "ids": ["item4"]},
    }
    assert (summary["single"], summary["multi"]) == (4, 0)
    assert summary["misread"] == {"extractor": 3, "localizer": 6, "validator": 2}
    assert [row["id"] for row in rows("out/train.jsonl")] == ["item1", "item2", "item3", "item5"]


def test_a_refused_item_is_left_out_and_named(server, data):
    def answer(body):
        if "Question 3" in text_of(body)[1]:
            return ("status", 400, {}, '{"error": {"message": "content policy"}}')
        return seeing(body)

    server.answer = answer
    done = call(server, data)
    assert "left out: 1, an endpoint refused it: item3" in done.stdout
    (why,) = [row["why"] for row in rows("out/evidence.jsonl") if row["id"] == "item3"]
    assert "content policy" in why


def test_items_without_an_answer_are_asked_for_again(server, data):
    def answer(body):
        return ("status", 503, {}, "") if "Question 3" in text_of(body)[1] else seeing(body)

    server.answer = answer
    done = call(server, data, code=1)
    assert "1 of 6 items are not annotated" in done.stderr
    assert not Path("out").exists()
    server.answer = seeing
    server.bodies.clear()
    call(server, data)
    assert len(server.bodies) == 5  # one question, two boxes, two verdicts
    assert len(rows("out/train.jsonl")) == 6


def test_skip_unanswered_publishes_the_rest(server, data):
    server.answer = lambda body: (
        ("status", 503, {}, "") if "Question 3" in text_of(body)[1] else seeing(body)
    )
    done = call(server, data, "--skip-unanswered")
    assert "left out: 1, no answer from an endpoint" in done.stdout
    assert len(rows("out/train.jsonl")) == 5


def test_an_endpoint_that_is_down_stops_it_soon(server, project):
    data = table(project / "many", 30)
    server.answer = lambda body: ("status", 500, {}, "")
    done = call(server, data, "stop_after=3", "workers=2", endpoint={"retries": 0}, code=1)
    assert "30 of 30 items are not annotated: the endpoint gives no answer: HTTP 500" in done.stderr
    assert len(server.bodies) <= 3 + 2 + 2  # counted, waiting to be counted, under way


def test_a_wrong_key_stops_it_at_once_and_is_never_written(server, data):
    server.answer = lambda body: ("status", 401, {}, f'{{"error": {{"message": "bad {KEY}"}}}}')
    with_key = {"key_variable": "ANNOTATE_KEY"}
    done = call(server, data, endpoint=with_key, code=1, ANNOTATE_KEY=KEY)
    assert "look at the key in ANNOTATE_KEY" in done.stderr and KEY not in done.stderr
    server.answer = seeing
    done = call(server, data, endpoint=with_key, ANNOTATE_KEY=KEY)
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in done.stdout + done.stderr


def test_missing_keys_are_named_all_at_once(server, data):
    told = settings(server.url, key_variable="NO_SUCH_KEY")
    done = annotate(*told, "--data", data, "--output", "out", code=2)
    assert done.stderr.count("NO_SUCH_KEY is not set") == 3
    assert not server.bodies


def test_a_dry_run_asks_nothing_and_counts(server, data):
    priced = {"prompt_price": 1.0, "reply_price": 10.0, "max_tokens": 100}
    done = call(server, data, "--dry-run", "--json", endpoint=priced)
    found = json.loads(done.stdout)
    assert not server.bodies and not Path("out.partial").exists()
    steps = {step["step"]: step for step in found["steps"]}
    counts = {name: step["requests"] for name, step in steps.items()}
    assert counts == {"extractor": 6, "localizer": 12, "validator": 12}
    tokens = steps["extractor"]["prompt_tokens"]
    call(server, data)
    sent = [body for body in server.bodies if step_of(body) == "extractor"]
    characters = sum(len(part) + 1 for body in sent for part in text_of(body)) - len(sent)
    assert tokens == pytest.approx(characters / 4 + 6 * 200 * 100 / 784, abs=1)
    expected = (tokens + 10 * 100 * 6) / 1e6
    assert steps["extractor"]["cost_at_most"] == pytest.approx(expected, abs=2e-6)
    again = json.loads(call(server, data, "--dry-run", "--json", "limit=4", output="other").stdout)
    assert again["missing"] == 4


def test_a_file_of_settings(server, data):
    endpoint = {"base_url": server.url, "model": "tiny"}
    import yaml

    told = {"localizer": "vlm", "limit": 2}
    Path("mine.yaml").write_text(yaml.safe_dump(told))
    overrides = [text for text in settings(server.url) if "=vlm" not in text]
    annotate("mine.yaml", *overrides, "--data", data, "--output", "out")
    assert len(rows("out/train.jsonl")) == 2
    settled = json.loads(Path("out/manifest.json").read_text())["settings"]
    assert endpoint.items() <= settled["localizer"]["endpoint"].items()
    Path("bad.yaml").write_text("localizer: vln\nworkers: 0\n")
    done = annotate("bad.yaml", *overrides, "--data", data, "--output", "out2", code=2)
    assert "unknown localizer 'vln'" in done.stderr and "bad.yaml:2" in done.stderr
    assert "did you mean 'vlm'" in done.stderr
    done = annotate("none.yaml", "--data", data, "--output", "out2", code=2)
    assert "there is no such file" in done.stderr


def test_rows_that_cannot_be_read_are_left_out(server, data):
    (data / "images/1.png").write_bytes((data / "images/1.png").read_bytes()[:60])
    (data / "images/2.png").unlink()
    done = call(server, data)
    assert "left out: 2, the row cannot be read: row 1, row 2" in done.stdout
    assert "does not exist" in rows("out/evidence.jsonl")[2]["why"]


def test_nothing_to_annotate_is_an_error(server, data):
    server.answer = lambda body: '{"phrases": ["the background"]}'
    done = call(server, data, code=2)
    assert "not one item could be annotated" in done.stderr
    assert "nothing that can be located was named: 6" in done.stderr
    assert "evidence.jsonl there says more" in done.stderr
    assert [row["boxes"] for row in rows("out.partial/evidence.jsonl")] == [[]] * 6
    assert not Path("out").exists()
    done = call(server, data, "without_boxes=kept")
    assert "kept without boxes: 6" in done.stdout
    assert [row["boxes"] for row in rows("out/train.jsonl")] == [[]] * 6


def test_boxes_that_the_data_has_are_judged(server, data):
    given = rows(data / "train.jsonl")
    for row in given:
        row["boxes"] = [list(box) for box in SQUARES.values()]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    server.answer = lambda body: json.dumps({"valid": "[100, 100, 300, 500]" in text_of(body)[1]})
    call(server, data)
    assert {step_of(body) for body in server.bodies} == {"validator"}
    assert [row["tag"] for row in rows("out/train.jsonl")] == ["single"] * 6
    server.bodies.clear()
    call(server, data, "existing_boxes=kept", output="kept")
    assert not server.bodies
    assert [row["tag"] for row in rows("kept/train.jsonl")] == ["multi"] * 6
    server.answer = seeing
    call(server, data, "existing_boxes=ignored", output="new")
    assert [row["tag"] for row in rows("new/train.jsonl")] == ["single", "multi"] * 3


def test_images_without_a_file_of_their_own(server, project):
    told = settings(server.url)
    server.answer = lambda body: '{"valid": true}'
    annotate(*told, "dataset=digits_vqa", "limit=3", "--output", "out")
    found = REGISTRY.get("dataset", "table")(
        path="out/train.jsonl", dev_fraction=0.0, test_fraction=0.0
    )
    source = REGISTRY.get("dataset", "digits_vqa")()
    for index in range(3):
        theirs, ours = source.item("train", index), found.item("train", index)
        assert ours.image.tobytes() == theirs.image.tobytes()
        assert (ours.boxes, ours.tag, ours.demonstration) == (
            theirs.boxes, theirs.tag, theirs.demonstration,
        )  # fmt: skip


def test_a_folder_without_a_table(server, project):
    done = call(server, project, code=2)
    assert "no table of training items" in done.stderr


def test_workers_share_the_load(server, data):
    server.delay_s = 0.2
    call(server, data, "workers=4")
    assert 2 <= server.most_under_way <= 4
