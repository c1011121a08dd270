"""LoRA: the weights of a pretrained transformer are frozen, and only adapters and a head are trained and travel."""

import torch
from moonflower.client.tasks.digits import Digits
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification

PUBLIC = 500
"""The first rows of the bundled data; pretrain.py has them, and no member."""


class Backbone(ViTForImageClassification):
    """A vision transformer that reads an image as eight rows of pixels, and returns logits."""

    def __init__(self):
        shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        super().__init__(ViTConfig(image_size=8, patch_size=(1, 8), num_channels=1, num_labels=10, **shape))

    def forward(self, images):
        return super().forward(images).logits


def adapted(backbone, rank=4):
    """Return the network with adapters beside its linear layers, and a head to train; all else is frozen."""
    targets = {"target_modules": "all-linear", "modules_to_save": ["classifier"]}
    return get_peft_model(backbone, LoraConfig(r=rank, lora_alpha=2 * rank, **targets))


class Adapters(Digits):
    """The digits of moonflower's worked example: the same loss and metrics, with another model."""

    def __init__(self, rank=4):
        super().__init__()
        self.rank = rank

    def data(self, settings, schema):
        return super().data(settings, schema).take(torch.arange(PUBLIC, len(load_digits().target)))

    def model(self, schema, generator):
        return adapted(Backbone(), self.rank)
