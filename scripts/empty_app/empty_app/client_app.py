"""Answers with what it was sent and with who it is."""

from __future__ import annotations

import os
import sys
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """The same content, and which process of which participant answered."""
    participant = str(context.node_config.get("participant", ""))
    print(f"{participant} answers", flush=True)
    time.sleep(message.content.config_records["work"]["seconds"])  # type: ignore[arg-type]  # the server puts a float there
    who = ConfigRecord({"participant": participant, "pid": os.getpid(), "torch": "torch" in sys.modules})
    content = {name: record for name, record in message.content.items() if name != "who"}
    return Message(RecordDict({**content, "who": who}), reply_to=message)
