"""Answers with what it was sent and with who it is."""

from __future__ import annotations

import importlib
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
    if context.run_config["heavy"]:
        importlib.import_module("hetfed_lightning")
    time.sleep(float(str(context.run_config["work"])))
    who = ConfigRecord({"participant": participant, "pid": os.getpid(), "torch": "torch" in sys.modules})
    return Message(RecordDict({**message.content, "who": who}), reply_to=message)
