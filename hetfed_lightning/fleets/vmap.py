"""Engine for any network that can be called functionally, batched by ``torch.func.vmap``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetfed_lightning.data.blocks import StackedBatch
from hetfed_lightning.fleets.engine import Engine, ExampleLosses
from hetfed_lightning.fleets.network import Network, mean_loss


class VmapEngine(Engine):
    """Engine that vectorises one participant's loss over all participants.

    Fast where operations are so small that calling them costs more than computing them. Networks fail that draw random
    numbers, change buffers, or branch on values.

    Args:
        network: Network of the participants' architecture.
        task: Loss of every participant.
        compile_settings: Arguments of ``torch.compile`` for the step of all; None to run it as it is.
    """

    name = "vmap"

    def __init__(
        self, network: Network, task: ExampleLosses, compile_settings: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(network, task)
        self._compile_settings = compile_settings
        self._steps: dict[bool, Any] = {}

    def _with(self, task: ExampleLosses) -> Self:
        return type(self)(self.network, task, self._compile_settings)

    def gradients(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        batch: StackedBatch,
        *,
        add: bool = False,
    ) -> Tensor:
        """Losses of every participant, shape ``(K,)``; writes their gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            gradients: Tensors of the same keys and shapes; overwritten, or added to.
            batch: One batch of each participant.
            add: True to add to the values in ``gradients``.
        """
        batched = self._step(masked=batch.mask is not None)
        with sdpa_kernel(SDPBackend.MATH):  # The only kernel of attention that has a batching rule.
            found, losses = batched(dict(parameters), batch.inputs, batch.targets, batch.mask)
        for key, gradient in gradients.items():
            if add:
                gradient.add_(found[key])
            else:
                gradient.copy_(found[key])
        all_losses: Tensor = losses
        return all_losses

    def _step(self, *, masked: bool) -> Any:
        """Function to losses and gradients of all participants.

        Compiled as a whole, since operations of different networks are not fused if the network alone is compiled.
        """
        if masked not in self._steps:

            def loss(own: dict[str, Tensor], inputs: Any, targets: Tensor, mask: Tensor | None) -> Tensor:
                losses, weights = self.task.example_losses(self.network.outputs_with(own, inputs), targets)
                return mean_loss(losses, weights, mask)

            step = vmap(grad_and_value(loss), in_dims=(0, 0, 0, 0 if masked else None))
            if self._compile_settings is not None:
                step = torch.compile(step, **self._compile_settings)
            self._steps[masked] = step
        return self._steps[masked]

    @torch.no_grad()
    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any, *, common: bool = False) -> Tensor:
        """Outputs of every participant, shape ``(K, B, C)``, without gradients.

        Args:
            parameters: Shape ``(K, *shape)`` each, by key.
            inputs: Shape ``(K, B, ...)``; ``(B, ...)`` if ``common``.
            common: True if all participants see the same inputs.
        """
        batched = vmap(self.network.outputs_with, in_dims=(0, None if common else 0))
        with sdpa_kernel(SDPBackend.MATH):
            outputs: Tensor = batched(dict(parameters), inputs)
        return outputs
