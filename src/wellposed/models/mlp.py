"""A multilayer perceptron with dropout sites, for tables and flat arrays."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from wellposed.core.checks import Count, Within, checked


@checked
class MLP(nn.Module):
    """``Linear -> LayerNorm -> activation -> dropout``, ``depth`` times, and a linear head.

    Args:
        inputs: >= 1, features of a row; further axes are flattened.
        outputs: >= 1.
        width: >= 1, units of a hidden layer.
        depth: >= 0, hidden layers; 0 is a linear model.
        norm: normalize before each activation, which makes the rate of learning depend little on width and depth.
        dropout: in [0, 1), after each activation; a recipe's ``[noise] dropout`` sets it.
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        width: Count = 128,
        depth: Annotated[int, Within(0)] = 2,
        norm: bool = True,
        dropout: Annotated[float, Within(0, 1, open="high")] = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        size = inputs
        for _ in range(depth):
            layers.append(nn.Linear(size, width))
            if norm:
                layers.append(nn.LayerNorm(width))
            layers += [nn.SiLU(), nn.Dropout(dropout)]
            size = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.hidden(x))
        return scores
