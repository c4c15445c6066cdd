"""What a run's trained model says about images that it was not made with."""

import functools
import threading
from pathlib import Path

import numpy as np
import torch

from engine import device, files
from engine.config import RunConfig
from engine.core import targets
from engine.core.state import State
from engine.core.stream import Examples
from engine.core.training import optimizer_for
from engine.datasets import registry as dataset_registry
from engine.errors import IntegrityError
from engine.models import registry as model_registry
from engine.models.functional import FunctionalModel
from engine.runs.run import Run
from engine.trajectory.state_files import read_state, state_of

STATE = "model/state.safetensors"

MODELS_KEPT = 4  # in memory, for a page that asks again at each of its redraws

# A pass puts its parameters into the module for a moment: two threads must not do so at once.
_one_at_a_time = threading.Lock()


def logits(run: Run, images: np.ndarray) -> np.ndarray:
    """float32 [N, classes] of uint8 images [N, H, W, C], in evaluation mode, on the CPU.

    The model is built once for each checksum of the final state. Raises `IntegrityError` where the state's file is
    missing or has changed since it was written.
    """
    record = run.manifest()
    config, path = record.config, run.path / STATE
    remedy = "Delete the run and start it again."
    try:
        checksum = files.sha256_of(path)  # read again only where the file has changed
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror}).", remedy) from error
    if checksum != record.files.get(STATE):
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    dataset, dtype = dataset_registry.load(config.dataset), getattr(torch, config.state_precision)
    mean, std = (torch.as_tensor(a, dtype=dtype) for a in (dataset.mean, dataset.std))
    inputs = Examples(torch.from_numpy(images), torch.zeros(len(images), dtype=torch.int64), dtype, mean, std)
    with _one_at_a_time, device.exact_arithmetic():
        model, state = _trained(checksum, config, path, record.training_digest or "")
        return targets.logits(model, state, inputs).float().numpy()


@functools.lru_cache(maxsize=MODELS_KEPT)
def _trained(checksum: str, config: RunConfig, path: Path, training: str) -> tuple[FunctionalModel, State]:
    model = model_registry.build(config, dataset_registry.load(config.dataset))
    tensors = read_state(path, {"training": training}, "Delete the run and start it again.")
    return model, state_of(tensors, optimizer_for(model, config.recipe))
