"""`vexp annotate` against vLLM's own OpenAI-compatible server with a tiny twin behind it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.annotate.scene import table
from vexp.registry import REGISTRY

ITEMS = 3
STARTS_S = 600


@pytest.fixture
def served(tmp_path):
    """The address of a server of an untrained twin, which answers nonsense."""
    (tmp_path / "model").mkdir()
    REGISTRY.get("backbone", "tiny_qwen2_5_vl")().load().save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "model",
               "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "4096",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    end = time.monotonic() + STARTS_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    else:
        server.kill()
        pytest.fail((tmp_path / "server.log").read_text()[-2000:])
    yield f"http://127.0.0.1:{port}/v1"
    server.terminate()
    server.wait(60)


def annotate(folder: Path, url: str, **endpoint):
    given = {"base_url": f"'{url}'", "model": "tiny", "max_tokens": 16, "asked_again": 1}
    overrides = ["localizer=vlm"]
    for kind in ("extractor", "localizer", "validator"):
        overrides += [f"{kind}.endpoint.{key}={value}" for key, value in (given | endpoint).items()]
    return subprocess.run(
        [sys.executable, "-m", "vexp", "annotate", *overrides, "--data", "data", "--output", "out"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_served_model_is_asked_and_its_nonsense_counted(served, tmp_path):
    table(tmp_path / "data", ITEMS)
    wrong = annotate(tmp_path, served, model="another")
    assert wrong.returncode == 1
    assert "cannot be used: HTTP 404" in wrong.stderr
    assert "another" in wrong.stderr
    done = annotate(tmp_path, served)
    assert done.returncode == 2
    assert f"the extractor's answer cannot be read: {ITEMS}" in done.stderr
    assert "Traceback" not in done.stderr
    partial = tmp_path / "out.partial"
    rows = [json.loads(line) for line in (partial / "evidence.jsonl").read_text().splitlines()]
    assert [row["misread"] for row in rows] == [{"extractor": 2}] * ITEMS
    journal = [json.loads(line) for line in (partial / "journal.jsonl").read_text().splitlines()]
    answers = [row["answer"] for row in journal if "answer" in row]
    assert len(answers) == 2 * ITEMS
    assert all(a["reply_tokens"] == 16 and a["prompt_tokens"] > 100 for a in answers)
