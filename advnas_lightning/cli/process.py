"""What a run needs of its process: quiet, memory that is kept, and an end where another process has died."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import threading
import time
import warnings

import torch
from hydra.core.hydra_config import HydraConfig

LOST = "a process of this run has died: go on with the run's hydra.run.dir=… and ckpt_path=last"
FIRST_RANK = "ADVNAS_LIGHTNING_FIRST_RANK"  # its process, for those that Lightning starts from it


def quiet() -> None:
    """Silence what Lightning says about hardware and loaders that a user of a ready-made run cannot change."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step.

    glibc gives the memory of a finished backward pass back to the system, which clears every page of it when the next
    step asks for it again: on a CPU that can make an architecture step dearer than a weight step.
    """
    allocator = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if allocator is not None:
        trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
        allocator(mmap_threshold, 2**30)
        allocator(trim_threshold, -1)  # never


def end_with_first_rank() -> None:
    """Let no process outlive the first one, which started it.

    Lightning ends the first one where another has died; but another would wait half an hour for a dead first one, where
    none of them has sent anything yet, or where a GPU waits for all of them.
    """
    if not HydraConfig.get().job.name.startswith("train_ddp_process_"):  # as Lightning calls those that it starts
        os.environ[FIRST_RANK] = str(os.getpid())
        return

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST_RANK]):
            time.sleep(1)
        time.sleep(10)  # a run that is over ends by itself, or has already said what it lacks
        print(f"error: {LOST}", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def lost_process(error: RuntimeError) -> str | None:
    """What to say of an error that comes of the death of another process; ``None`` for other errors.

    Example:
        >>> lost_process(RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:1] Read error: Connection reset."))
        "a process of this run has died (Read error: Connection reset): go on with the run's hydra.run.dir=… and \
ckpt_path=last"
        >>> lost_process(RuntimeError("shapes do not match"))
    """
    message = str(error)
    if not isinstance(error, torch.distributed.DistError) and "/gloo/" not in message:  # whose errors have no class
        return None
    reason = re.sub(r"^\[\S*\] ", "", message).split(". ")[0].splitlines()[0].rstrip(".")
    return LOST.replace("died", f"died ({reason})")
