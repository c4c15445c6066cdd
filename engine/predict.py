"""What a run's trained model says about images that it was not made with."""

import numpy as np
import torch

from engine import data, device, models
from engine import targets as phi
from engine.runs import Run
from engine.state import Examples, State
from engine.store import read_state


def logits(run: Run, images: np.ndarray) -> np.ndarray:
    """float32 [N, classes] of uint8 images [N, H, W, C], in evaluation mode, on the CPU."""
    config, manifest = run.config, run.manifest
    dataset, dtype = data.load(config.dataset), getattr(torch, config.precision)
    state = State(**read_state(run.path / "model" / "state.safetensors", {"training": manifest.get("training_digest", "")},
                               "Delete the run and start it again."))
    mean, std = (torch.as_tensor(a, dtype=dtype) for a in (dataset.mean, dataset.std))
    given = Examples(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.int64), dtype, mean, std)
    with device.exact_arithmetic():
        return phi.logits(models.functional(config, dataset), state, given).float().numpy()
