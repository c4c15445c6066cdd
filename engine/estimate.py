"""What a run will need before it is started: bytes a step, in all, and what fits.

A step keeps its parameters and buffers and nothing else (SGD goes backwards without its
momentum, and a batch is rebuilt from its number).
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from engine import data, runs
from engine.config import RunConfig
from engine.schedule import plan_for

HEADER = 512              # bytes of a trajectory file beside its tensors: names, shapes, checksum
SIDECAR, SIDECAR_TARGET = 1000, 150     # bytes of the JSON beside the scores
RESERVE_RAM = 1 << 30     # bytes left to the system, the page server and torch itself


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes. `fits` tells for each replay mode whether its need is met."""

    parameters: int
    buffers: int
    steps: int
    bytes_per_step: int
    trajectory: int                  # steps × bytes_per_step
    scores: int                      # float32 [K, N]
    model: int                       # final state and test logits
    working: int                     # RAM or GPU memory beside the trajectory, roughly
    disk_free: int
    memory_free: int                 # of the device that would be used
    device: str
    disk: dict[str, int]             # disk needed, by replay mode
    memory: dict[str, int]           # RAM or GPU memory needed, by replay mode
    fits: dict[str, bool]


def estimate(config: RunConfig, root: Path) -> Estimate:
    """From the model's real shapes. Raises `ConfigError` or `DataError`; needs torch."""
    from engine import device as devices
    from engine import models
    from engine.replay import bytes_per_target, chunk_that_fits
    dataset = data.load(config.dataset)
    functional = models.functional(config, dataset)
    n, k = len(dataset.train_labels), len(config.targets)
    item = 8 if config.precision == "float64" else 4
    state = item * (functional.parameters + functional.buffers)
    steps = len(plan_for(config.recipe, n))
    per_step = state + HEADER
    trajectory = steps * per_step
    scores = 4 * k * n + SIDECAR + SIDECAR_TARGET * k
    model = state + item * functional.parameters + 4 * len(dataset.test_labels) * len(dataset.classes)
    device = devices.choose(config.device)
    _, height, width, channels = dataset.train_images.shape
    per_target = bytes_per_target(functional, (config.recipe.batch_size, channels, height, width))
    chunk = config.targets_per_pass or chunk_that_fits(per_target, k, device)
    # The tangents of a pass, the adjoints of all targets, the images' bytes, the scores.
    working = min(chunk, k) * per_target + 4 * k * state + dataset.train_images.size + item * k * n
    memory_free = devices.memory_free(device)
    disk_free = runs.disk_free(root)
    disk = {"memory": scores + model, "disk": trajectory + scores + model}
    memory = {"memory": trajectory + working, "disk": working + 2 * per_step}
    reserve = RESERVE_RAM if device.type == "cpu" else 0
    ram_left = psutil.virtual_memory().available
    fits = {mode: disk[mode] <= disk_free and memory[mode] + reserve <= memory_free
            for mode in disk}
    return Estimate(functional.parameters, functional.buffers, steps, per_step, trajectory, scores,
                    model, working, disk_free, memory_free if device.type != "cpu" else ram_left,
                    str(device), disk, memory, fits)
