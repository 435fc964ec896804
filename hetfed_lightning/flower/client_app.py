"""The engine's client: for each message, its process carries out one order for this site's participant.

The node's configuration names the participant: ``--node-config 'participant="hospital_a" config="/.../site.yaml"
state-dir="/.../state"'``, and ``allow-import="my_package,other"`` if the file names classes of the site's own. In the
engine's simulation nodes have numbers alone, and the run's configuration names the folder of all sites
(``sites="/.../sites"``). Each keeps its states below ``state-dir`` there, or in its own folder.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from hetfed_lightning.flower.protocol.messages import (
    description_content,
    order_of,
    reply_content,
)

if TYPE_CHECKING:
    from hetfed_lightning.flower.site.site import Site

log = logging.getLogger(__name__)

app = ClientApp()


class NodeConfigError(ValueError):
    """A node's configuration that does not name its site; the message names the key and what to set."""


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Message with this site's description.

    Args:
        message: Message of the coordinator.
        context: The engine's context, with the node's configuration.
    """
    answer = _answer(message, context, lambda site: description_content(site.describe()))
    if not answer.has_error():
        log.info("The coordinator was told what this site brings along.")
    return answer


@app.train()
def work(message: Message, context: Context) -> Message:
    """Message with the reply to an order, which is carried out here.

    Args:
        message: Message with the order.
        context: The engine's context, with the node's configuration.
    """
    done, began = "", time.monotonic()

    def carry_out(site: Site) -> RecordDict:
        nonlocal done
        order = order_of(message.content)
        done = order.summary
        return reply_content(site.carry_out(order))

    answer = _answer(message, context, carry_out)
    if not answer.has_error():
        log.info("Done: %s (%.1f s).", done, time.monotonic() - began)
    return answer


def _answer(message: Message, context: Context, act: Callable[[Site], RecordDict]) -> Message:
    """Message with the result of an act, or with the type of its error.

    The text of an error stays in this site's log: it may quote the data, as "'Smith' in row 4" of a table does.
    """
    _be_quiet()
    try:
        content = act(site_of(context.node_config, context.run_config))
    except Exception as error:
        log.exception("An order could not be carried out; the coordinator is told of the kind of error alone.")
        reason = f"{type(error).__name__}; the site's own log says more"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
    return Message(content, reply_to=message)


def site_of(node: Mapping[str, Any], run: Mapping[str, Any]) -> Site:
    """Site that a node's configuration names.

    Args:
        node: The node's configuration.
        run: The run's configuration, which serves simulations.

    Raises:
        NodeConfigError: If it names none.
    """
    from hetfed_lightning.flower.site.site import Site
    from hetfed_lightning.flower.site.site_parts import parts_of

    name, config, state = (str(node.get(key, "")) for key in ("participant", "config", "state-dir"))
    if not name and "partition-id" in node and run.get("sites"):
        folders = sorted(path for path in Path(str(run["sites"])).iterdir() if (path / "site.yaml").is_file())
        place = int(node["partition-id"])
        if place >= len(folders):
            raise NodeConfigError(f"the simulation has a node {place}, but there are {len(folders)} sites.")
        name, config = folders[place].name, str(folders[place] / "site.yaml")
        state = str(Path(str(run.get("state-dir") or run["sites"])) / name / "state")
    for key, value in (("participant", name), ("config", config), ("state-dir", state)):
        if not value:
            raise NodeConfigError(f"the node's configuration has no {key!r}: start the node with --node-config.")
    allowed = [one.strip() for one in str(node.get("allow-import", "")).split(",") if one.strip()]
    return Site(parts_of(config, name, allowed), state)


def _be_quiet() -> None:
    """Silence Lightning's lines at each start: with a process for every message they would come hundreds of times."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
