"""A variational autoencoder: outputs are a tuple, the target is the input, the loss is a sum and draws noise.

Run: python examples/own_loop_vae.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp

Outputs = tuple[Tensor, Tensor, Tensor]


class VAE(nn.Module):
    """Mean and variance of a code, a drawn code, and the picture that it gives."""

    def __init__(self, pixels: int = 64, hidden: int = 64, code: int = 6) -> None:
        super().__init__()
        self.see, self.mean, self.log_variance = (
            nn.Linear(pixels, hidden),
            nn.Linear(hidden, code),
            nn.Linear(hidden, code),
        )
        self.draw = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def forward(self, x: Tensor) -> Outputs:
        seen = self.see(x).relu()
        mean, log_variance = self.mean(seen), self.log_variance(seen)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.draw(code), mean, log_variance


def bound(outputs: Outputs, x: Tensor) -> Tensor:
    """The negative evidence lower bound, in nats, summed over the rows: what the picture costs and what the code costs."""
    picture, mean, log_variance = outputs
    code = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return F.binary_cross_entropy_with_logits(picture, x, reduction="sum") + code


def train(epochs: int = 20, rows: int = 400) -> tuple[wp.Watch, nn.Module]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds."""
    torch.manual_seed(0)
    x = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    x = x[torch.randperm(len(x))]
    train_loader = DataLoader(TensorDataset(x[:rows]), 32, shuffle=True)
    valid_loader = DataLoader(TensorDataset(x[rows:]), 256)
    net = VAE()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    optimizer = wp.regularize(optimizer, net, [wp.GroupL2(3e-2, by="unit").on("see"), wp.L2(1e-2).on("draw.*")])
    watch = wp.watch(
        net, bound, train_loader, valid_loader, optimizer=optimizer, share=1,
        forward=lambda model, batch: model(batch[0]), target=lambda batch: batch[0],
    )  # fmt: skip
    for _ in range(epochs):
        net.train()
        for (batch,) in train_loader:
            optimizer.zero_grad()
            (bound(net(batch), batch) / len(batch)).backward()
            optimizer.step()
        watch.epoch()
    return watch, net


if __name__ == "__main__":
    watch, _ = train()
    print(watch)
    print(wp.diagnose(watch))
