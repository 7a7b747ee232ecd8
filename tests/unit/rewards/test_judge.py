"""The optional judge of `reasoning`, against a real HTTP server on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from covt_rewards import Group, RewardError, Rollout, make, parse_rewards, score_groups

TEXT = "First this. Then that. So the sum is known. \\boxed{4}"


class Endpoint(ThreadingHTTPServer):
    """Answers `/v1/chat/completions` with the replies it was given, in order; the last one repeats."""

    replies: list[tuple[int, str]]
    requests: list[dict[str, object]]
    wait = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that stopped waiting is what is tested."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        replies = self.server.replies
        status, said = replies.pop(0) if len(replies) > 1 else replies[0]
        threading.Event().wait(self.server.wait)
        data = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), Handler)
    server.replies, server.requests = [(200, "8")], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def reward(endpoint: Endpoint, **settings: object):
    return make("reasoning", {"judge_url": endpoint.url, "judge_model": "judge", **settings})


def test_the_judge_has_its_share_of_the_value(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (rules,) = make("reasoning")(Group("4", (Rollout(TEXT),), prompt="2 + 2"))
    (result,) = reward(endpoint, judge_weight=0.25)(Group("4", (Rollout(TEXT),), prompt="2 + 2"))
    assert result.value == pytest.approx(0.75 * rules.value + 0.25 * 0.8)
    assert (result.parts["judge"], result.parts["rules"]) == (0.8, rules.value)
    (request,) = endpoint.requests
    assert (request["path"], request["model"], request["key"]) == ("/v1/chat/completions", "judge", "Bearer secret")
    assert TEXT in json.loads(request["messages"][1]["content"])["completion"]  # type: ignore[index]


def test_equal_completions_are_judged_once_also_in_a_later_run(endpoint: Endpoint, tmp_path: Path) -> None:
    cache = str(tmp_path / "opinions.jsonl")
    judged = reward(endpoint, judge_cache=cache)
    for _ in range(2):
        judged(Group("4", (Rollout(TEXT),)))
    assert len(endpoint.requests) == 1
    (line,) = Path(cache).read_text().splitlines()
    earlier = tmp_path / "earlier.jsonl"
    earlier.write_text(line + "\n")
    reward(endpoint, judge_cache=str(earlier))(Group("4", (Rollout(TEXT),)))
    assert len(endpoint.requests) == 1


def test_a_failure_is_tried_again(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covt_rewards.rewards.judge._WAIT_SECONDS", 0.01)
    endpoint.replies = [(500, ""), (429, ""), (200, "Grade: 10")]
    (result,) = reward(endpoint)(Group("4", (Rollout(TEXT),)))
    assert result.parts["judge"] == 1.0
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("status", "said", "asked"), [(401, "", 1), (500, "", 2), (200, "fine", 1), (200, "7 or 8", 1)]
)
def test_without_a_judgement_the_rules_count_and_the_reason_says_so(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int, said: str, asked: int
) -> None:
    monkeypatch.setattr("covt_rewards.rewards.judge._WAIT_SECONDS", 0.01)
    endpoint.replies = [(status, said)]
    (result,) = reward(endpoint, judge_retries=1)(Group("4", (Rollout(TEXT),)))
    assert result.value == result.parts["rules"]
    assert result.parts["judge_failed"] == 1.0
    assert "judge" not in result.parts
    assert "no judgement" in result.reason
    assert len(endpoint.requests) == asked


def test_a_judge_that_is_late_or_absent_raises_nothing(endpoint: Endpoint) -> None:
    endpoint.wait = 0.5
    (late,) = reward(endpoint, judge_timeout=0.05, judge_retries=0)(Group("4", (Rollout(TEXT + "\ud800\x00"),)))
    assert late.parts["judge_failed"] == 1.0
    nobody = make("reasoning", {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m", "judge_retries": 0})
    (absent,) = nobody(Group("4", (Rollout(TEXT),)))
    assert "no judgement" in absent.reason


def test_bad_settings_are_refused() -> None:
    with pytest.raises(RewardError, match="url"):
        make("reasoning", {"judge_url": "file:///etc/passwd", "judge_model": "m"})
    with pytest.raises(RewardError, match="no model"):
        make("reasoning", {"judge_url": "http://localhost/v1"})
    with pytest.raises(RewardError, match="judge_weight"):
        make("reasoning", {"judge_weight": 2.0})


def test_a_group_is_judged_completion_by_completion(endpoint: Endpoint) -> None:
    rollouts = tuple(Rollout(f"{TEXT} {i}") for i in range(10))
    scores = score_groups(
        [Group("4", rollouts)],
        parse_rewards("reasoning", {"reasoning": {"judge_url": endpoint.url, "judge_model": "judge"}}),
    )
    assert not scores.failures
    assert len(endpoint.requests) == 10
