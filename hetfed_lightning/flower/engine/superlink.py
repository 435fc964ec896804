"""A SuperLink behind our guard: ``python -P superlink.py --operator-secret FILE``, then options of flower-superlink.

The engine's own has one port for sites and for operators, who start runs, stop them and register keys, and does not
authenticate the latter; it reads any call of any length for as long as the caller likes. Here sites reach their own
interface, everything else asks for the operator's secret, and sizes, numbers and times are bounded.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

if __name__ == "__main__":
    _package = ModuleType("hetfed_lightning")  # Gives its submodules without its own imports.
    _package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["hetfed_lightning"] = _package

import uvicorn
from flwr.supercore.logger import console_handler
from flwr.superlink.servicer.fleet import fleet_handlers

from hetfed_lightning.flower.engine.guard import Guard
from hetfed_lightning.flower.engine.limits import Limits
from hetfed_lightning.flower.engine.log_budget import LogBudget
from hetfed_lightning.flower.engine.operator_secret import read_secret
from hetfed_lightning.flower.engine.serving import GuardedServer, within_files
from hetfed_lightning.flower.engine.sites_interface import SitesInterface, signer_of

engine = import_module("flwr.superlink.cli.flower_superlink")  # its package has a function of this name


def server_of(secret: str, limits: Limits) -> Callable[..., None]:
    """Function that replaces ``uvicorn.run``, by which the engine serves its app.

    Args:
        secret: Secret of the operator.
        limits: Sizes, numbers and times.
    """

    def run(app: Any, *, host: str, port: int, log_config: Any, ssl_keyfile: Any, ssl_certfile: Any, **_: Any) -> None:
        def is_registered(key: bytes) -> bool:
            return app.state.linkstate_factory.state().get_node_id_by_public_key(key) is not None

        guarded: Any = Guard(app, secret, lambda headers: signer_of(headers, is_registered), limits)
        config = uvicorn.Config(
            guarded, host=host, port=port, log_config=log_config, ssl_keyfile=ssl_keyfile, ssl_certfile=ssl_certfile,
            http="h11", ws="none", loop="asyncio", timeout_graceful_shutdown=max(1, round(limits.graceful)),
        )  # fmt: skip
        bound_logs()
        GuardedServer(config, limits).run()

    return run


def bound_logs() -> None:
    """Set one budget for all log lines, whichever part of the engine writes them."""
    budget = LogBudget()
    handlers = {console_handler, *logging.getLogger("uvicorn").handlers, *logging.getLogger("uvicorn.access").handlers}
    if logging.lastResort is not None:  # It writes for asyncio and other loggers without a handler.
        handlers.add(logging.lastResort)
    for handler in handlers:
        handler.addFilter(budget)


def main() -> None:
    """Run the SuperLink behind the guard."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--operator-secret", type=Path, required=True)
    parser.add_argument("--max-request", type=int, default=Limits.request)
    parser.add_argument("--max-reply", type=int, default=Limits.reply)
    options, rest = parser.parse_known_args()
    limits = Limits(request=options.max_request, reply=options.max_reply)
    limits = replace(limits, connections=within_files(limits))
    served = server_of(read_secret(options.operator_secret), limits)
    vars(engine).update(uvicorn=SimpleNamespace(run=served))
    rules = SitesInterface(
        fleet_handlers.pull_messages, fleet_handlers.push_messages, fleet_handlers.push_object, limits.reply
    )
    vars(fleet_handlers).update(
        pull_messages=rules.pull_messages, push_messages=rules.push_messages, push_object=rules.push_object
    )
    sys.argv = ["flower-superlink", *rest]
    engine.flower_superlink()


if __name__ == "__main__":
    main()
