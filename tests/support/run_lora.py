"""Pretrain and federate the example in the current folder, with a common and with private heads; print the results."""

from __future__ import annotations

import json
from typing import Any

import adapters
import pretrain
from moonflower import simulate

FEW = ("training.rounds=2", "training.local_epochs=2", "simulate.members=3", "data.test_fraction=0.4")


def main() -> None:
    pretrain.main(epochs=2)
    model: Any = adapters.Adapters().model(None, None)
    trained = {name: value.numel() for name, value in model.named_parameters() if value.requires_grad}
    common = simulate("run.toml", out="common", overrides=FEW, baselines=False)
    private = ('training.personal=["*classifier*"]', "training.local_epochs=4")
    own = simulate("run.toml", out="own", overrides=(*FEW, *private), baselines=False)
    print(
        json.dumps(
            {
                "lora": sum(count for name, count in trained.items() if "lora_" in name),
                "head": sum(count for name, count in trained.items() if "classifier" in name),
                "all": sum(value.numel() for value in model.parameters()),
                "common": common.result,
                "own": own.result,
            }
        )
    )


if __name__ == "__main__":
    main()
