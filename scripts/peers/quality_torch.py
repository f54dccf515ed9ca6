"""A straightforward PyTorch run to a goal: GOAL DATA SEED. Prints each evaluation. Run by scripts/benchmark.py."""

import sys

import contest
import numpy as np
import torch
from torch.nn import functional as F
from torch_step import adam, model_of


def main(name: str, path: str, seed: str) -> None:
    """Trains on the arrays in ``path`` and evaluates as often as the goal says."""
    torch.manual_seed(int(seed))
    goal, data = contest.GOALS[name], np.load(path)
    reconstructs = goal.metric == "mse"
    images = data["train_image"]
    mean, std = (0.0, 1.0) if reconstructs else contest.moments(images[:5000])

    def prepared(images: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W, C] as bytes in torch's order of axes."""
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def inputs(images: torch.Tensor) -> torch.Tensor:
        """What the model sees."""
        shape = (1, -1, 1, 1)
        pixels = images.float() / 255
        return ((pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)).contiguous(
            memory_format=torch.channels_last
        )

    start = inputs(prepared(images[:5000])).permute(0, 2, 3, 1).numpy()
    model = model_of(goal.model, start).to(memory_format=torch.channels_last)
    optimizer = adam(model.parameters(), goal.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / goal.steps)
    train_x, train_y = prepared(images), torch.from_numpy(data["train_label"]).long()
    test_x, test_y = prepared(data["validation_image"]), torch.from_numpy(data["validation_label"]).long()

    def evaluate() -> float:
        model.eval()
        total = 0.0
        with torch.no_grad():
            for x, y in zip(test_x.split(500), test_y.split(500), strict=True):
                x = inputs(x)
                if reconstructs:
                    total += F.mse_loss(model(x).clip(0, 1), x).item() * len(x)
                else:
                    total += (model(x).argmax(1) == y).sum().item()
        model.train()
        return total / len(test_y)

    step = 0
    while step < goal.steps:
        for index in torch.randperm(len(train_y)).split(goal.batch)[: len(train_y) // goal.batch]:
            x, y = inputs(train_x[index]), train_y[index]
            outputs = model(x)
            loss = F.mse_loss(outputs, x) if reconstructs else F.cross_entropy(outputs, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % goal.every == 0:
                contest.say(step=step, **{goal.metric: evaluate()})
            if step == goal.steps:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
