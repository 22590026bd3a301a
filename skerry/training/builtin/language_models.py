"""Models that predict the next token at every position: recurrent ones and a small transformer."""

import torch
from torch import nn
from torch.nn import functional


class RecurrentModel(nn.Module):  # type: ignore[misc]
    """Embedding, recurrent layers, logits; the state begins at zero with every example."""

    def __init__(self, tokens: int, embedding: int, recurrent: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.recurrent = recurrent
        self.logits = nn.Linear(recurrent.hidden_size, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (examples, length, tokens) for x int64 (examples, length)."""
        hidden, _ = self.recurrent(self.embedding(x))
        logits: torch.Tensor = self.logits(hidden)
        return logits


class Transformer(nn.Module):  # type: ignore[misc]
    """A decoder with the normalisation before each part and learned positions.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners", of which it is a small one.
    """

    def __init__(self, tokens: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.Sequential(*(TransformerLayer(width, heads) for _ in range(layers)))
        self.normalised = nn.LayerNorm(width)
        self.logits = nn.Linear(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (examples, length, tokens) for x int64 (examples, length)."""
        logits: torch.Tensor = self.logits(self.normalised(self.layers(self.embedding(x) + self.positions)))
        return logits


class TransformerLayer(nn.Module):  # type: ignore[misc]
    """Attention to what came before, then two linear layers, each added to what they were given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (examples, length, width)."""
        x = x + self._attend(self.before_attention(x))
        return x + self.feed_forward(x)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        examples, length, width = x.shape
        split = self.queries_keys_values(x).reshape(examples, length, 3, self.heads, width // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(
            0
        )  # each (examples, heads, length, width of a head)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        attended: torch.Tensor = self.attended(mixed.transpose(1, 2).reshape(examples, length, width))
        return attended
