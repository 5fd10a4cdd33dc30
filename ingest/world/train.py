"""Command line of the training recipes: `python -m lensbase.ingest.world.train clip`.

Likewise for the CLIP's companions: `resnet`, `mae` and `generator`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.multiprocessing.spawn import spawn

from .companions.export import train_companion
from .companions.recipes import COMPANIONS
from .evaluate import evaluate
from .model import CONFIG, IMAGE_MEAN, IMAGE_STD, INTERPOLATION
from .recipe import Cycle, Recipe, Stage
from .tokenizer import WordTokenizer
from .training import Place, train

# glibc gives freed memory back and asks for it again at every step unless told to keep it.
_ALLOCATOR: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 10**9),
    "MALLOC_TOP_PAD_": str(100 * 10**6),
    "OMP_NUM_THREADS": "1",
}


def train_clip(
    directory: Path,
    *,
    recipe: Recipe | None = None,
    device: str = "auto",
    resume: bool = False,
    checkpoint_every: int = 200,
    held_out: int = 1000,
) -> None:
    """Train the embedded world's CLIP and write `clip.safetensors` and `clip.json` to a folder.

    On a GPU one process does all; on a CPU two processes of one thread each share every batch, and
    the same machine gives the same bytes. `resume` goes on from the folder's checkpoint; at the
    end the weights are measured on `held_out` scenes a question.
    """
    recipe = recipe or Recipe()
    job = _Job(recipe, directory, resume, checkpoint_every, held_out)
    directory.mkdir(parents=True, exist_ok=True)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        _run(job, Place(0, 1, torch.device(device), directory))
        return
    os.environ.update(_ALLOCATOR)
    with tempfile.TemporaryDirectory() as meeting:
        spawn(_worker, (job, f"file://{meeting}/group"), nprocs=recipe.shards)


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    directory: Path
    resume: bool
    checkpoint_every: int
    held_out: int


def _worker(rank: int, job: _Job, meeting: str) -> None:
    size = job.recipe.shards
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    _run(job, Place(rank, size, torch.device("cpu"), job.directory))
    dist.barrier()
    dist.destroy_process_group()


def _run(job: _Job, place: Place) -> None:
    model = train(job.recipe, place, resume=job.resume, checkpoint_every=job.checkpoint_every)
    if place.rank == 0:
        export(model.eval().cpu(), job.directory, job.recipe, held_out=job.held_out)


def export(model: open_clip.CLIP, directory: Path, recipe: Recipe, *, held_out: int) -> None:
    """Write a model's float16 weights, and what made them and how they score, to a folder."""
    weights = {name: w.detach().half().contiguous() for name, w in model.state_dict().items()}
    made_by = {
        "seed": str(recipe.seed),
        "steps": str(recipe.steps),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "numpy": np.__version__,
    }
    # One entry, because safetensors writes several in another order each time.
    save_file(weights, directory / "clip.safetensors", metadata={"made_by": json.dumps(made_by)})
    model.load_state_dict({name: w.float() for name, w in weights.items()})
    facts: dict[str, Any] = {
        "config": CONFIG,
        "preprocess": {"mean": IMAGE_MEAN, "std": IMAGE_STD, "interpolation": INTERPOLATION},
        "recipe": asdict(recipe),
        "made_by": {**made_by, "machine": platform.machine()},
        "held_out": evaluate(model, scenes=held_out).as_dict(),
        "vocabulary": WordTokenizer().vocabulary,
    }
    (directory / "clip.json").write_text(json.dumps(facts, indent=1) + "\n")


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with all its stages scaled to a total number of steps, for trying it out."""
    share = steps / recipe.steps
    last = 0
    cycles: list[Cycle] = []
    done = 0
    for cycle in recipe.cycles:
        stages: list[Stage] = []
        for stage in cycle.stages:
            done += stage.steps
            stages.append(replace(stage, steps=round(done * share) - last))
            last = round(done * share)
        cycles.append(replace(cycle, stages=tuple(stages)))
    return replace(recipe, cycles=tuple(cycles))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m lensbase.ingest.world.train")
    parser.add_argument("what", choices=["clip", *COMPANIONS])
    parser.add_argument("--out", type=Path, default=Path("world-weights"), help="output folder")
    parser.add_argument("--steps", type=int, help="scale the recipe to so many steps")
    parser.add_argument("--device", default="auto", help="of the clip: auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--resume", action="store_true", help="the clip: go on from the last checkpoint"
    )
    options = parser.parse_args()
    if options.what in COMPANIONS:
        train_companion(options.what, options.out, steps=options.steps)
        return
    recipe = Recipe() if options.steps is None else shortened(Recipe(), options.steps)
    train_clip(options.out, recipe=recipe, device=options.device, resume=options.resume)


if __name__ == "__main__":
    main()
