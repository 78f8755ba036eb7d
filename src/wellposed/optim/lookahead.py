"""Lookahead: k steps forward, and one part of the way back, around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wellposed.core.checks import Count, Within, checked
from wellposed.core.errors import CompositionError, FormatError
from wellposed.optim.regularize import Regularized
from wellposed.optim.wrapper import Wrapper, unwrap_optimizer

SCHEMA = 1


@checked
class Lookahead(Wrapper):
    """After every ``every`` steps, ``w = slow + share*(w - slow)``, where ``slow`` is ``w`` as it was ``every`` steps before.

    Where a term of `regularize` makes zeros (L1, groups, the largest k), what is exactly 0 after the inner steps stays 0;
    its constraints are projected on again. So zeros and bounds hold after a synchronization as after any other step. Other
    patterns (equal neighbours of `TotalVariation`, the rank of `Nuclear`) are lost in mixing. Frozen parameters
    (``requires_grad=False``) are left alone. Between two synchronizations the weights are the fast ones: evaluate after a
    multiple of ``every`` steps. Momenta are kept.

    Args:
        optimizer: any but LBFGS; a regularized one too. (`regularize` goes inside, Lookahead around it.)
        every: >= 1 inner steps for each synchronization.
        share: in (0, 1]. 1 is the inner optimizer.
    Raises:
        InputError, CompositionError: an impossible setting, or an optimizer that cannot be wrapped.
    Source:
        Zhang et al. (2019), NeurIPS, 1907.08610.
    Example:
        >>> import torch, wellposed as wp
        >>> net = torch.nn.Linear(3, 1)
        >>> inner = wp.regularize(torch.optim.Adam(net.parameters()), net, [wp.L1(1e-3).on()])
        >>> optimizer = wp.Lookahead(inner, every=5, share=0.5)
        >>> isinstance(optimizer, torch.optim.Optimizer)
        True
    """

    refusal = (
        "Lookahead mixes weights after the terms were enforced. Wrap the other way round: Lookahead(regularize(...))."
    )

    def __init__(
        self, optimizer: Optimizer, every: Count = 5, share: Annotated[float, Within(0, 1, open="low")] = 0.5
    ) -> None:
        if isinstance(optimizer, Lookahead):
            raise CompositionError("This optimizer looks ahead already. Give the one inside it.")
        if isinstance(unwrap_optimizer(optimizer), torch.optim.LBFGS):
            raise CompositionError("LBFGS remembers how the gradient changed along its own steps; use Adam or SGD.")
        super().__init__(optimizer)
        self.every, self.share, self.count = every, float(share), 0
        self._slow: dict[Tensor, Tensor] = {}

    def __repr__(self) -> str:
        return f"Lookahead({self.optimizer!r}, every={self.every}, share={self.share})"

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of the wrapped optimizer, and synchronize where it is due. Returns what that step returns."""
        if self.count % self.every == 0:
            self._slow = {}
        for parameter in self._parameters():
            if parameter not in self._slow:  # also one that joined since
                self._slow[parameter] = parameter.detach().clone()
        result = self.optimizer.step(closure)
        self.count += 1
        if self.count % self.every == 0:
            self.synchronize()
        self._call_hooks()
        return result

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def synchronize(self) -> None:
        """Synchronize now, and begin to count anew: before weights are evaluated or kept."""
        self.count -= self.count % self.every
        inner = self.optimizer if isinstance(self.optimizer, Regularized) else None
        if self.share < 1.0:
            sparse = inner.binding.sparse if inner is not None else ()
            for fast, slow in self._slow.items():
                if not fast.requires_grad:
                    continue
                still = fast == slow  # what has not moved stays bit for bit
                if id(fast) in sparse:
                    still |= fast == 0
                fast.copy_(torch.where(still, fast, torch.lerp(slow, fast, self.share)))
            if inner is not None:
                inner.project()
        self._slow = {}

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state with ours under ``"lookahead"``: the count, and slow weights by number."""
        slow = {i: self._slow[p].clone() for i, p in enumerate(self._parameters()) if p in self._slow}
        own = {"schema": SCHEMA, "count": self.count, "slow": slow}
        return {**self.optimizer.state_dict(), "lookahead": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or the inner optimizer's state. Load the model's weights before the next step.

        Raises:
            FormatError: the state was saved in another schema.
        """
        rest = dict(state_dict)
        own = rest.pop("lookahead", {"schema": SCHEMA, "count": 0, "slow": {}})
        if own.get("schema") != SCHEMA:
            raise FormatError(f"This Lookahead state has schema {own.get('schema')!r}; schema {SCHEMA} can be loaded.")
        self.optimizer.load_state_dict(rest)
        self.count = int(own["count"])
        parameters = self._parameters()
        self._slow = {parameters[int(i)]: slow.to(parameters[int(i)], copy=True) for i, slow in own["slow"].items()}
