"""Tensors that many participants point at: who waits for a turn keeps no copy of what everyone has.

Of a thousand participants of whom ten train in a round, nine hundred and ninety hold the shared state unchanged. A
:class:`Loan` holds it once, and the parameters of all who wait *are* its tensors (``parameter.data``; the parameter
objects stay, since optimizers hold them). Nobody writes to a borrowed tensor but the loan itself: who is to train is
given storage of its own first, see :meth:`Borrower.materialise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Loan:
    """Tensors by key of a participant's state, and who ought to point at them but does not.

    Args:
        tensors: Owned by the loan from now on.
        names: Everyone who may borrow it; they all have yet to.

    Attributes:
        tensors: What is lent.
        missing: Names of those who hold something else, as everyone does who trains.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Iterable[str] = ()) -> None:
        self.tensors = dict(tensors)
        self.missing = set(names)

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor]) -> None:
        """New values, for all who borrow at once: however many there are, it costs one copy."""
        for key, tensor in self.tensors.items():
            tensor.copy_(state[key])


class KeepsLoans:
    """A conversion (to a device, to a dtype) that turns a tensor which many borrow into one that they still share.

    ``Module.to`` converts parameter by parameter, and would make a copy for every borrower.

    Args:
        convert: What ``Module._apply`` was given.
        loans: Whose tensors are converted now, once.
    """

    def __init__(self, convert: Callable[[Tensor], Tensor], loans: Iterable[Loan]) -> None:
        self._convert = convert
        self._converted: dict[tuple[Any, ...], Tensor] = {}
        with torch.no_grad():
            for loan in loans:
                for key, tensor in loan.tensors.items():
                    known = place_of(tensor)
                    loan.tensors[key] = self._converted.setdefault(known, convert(tensor))

    def __call__(self, tensor: Tensor) -> Tensor:
        """The converted tensor, of borrowers the common one."""
        found = self._converted.get(place_of(tensor))
        # An object for each: a buffer is replaced by what this returns, and is pointed elsewhere by its `data`.
        return self._convert(tensor) if found is None else found.detach()


class Borrower(nn.Module):
    """A module whose tensors may be borrowed; everything that writes to them by way of the module materialises first.

    What writes past it (``participant.backbone.load_state_dict(...)``, an initialisation in place) has to call
    :meth:`materialise` before, or changes them for all who borrow them.
    """

    _name: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._loans: dict[str, Loan] = {}

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__()) | {"_loans": {}}  # type: ignore[no-untyped-call]  # A copy has tensors of its own.

    def borrow(self, loan: Loan) -> None:
        """Point at the loan's tensors, which must not be written to, and let go of its own under those keys."""
        own = self.state_dict(keep_vars=True)
        for key, tensor in loan.tensors.items():
            own[key].data, own[key].grad = tensor, None
            self._loans[key] = loan
        loan.missing.discard(self._name or "")

    def borrows(self, key: str) -> Loan | None:
        """Whose tensor it has under ``key``; None for its own."""
        return self._loans.get(key)

    @property
    def loans(self) -> list[Loan]:
        """Everything that it borrows from."""
        return list({id(loan): loan for loan in self._loans.values()}.values())

    def materialise(
        self, keys: Iterable[str] | None = None, *, copy: Callable[[str, Tensor], Tensor] | None = None
    ) -> None:
        """Give what it borrows storage of its own, so that it may be written to: before anything trains it.

        Args:
            keys: Which keys of ``state_dict``; None for all.
            copy: Makes the tensor to have under a key of the one that is borrowed; None clones it.
        """
        borrowed = [key for key in (list(self._loans) if keys is None else keys) if key in self._loans]
        own = self.state_dict(keep_vars=True) if borrowed else {}
        for key in borrowed:
            tensor = own[key].detach()
            own[key].data = tensor.clone() if copy is None else copy(key, tensor)
            self._loans.pop(key).missing.add(self._name or "")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As ``Module.load_state_dict``, into storage of its own."""
        self.materialise()
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if not isinstance(fn, KeepsLoans):
            self.materialise()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how: equal for tensors that are one and the same.

    Of a tensor without one piece of memory (empty, sparse, of a lazy layer, or on the meta device) it is the object's
    identity.
    """
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.device.type == "meta":
        return ("nowhere", id(tensor))
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
