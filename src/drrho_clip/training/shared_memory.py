"""How much of a node's /dev/shm a run takes."""

from __future__ import annotations

from drrho_clip.training.config import TrainConfig

PREFETCHED = 2  # batches that PyTorch keeps ready for each data worker
OWN_BYTES = 128 * 2**20  # what the backends and PyTorch keep there themselves


def needed(config: TrainConfig, samples: int, *, processes: int, world_size: int) -> int:
    """Bytes for the processes of one node: batches on their way from the data workers, u and the weights where they are shared.

    `samples` is the size of the dataset.
    """
    from drrho_clip.method.rows import NUMBER_BYTES, in_shared_home
    from drrho_clip.method.weights import WIDTH

    widths = (2, WIDTH) if config.record_weights == "yes" else (2,)
    numbers = sum(samples * width for width in widths if in_shared_home(samples, width, config.u_home))
    batches = processes * config.workers * (PREFETCHED + 1) * _batch_bytes(config, world_size) if config.workers else 0
    return int(1.2 * batches) + (numbers * NUMBER_BYTES if config.u_path == "/dev/shm" else 0) + OWN_BYTES


def _batch_bytes(config: TrainConfig, world_size: int) -> int:
    from drrho_clip.data.augment import channel_bytes
    from drrho_clip.models import architecture_info  # imports open_clip, which takes its time

    info = architecture_info(config.architecture)
    reference = 2 * 2 * max(info.embed_dim, 1024) if config.reference else 0  # fp16, of a model that may be the larger one
    image = 3 * info.image_size**2 * channel_bytes(config.augmentation)
    sample = image + info.context_length * 8 + reference + 16
    return -(-config.read_size // world_size) * sample
