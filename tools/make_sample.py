"""Makes the embedded data set: a balanced, seeded draw of 6,000 + 1,000 images of Fashion-MNIST.

    make data

reads the data folder, or Debian's package `dataset-fashion-mnist`, and writes engine/assets/fashion-mnist-sample.npz,
byte for byte the file in the repository.
"""

import numpy as np

from engine.datasets import fashion_mnist
from engine.datasets.prepared import data_folder

SEED = 20170828  # the day of arXiv 1708.07747
PER_CLASS = {"train": 600, "test": 100}


def draw(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices, int64 [per_class · classes], in the source's order."""
    chosen = [
        rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(len(fashion_mnist.CLASSES))
    ]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    rng = np.random.default_rng(SEED)
    arrays = {}
    for split, (images, labels) in fashion_mnist.read_fashion_mnist(fashion_mnist.sources_in(data_folder())).items():
        index = draw(labels, PER_CLASS[split], rng)
        arrays[f"{split}_images"] = images[index, ..., 0]
        arrays[f"{split}_labels"] = labels[index].astype(np.uint8)
        arrays[f"{split}_source_index"] = index.astype(np.int32)
    fashion_mnist.SAMPLE.parent.mkdir(exist_ok=True)
    np.savez_compressed(fashion_mnist.SAMPLE, **arrays)
    print(f"{fashion_mnist.SAMPLE}: {fashion_mnist.SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
