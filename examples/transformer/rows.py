"""A small transformer that reads a handwritten digit as a sequence of eight rows of pixels."""

import torch
from moonflower.client.tasks.digits import Digits
from torch import nn


class Reader(nn.Module):
    """Eight rows of eight pixels to logits of ten digits."""

    def __init__(self, width, heads, layers):
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.places = nn.Parameter(0.02 * torch.randn(8, width))
        one = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(one, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images):
        words = self.rows(images.squeeze(1)) + self.places
        return self.head(self.encoder(words).mean(dim=1))


class Transformer(Digits):
    """The digits of moonflower's worked example: the same rows, loss and metrics, with another model."""

    def __init__(self, width=32, heads=4, layers=2):
        super().__init__()
        self.shape = width, heads, layers

    def model(self, schema, generator):
        return Reader(*self.shape)
