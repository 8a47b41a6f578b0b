"""The client against a real server that misbehaves: what is tried again, what is not, and when."""

from __future__ import annotations

import email.utils
import json
import threading
import time

import pytest

from tests.endpoint.server import Server
from vexp.endpoint.client import Client, Refused, Reply, Unavailable, Unusable
from vexp.endpoint.request import ChatRequest
from vexp.endpoint.settings import Endpoint
from vexp.errors import Interrupted

KEY = "sk-very-secret-123"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def client_of(server, key=None, stop=None, **settings):
    settings = {"timeout_s": 0.5, "retries": 3, "first_pause_s": 0.02} | settings
    endpoint = Endpoint(base_url=server.url, model="tiny", **settings)
    return Client(endpoint, key, stop or threading.Event())


def ask(client, question="what?"):
    return client.complete(ChatRequest(client.endpoint, "be brief", question))


def error(status, message="no", headers=(), **more):
    return ("status", status, dict(headers), json.dumps({"error": {"message": message, **more}}))


def test_a_question_is_posted_as_a_chat_completion(server):
    assert ask(client_of(server, KEY)) == Reply("hello", 100, 10)
    (body,) = server.bodies
    assert body == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what?"}]},
        ],
        "max_tokens": 512,
        "temperature": 0.0,
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_what_models_refuse_can_be_left_out(server):
    ask(client_of(server, temperature=None, length_key="max_completion_tokens", max_tokens=7))
    (body,) = server.bodies
    assert body["max_completion_tokens"] == 7
    assert not {"temperature", "max_tokens"} & body.keys()
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (error(429), "HTTP 429"), (error(500), "HTTP 500"), (error(503), "HTTP 503"),
        (error(408), "HTTP 408"), ("garbage", "garbage"), ("hangup", "lost line"),
        ("cut", "lost line"), ("timeout", "time-out"),
        (("status", 200, {}, '{"choices": []}'), "garbage"),
        (("status", 200, {}, "null"), "garbage"),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server, fault, kind):
    server.faults = [fault, fault]
    client = client_of(server)
    assert ask(client).text == "hello"
    assert client.troubles == {kind: 2}
    assert len(server.bodies) == 3


def test_after_all_retries_it_says_why(server):
    server.faults = [error(500, "boom")] * 9
    with pytest.raises(Unavailable, match="gives no answer: HTTP 500: 'boom'") as found:
        ask(client_of(server, retries=2))
    assert len(server.bodies) == 3
    assert server.url in str(found.value) and "model tiny" in str(found.value)


def test_nobody_listens():
    server = Server()
    server.close()
    with pytest.raises(Unavailable, match="lost line"):
        ask(client_of(server, retries=1))


@pytest.mark.parametrize(
    ("fault", "expected", "says"),
    [
        (error(400, "image too large"), Refused, "image too large"),
        (error(422), Refused, "422"),
        (error(401), Unusable, "look at the key in THE_KEY"),
        (error(404, "no model tiny"), Unusable, "no model tiny"),
        (error(429, code="insufficient_quota"), Unusable, "quota is used up"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(server, fault, expected, says):
    server.faults = [fault]
    with pytest.raises(expected, match=says):
        ask(client_of(server, key_variable="THE_KEY"))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("code", [400, 401, 500])
def test_a_key_that_the_endpoint_repeats_is_not_shown(server, code):
    server.faults = [error(code, f"bad key {KEY}")] * 5
    with pytest.raises((Refused, Unusable, Unavailable)) as found:
        ask(client_of(server, KEY))
    assert "bad key ***" in str(found.value)
    assert KEY not in str(found.value)
    server.faults = [("status", 200, {}, f"{KEY} is no JSON")] * 5
    with pytest.raises(Unavailable) as found:
        ask(client_of(server, KEY))
    assert KEY not in str(found.value)


def test_retry_after_in_seconds_holds_everybody_back(server):
    server.faults = [error(429, headers={"Retry-After": "0.6"})]
    client = client_of(server)
    first = threading.Thread(target=ask, args=(client, "one"))
    first.start()
    while not server.times:
        time.sleep(0.01)
    time.sleep(0.2)  # the refusal has come by now
    ask(client, "two")
    first.join()
    assert len(server.times) == 3
    assert min(t - server.times[0] for t in server.times[1:]) >= 0.55


def test_retry_after_as_a_date(server):
    server.faults = [
        error(503, headers={"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)})
    ]
    ask(client_of(server))
    assert 0.9 <= server.times[1] - server.times[0] <= 2.5  # dates have whole seconds


def test_an_endpoint_that_wants_an_hour_is_as_good_as_down(server):
    server.faults = [error(429, headers={"Retry-After": "3600"})]
    with pytest.raises(Unavailable, match="left alone for 3600 s"):
        ask(client_of(server))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("header", ["soon", "-5", "nan", "inf", ""])
def test_a_senseless_retry_after_is_not_believed(server, header):
    server.faults = [error(429, headers={"Retry-After": header})]
    assert ask(client_of(server)).text == "hello"


def test_requests_are_spaced_by_the_limit_whoever_sends_them(server):
    client = client_of(server, requests_per_minute=600)
    threads = [threading.Thread(target=ask, args=(client, str(n))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.times[-1] - server.times[0] >= 0.5 * 0.9  # five gaps of 0.1 s


def test_a_stop_ends_a_pause_at_once(server):
    server.faults = [error(429, headers={"Retry-After": "100"})]
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        ask(client_of(server, stop=stop))
    assert time.monotonic() - began < 5


def test_pauses_double_up_to_a_minute():
    client = Client(Endpoint(first_pause_s=1.0), None, threading.Event())
    for number in range(50):
        longest = min(60.0, 2.0**number)
        assert longest / 2 <= client._backoff(number) <= longest


def test_content_in_parts_is_joined(server):
    server.answer = lambda body: [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ask(client_of(server)).text == "ab"
    server.answer = lambda body: None
    assert ask(client_of(server)).text == ""
