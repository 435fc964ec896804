"""Old dotted paths of modules and names with their new places, so that older programs and YAMLs keep working.

Nothing is imported before it is looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "hetfed_lightning"

MODULES: dict[str, str] = {
    "backbones.peaks": "showcases.image_and_genes.peaks",
    "backward": "local_training.backward",
    "callbacks.asking": "methods.public_outputs",
    "callbacks.backbone_averaging": "methods.averaging.backbone_averaging",
    "callbacks.ensemble_distillation": "methods.distillation.ensemble_distillation",
    "callbacks.examined": "callbacks.confusions",
    "callbacks.headlines": "callbacks.headline_metrics",
    "callbacks.inheritance": "methods.inheritance",
    "callbacks.learning": "methods.public_phase",
    "callbacks.lesson": "methods.distillation.soft_targets",
    "callbacks.mixing": "methods.public_fleets",
    "callbacks.pages": "callbacks.tensorboard_pages",
    "callbacks.private_averaging": "methods.averaging.private_averaging",
    "callbacks.private_checks": "methods.averaging.private_checks",
    "callbacks.progress": "callbacks.progress_bar",
    "callbacks.proximal": "methods.averaging.proximal",
    "callbacks.roles": "callbacks.participant_summary",
    "callbacks.server_optimizer": "methods.averaging.server_optimizer",
    "callbacks.shared_states": "methods.averaging.shared_states",
    "callbacks.sharing": "methods.averaging.sharing_groups",
    "checkpointing.resume": "federation.resume",
    "cli.blame": "cli.error_owner",
    "cli.hints": "cli.error_messages",
    "cli.reach": "cli.forbidden_values",
    "cli.rosters": "cli.run_files",
    "compilation": "participants.compilation",
    "counting": "logs.batched_accuracy",
    "data.cities": "showcases.cities.data_module",
    "data.digits": "showcases.digits.data_module",
    "data.hospitals": "showcases.hospitals.data_module",
    "data.image_and_genes": "showcases.image_and_genes.data_module",
    "data.named": "data.named_participants",
    "data.names": "data.name_checks",
    "data.residence": "data.device_residency",
    "data.sources.digits": "showcases.digits.images",
    "data.sources.flows": "showcases.cities.flows",
    "data.sources.hospitals": "showcases.hospitals.patients",
    "data.sources.image_and_genes": "showcases.image_and_genes.simulated_disease",
    "data.sources.lags": "showcases.cities.lags",
    "evaluated": "participants.batch_result",
    "evaluation": "federation.evaluation",
    "fitting": "participants.fit_to_data",
    "fleets.kinship": "fleets.compatibility",
    "fleets.own_sets": "fleets.validation_lookahead",
    "fleets.seated": "fleets.member_queries",
    "fleets.together": "fleets.batched_evaluation",
    "fleets.wording": "fleets.log_text",
    "flower.agreement": "flower.coordinator.site_compatibility",
    "flower.arrays": "flower.protocol.arrays",
    "flower.board": "flower.coordinator.tensorboard_writer",
    "flower.certificates": "flower.files.certificates",
    "flower.checks": "flower.protocol.reply_checks",
    "flower.coordinator": "flower.coordinator.coordinator",
    "flower.coordinator_command": "flower.deploy.coordinator_command",
    "flower.deployable": "flower.protocol.deployable",
    "flower.description": "flower.protocol.description",
    "flower.engine.fleet": "flower.engine.sites_interface",
    "flower.engine.link": "flower.engine.superlink_process",
    "flower.engine.local": "flower.engine.local_engine",
    "flower.engine.node": "flower.engine.supernode_process",
    "flower.engine.site": "flower.engine.site_engine",
    "flower.event_file": "flower.coordinator.event_file",
    "flower.exchange": "flower.coordinator.messenger",
    "flower.expected": "flower.coordinator.shared_layouts",
    "flower.folder": "flower.files.folder",
    "flower.following": "flower.deploy.follow_run",
    "flower.inflating": "flower.protocol.inflating",
    "flower.introductions": "flower.coordinator.site_summaries",
    "flower.journal": "flower.coordinator.journal",
    "flower.key_files": "flower.deploy.key_files",
    "flower.keys": "flower.deploy.keys",
    "flower.local": "flower.deploy.local",
    "flower.messages": "flower.protocol.messages",
    "flower.order_checks": "flower.site.order_checks",
    "flower.orders": "flower.protocol.orders",
    "flower.paths": "flower.files.paths",
    "flower.plain_data": "flower.protocol.plain_data",
    "flower.pooling": "flower.coordinator.averaging_rounds",
    "flower.reading": "flower.files.config_errors",
    "flower.records": "flower.protocol.records",
    "flower.roll": "flower.coordinator.connected_sites",
    "flower.round_line": "flower.coordinator.round_summary",
    "flower.server_config": "flower.coordinator.server_config",
    "flower.site": "flower.site.site",
    "flower.site_account": "flower.site.account_file",
    "flower.site_command": "flower.deploy.site_command",
    "flower.site_config": "flower.site.site_config",
    "flower.site_lines": "flower.deploy.site_log",
    "flower.site_parts": "flower.site.site_parts",
    "flower.site_round": "flower.site.site_round",
    "flower.site_store": "flower.site.site_store",
    "flower.speaking": "flower.engine.logging_setup",
    "flower.start": "flower.files.initial_weights",
    "flower.student": "flower.coordinator.student",
    "flower.untrusted": "flower.protocol.untrusted",
    "flower.volley": "flower.coordinator.requests",
    "generic_and_personal": "showcases.image_and_genes.generic_and_personal",
    "groups": "participants.groups",
    "guard": "federation.finite_guard",
    "hooks": "federation.forwarded_hooks",
    "inseparable": "participants.inseparable",
    "inspection": "federation.quarantine",
    "layers.own_columns": "showcases.hospitals.own_columns",
    "ledger": "logs.metric_store",
    "lending": "shared_storage.copy_on_write",
    "local_steps": "local_training.local_step",
    "logbook": "federation.log_writer",
    "membership": "federation.membership",
    "memory": "shared_storage.malloc_trim",
    "metrics.intervals": "intervals",
    "multi_input": "participants.multi_input",
    "optimization": "local_training.local_optimization",
    "own_trainer": "federation.own_trainer",
    "participant": "participants.participant",
    "participants.generic_and_personal": "showcases.image_and_genes.generic_and_personal",
    "precision": "participants.precision",
    "preemption": "federation.preemption",
    "preflight": "federation.preflight",
    "preflight_columns": "methods.averaging.column_checks",
    "preflight_layers": "participants.layer_checks",
    "preflight_monitors": "federation.preflight_monitors",
    "preflight_owners": "federation.preflight_owners",
    "preflight_privacy": "federation.preflight_privacy",
    "preflight_steps": "local_training.step_checks",
    "private_steps": "local_training.dpsgd_steps",
    "records": "logs.run_record",
    "roster": "federation.cohort",
    "round_length": "federation.round_length",
    "rounds": "federation.round_clock",
    "scaling": "local_training.loss_scale",
    "schema": "data.schema",
    "separation": "participants.separation",
    "step_hooks": "local_training.step_hooks",
    "storage": "federation.member_storage",
    "strategies.exchange": "strategies.collectives",
    "strategies.layout": "strategies.placement",
    "strategies.moving": "strategies.state_transfer",
    "strategies.watch": "strategies.liveness",
    "torch_hooks": "participants.torch_hooks",
    "transfer": "participants.transfer",
    "twins": "shared_storage.deduplicate",
    "undefined": "logs.undefined",
}
"""New dotted path of each moved module by its old one, both relative to the package."""

NAMES: dict[str, str] = {
    "backbones.PeakBackbone": "showcases.PeakBackbone",
    "callbacks.BackboneAveraging": "methods.averaging.backbone_averaging.BackboneAveraging",
    "callbacks.EnsembleDistillation": "methods.distillation.ensemble_distillation.EnsembleDistillation",
    "callbacks.FederatedProgressBar": "callbacks.progress_bar.FederatedProgressBar",
    "callbacks.FederationMonitor": "callbacks.monitor.FederationMonitor",
    "callbacks.Inheritance": "methods.inheritance.Inheritance",
    "callbacks.PrivateAveraging": "methods.averaging.private_averaging.PrivateAveraging",
    "callbacks.RunRecord": "callbacks.record.RunRecord",
    "checkpointing.resume.check_loops": "federation.lightning_progress.check_loops",
    "checkpointing.resume.own_parts": "federation.checkpoint_entries.own_parts",
    "checkpointing.resume.resume_where_it_stood": "federation.lightning_progress.resume_where_it_stood",
    "checkpointing.resume.saved_participants": "federation.checkpoint_entries.saved_participants",
    "checkpointing.resume.settle_validation": "federation.lightning_progress.settle_validation",
    "checkpointing.resume.tell_that_nothing_was_left": "federation.lightning_progress.tell_that_nothing_was_left",
    "checkpointing.resume.without_poison": "federation.checkpoint_entries.without_poison",
    "cli.reach.check_reach": "cli.forbidden_values.check_values",
    "data.CarParksDataModule": "showcases.CarParksDataModule",
    "data.CitiesDataModule": "showcases.CitiesDataModule",
    "data.DigitsDataModule": "showcases.DigitsDataModule",
    "data.Hospital": "showcases.Hospital",
    "data.HospitalInputs": "showcases.HospitalInputs",
    "data.HospitalsDataModule": "showcases.HospitalsDataModule",
    "data.ImageAndGenesDataModule": "showcases.ImageAndGenesDataModule",
    "data.sources.BayesAccuracy": "showcases.BayesAccuracy",
    "data.sources.Patients": "showcases.Patients",
    "data.sources.SimulatedDisease": "showcases.SimulatedDisease",
    "data.sources.load_digits_images": "showcases.load_digits_images",
    "federation.Federation": "federation.federation.Federation",
    "fleets.own_sets.OwnSets": "fleets.validation_lookahead.ValidationLookahead",
    "fleets.seated.SeatedFleets": "fleets.member_queries.MemberQueries",
    "fleets.together.evaluated_together": "fleets.batched_evaluation.batched_evaluation",
    "fleets.wording.shortly": "fleets.log_text.short_error",
    "flower.board.Board": "flower.coordinator.tensorboard_writer.TensorBoardWriter",
    "flower.engine.fleet.Rules": "flower.engine.sites_interface.SitesInterface",
    "flower.exchange.Exchange": "flower.coordinator.messenger.Messenger",
    "flower.expected.reply_bytes": "flower.deploy.reply_limit.reply_bytes",
    "flower.pooling.Pooling": "flower.coordinator.averaging_rounds.AveragingRounds",
    "flower.roll.Roll": "flower.coordinator.connected_sites.ConnectedSites",
    "flower.round_line.round_line": "flower.coordinator.round_summary.round_summary",
    "flower.site_account.SiteAccount": "flower.site.account_file.AccountFile",
    "flower.site_config.Site": "flower.site.site_config.SiteConfig",
    "flower.site_config.read_site": "flower.site.site_config.read_site_config",
    "flower.site_lines.SiteLines": "flower.deploy.site_log.SiteLog",
    "flower.speaking.speak": "flower.engine.logging_setup.log_to_output",
    "flower.volley.Volley": "flower.coordinator.requests.Requests",
    "guard.LARGEST": "finite.LARGEST",
    "guard.LARGEST_LOGIT": "finite.LARGEST_LOGIT",
    "guard.LARGEST_PREDICTION": "finite.LARGEST_PREDICTION",
    "guard.is_finite": "finite.is_finite",
    "guard.largest_number": "finite.largest_number",
    "guard.names_beyond": "finite.names_beyond",
    "guard.names_of_non_finite": "finite.names_of_non_finite",
    "guard.why_not_heard": "finite.why_not_heard",
    "guard.why_unusable": "finite.why_unusable",
    "layers.OwnColumns": "showcases.OwnColumns",
    "logbook.give_loggers": "logs.loggers.give_loggers",
    "logbook.write_row": "logs.loggers.write_row",
    "preflight.as_trained": "participants.first_batch.as_trained",
    "preflight.check_batch_of_one": "participants.first_batch.check_batch_of_one",
    "preflight.check_last_public_batch": "participants.first_batch.check_last_public_batch",
    "preflight.first_batch": "participants.first_batch.first_batch",
    "preflight.outputs_of": "participants.first_batch.outputs_of",
    "privacy.Ledger": "privacy.PrivacyAccount",
    "private_steps.end_if_spent": "local_training.privacy_budgets.end_if_spent",
    "private_steps.epsilons": "local_training.privacy_budgets.epsilons",
    "private_steps.give_privacy": "local_training.privacy_budgets.give_privacy",
    "private_steps.open_budgets": "local_training.privacy_budgets.open_budgets",
    "private_steps.saved_accounts": "local_training.privacy_budgets.saved_accounts",
    "rounds.Career": "federated_callback.Career",
    "rounds.FederatedCallback": "federated_callback.FederatedCallback",
    "rounds.Phase": "federated_callback.Phase",
    "rounds.federated_callbacks": "federated_callback.federated_callbacks",
    "rounds.raise_event": "federated_callback.raise_event",
    "scaling.give_scales": "local_training.scales.give_scales",
    "scaling.skipped_steps": "local_training.scales.skipped_steps",
    "step_hooks.hear_steps_by_hand": "local_training.steps_by_hand.hear_steps_by_hand",
    "strategies.Layout": "strategies.Placement",
    "strategies.exchange.Exchange": "strategies.collectives.Collectives",
    "strategies.layout.Layout": "strategies.placement.Placement",
    "strategies.moving.deliver": "strategies.state_transfer.load_moved_state",
    "strategies.moving.luggage": "strategies.state_transfer.moved_state",
    "strategies.moving.report": "strategies.state_transfer.round_state",
    "strategies.moving.take_report": "strategies.state_transfer.load_round_state",
    "transfer.hold_still": "participants.newcomer.hold_still",
    "transfer.inherited_state": "participants.newcomer.inherited_state",
    "transfer.let_go": "participants.newcomer.let_go",
    "transfer.taught": "participants.newcomer.taught",
}
"""New dotted path of each name that moved by itself, by its old one, both relative to the package."""


class OldModules(MetaPathFinder, Loader):
    """Finder of modules under their old names; such a module is empty and looks its names up at the new place."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Specification of a moved module; None for any other name."""
        del path, target
        known = fullname.removeprefix(f"{PACKAGE}.") in MODULES
        return ModuleSpec(fullname, self) if known and fullname.startswith(f"{PACKAGE}.") else None

    def exec_module(self, module: ModuleType) -> None:
        """Give an old module a ``__getattr__`` that looks names up at their new place."""
        vars(module)["__getattr__"] = names_moved_from(module.__name__)


def names_moved_from(module: str) -> Callable[[str], Any]:
    """``__getattr__`` function of a module, which returns names that moved away from it.

    Args:
        module: Dotted path of the module, old or new.
    """

    def find(name: str) -> Any:
        old = f"{module}.{name}".removeprefix(f"{PACKAGE}.")
        if old in NAMES:
            place, _, new = NAMES[old].rpartition(".")
            return getattr(import_module(f"{PACKAGE}.{place}"), new)
        if old in MODULES:
            return import_module(f"{module}.{name}")
        whole = MODULES.get(module.removeprefix(f"{PACKAGE}."))
        if whole is None or name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"{PACKAGE}.{whole}"), name)

    return find


def install() -> None:
    """Register :class:`OldModules` after all other finders."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
