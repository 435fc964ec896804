"""Copy-on-write tensors of many participants: those that do not train point at one copy.

Of a thousand participants of whom ten train in a round, nine hundred and ninety hold the shared state unchanged. A
:class:`Loan` holds it once, and the parameters of the waiting ones *are* its tensors (``parameter.data``; the parameter
objects stay, since optimizers hold them). Only the loan itself writes to a borrowed tensor. A participant that is to
train is given storage of its own first, see :meth:`Borrower.materialise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class Loan:
    """Tensors of a state that several participants borrow, and names of members that do not borrow them at present.

    Args:
        tensors: Tensors by key, owned by the loan from now on.
        names: Names of all members, none of which borrows yet.

    Attributes:
        tensors: Borrowed tensors by key.
        missing: Names of members with other tensors, such as those that train.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Iterable[str] = ()) -> None:
        self.tensors = dict(tensors)
        self.missing = set(names)

    @torch.no_grad()
    def update(self, state: Mapping[str, Tensor]) -> None:
        """Write new values, tensors by key, for all borrowers with one copy."""
        for key, tensor in self.tensors.items():
            tensor.copy_(state[key])


class KeepsLoans:
    """Conversion to a device or a dtype under which borrowed tensors stay shared.

    ``Module.to`` converts parameter by parameter, and would make a copy for every borrower.

    Args:
        convert: Function that ``Module._apply`` was given.
        loans: Loans whose tensors are converted now, once.
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
        """Converted tensor of the same shape; of a borrowed tensor the common one."""
        found = self._converted.get(place_of(tensor))
        # An object for each: a buffer is replaced by what this returns, and is pointed elsewhere by its `data`.
        return self._convert(tensor) if found is None else found.detach()


class Borrower(nn.Module):
    """Module whose tensors may be borrowed; writes by way of the module materialise them first.

    Other writes (``participant.backbone.load_state_dict(...)``, an initialisation in place) have to call
    :meth:`materialise` before, or they change the tensors of all borrowers.
    """

    _name: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._loans: dict[str, Loan] = {}

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__()) | {"_loans": {}}  # type: ignore[no-untyped-call]  # A copy has tensors of its own.

    def borrow(self, loan: Loan) -> None:
        """Point at a loan's tensors, which must not be written to, and release the module's own under those keys."""
        own = self.state_dict(keep_vars=True)
        for key, tensor in loan.tensors.items():
            own[key].data, own[key].grad = tensor, None
            self._loans[key] = loan
        loan.missing.discard(self._name or "")

    def borrows(self, key: str) -> Loan | None:
        """Loan of the tensor under ``key``; None for a tensor of the module's own."""
        return self._loans.get(key)

    @property
    def loans(self) -> list[Loan]:
        """All loans that the module borrows from."""
        return list({id(loan): loan for loan in self._loans.values()}.values())

    def materialise(
        self, keys: Iterable[str] | None = None, *, copy: Callable[[str, Tensor], Tensor] | None = None
    ) -> None:
        """Give borrowed tensors storage of their own, so that they may be written to; call it before training.

        Args:
            keys: Keys of ``state_dict``; None for all.
            copy: Called with key and borrowed tensor, returns the new tensor; None clones.
        """
        borrowed = [key for key in (list(self._loans) if keys is None else keys) if key in self._loans]
        own = self.state_dict(keep_vars=True) if borrowed else {}
        for key in borrowed:
            tensor = own[key].detach()
            own[key].data = tensor.clone() if copy is None else copy(key, tensor)
            self._loans.pop(key).missing.add(self._name or "")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state into storage of the module's own, as ``Module.load_state_dict`` does.

        Args:
            state_dict: Tensors by key.
            strict: True to refuse missing and unknown keys.
            assign: True to take the tensors themselves instead of copies.
        """
        self.materialise()
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if not isinstance(fn, KeepsLoans):
            self.materialise()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Address and layout of a tensor in memory, equal for tensors that are one and the same.

    For a tensor without one piece of memory (empty, sparse, lazy, or on the meta device) it is the object's identity.
    """
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.device.type == "meta":
        return ("nowhere", id(tensor))
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device
