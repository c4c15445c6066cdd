"""What a run's trained model says about images that it was not made with."""

import numpy as np
import torch

from engine import device
from engine.core import targets as phi
from engine.core.stream import Examples
from engine.core.training import optimizer_for
from engine.datasets import registry as dataset_registry
from engine.models import registry as model_registry
from engine.runs.run import Run
from engine.trajectory.state_files import read_state, state_of


def logits(run: Run, images: np.ndarray) -> np.ndarray:
    """float32 [N, classes] of uint8 images [N, H, W, C], in evaluation mode, on the CPU."""
    record = run.manifest()
    config = record.config
    dataset, dtype = dataset_registry.load(config.dataset), getattr(torch, config.precision)
    model = model_registry.build(config, dataset)
    tensors = read_state(
        run.path / "model" / "state.safetensors",
        {"training": record.training_digest or ""},
        "Delete the run and start it again.",
    )
    state = state_of(tensors, optimizer_for(model, config.recipe))
    mean, std = (torch.as_tensor(a, dtype=dtype) for a in (dataset.mean, dataset.std))
    given = Examples(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.int64), dtype, mean, std)
    with device.exact_arithmetic():
        return phi.logits(model, state, given).float().numpy()
