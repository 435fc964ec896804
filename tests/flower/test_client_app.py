"""The engine's client by itself: one message, one answer."""

from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hetfed_lightning.flower.client_app import app
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.flower.protocol.messages import DESCRIBE, WORK, order_content
from hetfed_lightning.flower.protocol.orders import Order

CONFIG = """
trainer: {max_epochs: 1, callbacks: [{class_path: hetfed_lightning.BackboneAveraging}]}
model:
  participants:
    a: &site
      class_path: hetfed_lightning.Participant
      init_args:
        backbone: {class_path: torch.nn.Linear, init_args: {in_features: 1, out_features: 2}}
        head: {class_path: torch.nn.Linear, init_args: {in_features: 2, out_features: 2}}
    b: *site
data:
  class_path: hetfed_lightning.data.TableDataModule
  init_args: {path: {a: a.csv, b: b.csv}, target: sick}
"""
ROWS = "age,sick\n" + "40,0\n50,1\n" * 10


@pytest.mark.parametrize("kind", [DESCRIBE, WORK])
def test_what_an_error_says_stays_at_the_site(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, key, 1)
    for name in "ab":
        Path(f"{name}.csv").write_text(ROWS)
    Path("config.yaml").write_text(CONFIG)
    init_command(["config.yaml", "-o", "deployment"])
    Path("a.csv").write_text(ROWS.replace("40", "Jane Smith", 1))
    node: dict[str, str | int | float | bool] = {
        "participant": "a",
        "config": "deployment/sites/a/site.yaml",
        "state-dir": "state",
    }
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config={})
    content = RecordDict() if kind == DESCRIBE else order_content(Order("run", begin=0))
    answer = app(Message(content, dst_node_id=1, message_type=kind), context)
    assert answer.error.reason == "DataError; the site's own log says more"
    assert "Jane Smith" in caplog.text
