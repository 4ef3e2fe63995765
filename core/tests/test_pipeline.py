"""The commit pipeline: what may be seen when, and what a refusal forgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orlop.kernel.events import AgentHello, Answer, FrameworkActions, ToNode
from orlop.kernel.kernel import Kernel
from orlop.kernel.state import State
from orlop.model.asks import Request, spec_id
from orlop.model.clock import Now
from orlop.model.messages import Epoch, Hello
from orlop.model.nodes import NodeInfo
from orlop.model.resources import Resources
from orlop.model.tasks import Spec
from orlop.server.pipeline import Pipeline, Submission

NOW = Now(1, 1)
SPEC = Spec(runtime="process", payload={})


def make(writes_max: int = 1_000) -> Pipeline:
    return Pipeline(Kernel(), State(cluster_id="c"), Epoch(1, 1), writes_max)


def ask(key: str) -> Submission:
    request = Request(key=key, spec_id=spec_id(SPEC), spec=SPEC)
    return Submission(FrameworkActions(framework="f", seen=0, asks=(request,), replies={key: "done"}))


def replies(submission: Submission) -> Mapping[str, Any]:
    assert isinstance(submission.event, FrameworkActions)
    return submission.event.replies


def hello() -> Submission:
    info = NodeInfo(id="n", name="n", address="", resources=Resources(cpus=1), runtimes=("process",))
    return Submission(AgentHello(session="s", hello=Hello(node=info)))


def test_what_a_node_is_told_waits_for_a_fenced_transaction_though_nothing_has_changed() -> None:
    """A leader whose clock has stood still finds out by it that another one leads."""
    pipeline = make()
    for _ in range(2):
        pipeline.decide([hello()], NOW)
        batch = pipeline.take()
        assert batch is not None
        assert batch.puts, "an empty one would not be written"
        assert any(isinstance(effect, ToNode) for effect in pipeline.succeeded().effects)


def test_nothing_is_committed_before_the_store_said_so() -> None:
    pipeline = make()
    pipeline.decide([ask("a")], NOW)
    batch = pipeline.take()
    assert batch is not None
    assert not pipeline.committed.tasks
    assert len(pipeline.head.tasks) == 1
    released = pipeline.succeeded()
    assert len(pipeline.committed.tasks) == 1
    assert Answer(token="a", value="done") in released.effects


def test_steps_decided_during_a_write_are_written_together() -> None:
    pipeline = make()
    pipeline.decide([hello()], NOW)
    pipeline.take()
    pipeline.decide([ask("a")], NOW)
    pipeline.decide([ask("b")], NOW)
    assert pipeline.take() is None, "one transaction at a time"
    pipeline.succeeded()
    batch = pipeline.take()
    assert batch is not None
    assert sorted(task.key for task in batch.state.tasks.values()) == ["a", "b"]
    assert [replies(one) for one in batch.submissions] == [{"a": "done"}, {"b": "done"}]


def test_steps_that_no_transaction_holds_together_are_written_one_after_the_other() -> None:
    pipeline = make(writes_max=8)
    pipeline.decide([hello()], NOW)
    pipeline.take()
    for key in "abcdef":
        pipeline.decide([ask(key)], NOW)
    pipeline.succeeded()
    seen = []
    while (batch := pipeline.take()) is not None:
        assert batch.writes <= 8 or len(batch.submissions) == 1
        seen.append(batch)
        pipeline.succeeded()
    assert len(seen) > 1
    assert [list(replies(one)) for batch in seen for one in batch.submissions] == [[key] for key in "abcdef"]
    assert pipeline.committed is pipeline.head
    assert len(pipeline.committed.tasks) == 6


def test_a_refusal_forgets_all_that_was_decided_since() -> None:
    pipeline = make()
    pipeline.decide([ask("a")], NOW)
    pipeline.take()
    pipeline.decide([ask("b")], NOW)
    forgotten = pipeline.refused()
    assert [list(replies(one)) for one in forgotten] == [["a"], ["b"]]
    assert pipeline.head is pipeline.committed
    assert pipeline.take() is None
    pipeline.decide([ask("c")], NOW)
    assert [task.key for task in pipeline.head.tasks.values()] == ["c"]


def test_a_document_written_and_deleted_meanwhile_is_deleted() -> None:
    pipeline = make()
    pipeline.decide([hello()], NOW)
    pipeline.take()
    pipeline.decide([ask("a")], NOW)
    batch_keys = {f"tasks/{task}" for task in pipeline.head.tasks}
    pipeline.succeeded()
    batch = pipeline.take()
    assert batch is not None
    assert batch_keys <= batch.puts.keys()
    assert not batch_keys & batch.deletes
