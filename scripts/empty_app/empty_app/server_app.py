"""Asks every node, waits for the answers, and says how long each round took."""

from __future__ import annotations

import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable import inflatable_utils

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds. A line per round: ROUND and JSON with seconds, participants and errors."""
    config = context.run_config
    deadline = time.monotonic() + float(config["patience"])
    while len(nodes := list(grid.get_nodes())) < int(config["nodes"]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {config['nodes']} nodes, found {len(nodes)}")
        time.sleep(0.1)
    print("NODES", json.dumps(sorted(node.name for node in nodes)), flush=True)
    content = RecordDict()
    if config["megabytes"]:
        numbers = np.random.default_rng(0).normal(size=int(float(config["megabytes"]) * 2**18)).astype("float32")
        content["arrays"] = ArrayRecord({"numbers": Array(numbers)})
    for current in range(1, int(config["rounds"]) + 1):
        started = time.monotonic()
        messages = [Message(content, node.node_id, f"{MessageType.QUERY}.describe") for node in nodes]
        answers = asked(grid, messages, float(config["poll"]))
        who = [answer.content["who"] for answer in answers if answer.has_content()]
        told = {
            "round": current,
            "seconds": round(time.monotonic() - started, 3),
            "answered": sorted(str(one["participant"]) for one in who),
            "warm": all(one["torch"] for one in who),
            "errors": [answer.error.reason for answer in answers if answer.has_error()],
        }
        print("ROUND", json.dumps(told), flush=True)
        time.sleep(float(config["pause"]))
    if config["fail"]:
        raise RuntimeError(str(config["fail"]))


def asked(grid: Grid, messages: list[Message], poll: float) -> list[Message]:
    """The answers to messages."""
    if not poll:
        return list(grid.send_and_receive(messages))
    # An answer may be seen a moment before its content has arrived; the engine then waits a second.
    (inflatable_utils.pull_objects.__kwdefaults__ or {}).update(initial_backoff=0.05)
    waiting = set(grid.push_messages(messages))
    answers: list[Message] = []
    while waiting:
        found = list(grid.pull_messages(waiting))
        answers += found
        waiting -= {answer.metadata.reply_to_message_id for answer in found}
        if waiting:
            time.sleep(poll)
    return answers
