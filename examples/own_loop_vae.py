"""A variational autoencoder, and with beta above 1 a beta-VAE: outputs are a tuple, the target is the input, the KL is a term.

Run: python examples/own_loop_vae.py [FOLDER]    where FOLDER has images/mnist.npz; else on the digits of scikit-learn
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp


class VAE(nn.Module):
    """Mean and log-variance of a code side by side, a drawn code, and the picture that it gives."""

    def __init__(self, pixels: int, hidden: int = 64, code: int = 6) -> None:
        super().__init__()
        self.see, self.code = nn.Linear(pixels, hidden), nn.Linear(hidden, 2 * code)
        self.draw = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.code(self.see(x).relu()).chunk(2, dim=1)
        return self.draw(mean + torch.randn_like(mean) * (log_variance / 2).exp())


def pictures(folder: str | None) -> Tensor:
    """``(rows, pixels)`` in [0, 1], in a random order."""
    if folder:
        x = torch.from_numpy(np.load(Path(folder) / "images" / "mnist.npz")["X_train"]).flatten(1).float() / 255
    else:
        x = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float32) / 16
    return x[torch.randperm(len(x))]


def lost(outputs: Tensor, x: Tensor) -> Tensor:
    """What each picture costs given its code, in nats; with the divergence of the code it is minus the evidence lower bound."""
    return F.binary_cross_entropy_with_logits(outputs, x, reduction="none").sum(1)


def train(
    epochs: int = 20, rows: int = 400, beta: float = 1.0, warmup: int = 100, folder: str | None = None
) -> tuple[wp.Watch, nn.Module]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds."""
    torch.manual_seed(0)
    x = pictures(folder)[: 2 * rows + 600]
    train_loader = DataLoader(TensorDataset(x[:rows]), 32, shuffle=True)
    valid_loader = DataLoader(TensorDataset(x[rows:]), 256)
    net = VAE(x.shape[1], hidden=256 if folder else 64, code=10 if folder else 6)
    code = wp.KLToStandardNormal(beta).on("code", schedule=wp.ramp(warmup))
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=3e-3), net, [code, wp.L2(1e-2).on("draw.*")])
    watch = wp.watch(
        net, lost, train_loader, valid_loader, optimizer=optimizer, share=1,
        forward=lambda model, batch: model(batch[0]), target=lambda batch: batch[0],
    )  # fmt: skip
    for _ in range(epochs):
        net.train()
        for (batch,) in train_loader:
            optimizer.zero_grad()
            (lost(net(batch), batch).mean() + optimizer.penalty()).backward()
            optimizer.step()
        watch.epoch()
    return watch, net


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    for beta in (1.0, 4.0, 100.0):
        watch, _ = train(beta=beta, rows=4000 if folder else 400, folder=folder)
        print(f"beta {beta:g}", watch, wp.diagnose(watch), sep="\n")
