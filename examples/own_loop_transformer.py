"""A small transformer on generated text, in its own loop: dict batches, masked tokens, a custom forward and loss.

Run: python examples/own_loop_transformer.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import wellposed as wp

LETTERS, LENGTH, PAD = 26, 24, -100


def texts(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Strings in which each letter mostly follows from the one before it, of various lengths; padding is masked."""
    follower = torch.randperm(LETTERS, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        text = torch.randint(LETTERS, (LENGTH + 1,), generator=random)
        for i in range(1, LENGTH + 1):
            if torch.rand(1, generator=random) < 0.9:
                text[i] = follower[text[i - 1]]
        labels = text[1:].clone()
        labels[int(torch.randint(8, LENGTH, (1,), generator=random)) :] = PAD
        found.append({"tokens": text[:-1], "labels": labels})
    return found


class Transformer(nn.Module):
    """Embeddings, two encoder layers with a causal mask, and a head tied to the embedding."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.place = nn.Parameter(torch.zeros(1, LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, LETTERS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, length) -> (n, length, letters)``."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        scores: Tensor = self.head(self.layers(self.embed(tokens) + self.place, mask=mask, is_causal=True))
        return scores


def token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the tokens that count."""
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=PAD)


def train(epochs: int = 8, rows: int = 512) -> tuple[wp.Watch, torch.optim.Optimizer]:
    """An ordinary loop; validation is watched per token, the padding left out."""
    torch.manual_seed(0)
    train_loader = DataLoader(texts(rows, seed=1), batch_size=64, shuffle=True)
    net = Transformer()
    optimizer = wp.regularize(
        torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0), net, [wp.L2(0.01).on("layers.*")]
    )
    watch = wp.watch(net, "cross_entropy", train=train_loader, valid=texts(256, seed=2), optimizer=optimizer)
    for _ in range(epochs):
        for batch in train_loader:
            optimizer.zero_grad()
            token_loss(net(batch["tokens"]), batch["labels"]).backward()
            optimizer.step()
        watch.epoch()
    return watch, optimizer


if __name__ == "__main__":
    watch, optimizer = train()
    print(optimizer.audit())
    print(watch)
    print(wp.diagnose(watch))
