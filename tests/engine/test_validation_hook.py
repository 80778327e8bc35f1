"""Where in a run an evaluation was, and how long it took."""

from types import SimpleNamespace

from mmengine.logging import MessageHub

from convnext_dense.engine import validation_hook
from convnext_dense.engine.validation_hook import ValidationHook


def test_an_evaluation_says_its_iteration_and_its_seconds_unless_it_was_interrupted(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(validation_hook, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    runner = SimpleNamespace(iter=7, message_hub=MessageHub("one evaluation"))
    hook = ValidationHook()
    hook.before_val(runner)
    clock[0] = 103.0
    hook.after_val_epoch(runner, {})
    assert runner.message_hub.log_scalars == {}
    hook.after_val_epoch(runner, dict(mIoU=50.0))
    values = {name: history.current() for name, history in runner.message_hub.log_scalars.items()}
    assert values == {"val/iter": 7, "val/seconds": 3.0}
