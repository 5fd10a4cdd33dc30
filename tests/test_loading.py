"""Batches: the model's own preprocessing, in order, whatever the workers and the images do."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from broken_images import encoded, photograph, write_broken_images
from open_clip.transform import image_transform
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from lensbase.ingest.images import decode
from lensbase.ingest.loading import batches
from lensbase.ingest.preprocessing import Preprocessing, thumbnail
from lensbase.ingest.sources import Source, open_source
from lensbase.schema.errors import PreprocessFailed, WorkerDied

OPEN_CLIP: Any = image_transform(64, is_train=False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Thirty good images of several kinds with the forty broken ones among them."""
    folder = tmp_path_factory.mktemp("mixed")
    write_broken_images(folder)
    for i in range(30):
        image = photograph(60 + 3 * i, 100 - 2 * i).convert(["RGB", "L", "RGBA", "CMYK"][i % 4])
        kind = "TIFF" if image.mode == "CMYK" else ["PNG", "WEBP"][i % 2]
        name = f"{'behp'[i % 4]}-good-{i:02}"
        (folder / f"{name}.{kind.lower()}").write_bytes(encoded(image, kind))
    source = open_source(folder)
    assert source.table().num_rows == 70
    return source


def ranges(stop: int, step: int) -> list[range]:
    return [range(start, min(start + step, stop)) for start in range(0, stop, step)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_what_preprocess_gives_in_order(mixed: Source, workers: int) -> None:
    asked = ranges(70, 8)
    got = list(batches(mixed, asked, preprocess=OPEN_CLIP, workers=workers))
    assert [batch.rows.tolist() for batch in got] == [list(rows) for rows in asked]
    keys = mixed.table().column("key").to_pylist()
    for batch in got:
        assert batch.rows.dtype == np.int64
        assert batch.images.dtype == torch.float32
        assert len(batch.records) == len(batch.thumbnails) == len(batch.ok) == len(batch.rows)
        assert batch.ok.tolist() == ["good" in keys[row] for row in batch.rows]
        assert [record.reason is None for record in batch.records] == batch.ok.tolist()
        assert [webp is not None for webp in batch.thumbnails] == batch.ok.tolist()
        wanted = [OPEN_CLIP(decode(mixed.read(row))) for row in batch.rows[batch.ok]]
        assert torch.equal(batch.images, torch.stack(wanted) if wanted else empty(64))
    assert sum(batch.ok.sum() for batch in got) == 30


def empty(side: int) -> torch.Tensor:
    return torch.empty((0, 3, side, side))


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 2), (1, 2), (2, 3)])
def test_rows_are_asked_for_no_earlier_than_needed(
    mixed: Source, workers: int, prefetch: int
) -> None:
    asked = 0

    def endless() -> Iterator[range]:
        nonlocal asked
        while True:
            start = 2 * asked % 70
            asked += 1
            yield range(start, start + 2)

    stream = batches(mixed, endless(), preprocess=OPEN_CLIP, workers=workers, prefetch=prefetch)
    for number in range(5):
        assert next(stream).rows.tolist() == [2 * number, 2 * number + 1]
        # So many batches at most are in memory, whatever the number of images.
        assert asked <= number + 1 + workers * prefetch
    stream.close()


def test_rows_may_be_any_part_in_any_order(mixed: Source) -> None:
    picked = list(batches(mixed, [range(60, 70), range(3, 4)], preprocess=OPEN_CLIP, workers=1))
    assert [batch.rows[0] for batch in picked] == [60, 3]


def test_a_batch_of_broken_images_has_no_pixels_but_a_shape(tmp_path: Path) -> None:
    write_broken_images(tmp_path)
    (batch,) = batches(open_source(tmp_path), [range(40)], preprocess=OPEN_CLIP, workers=0)
    assert batch.images.shape == (0, 3, 64, 64)
    assert not batch.ok.any()
    assert all(record.reason and record.sha256 for record in batch.records)


def test_files_that_vanish_are_rejected(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(photograph(), "PNG"))
    source = open_source(tmp_path)
    (tmp_path / "a.png").unlink()
    (batch,) = batches(source, [range(2)], preprocess=OPEN_CLIP, workers=0)
    assert batch.ok.tolist() == [False, True]
    assert batch.records[0].reason == "unreadable: No such file or directory"
    assert (batch.records[0].sha256, batch.records[0].bytes) == (None, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_random_state_and_threads_are_left_alone(mixed: Source, workers: int) -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    handler = signal.getsignal(signal.SIGCHLD)
    list(batches(mixed, ranges(4, 2), preprocess=OPEN_CLIP, workers=workers))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGCHLD) == handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# Preprocessing and thumbnails


def open_clip_variant(**options: Any) -> Any:
    return image_transform(80, is_train=False, **options)


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "open_clip": open_clip_variant(),
    "squash": open_clip_variant(resize_mode="squash", interpolation="bilinear"),
    "longest": open_clip_variant(resize_mode="longest", fill_color=128),
    "torchvision": transforms.Compose(
        [transforms.Resize(90), transforms.CenterCrop(80), transforms.ToTensor()]
    ),
    "v2": v2.Compose(
        [
            v2.Resize((80, 80)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
        ]
    ),
    "tensor ops": transforms.Compose(
        [
            transforms.Resize((80, 80)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
            transforms.Grayscale(3),
        ]
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_taken_apart_preprocessing_gives_the_very_same_floats(name: str) -> None:
    preprocess = VARIANTS[name]
    taken = Preprocessing(preprocess)
    for size in [(160, 90), (80, 80), (37, 61)]:
        image = photograph(*size)
        tensor, crop = taken(image)
        assert torch.equal(tensor, preprocess(image))
        assert crop is not None
        assert crop.size == (80, 80)
        assert crop.mode == "RGB"


def test_every_byte_in_every_channel_is_normalized_exactly() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=-1))
    preprocess: Any = image_transform(16, is_train=False)
    assert torch.equal(Preprocessing(preprocess)(image)[0], preprocess(image))


class Presets:
    """A callable like torchvision's presets: no steps to take apart, but a mean and a std."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image.resize((80, 80)))).permute(2, 0, 1) / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[
            :, None, None
        ]


def test_the_crop_is_recovered_from_the_tensor_where_it_can_be() -> None:
    image = photograph(160, 90)
    tensor, crop = Preprocessing(Presets())(image)
    assert torch.equal(tensor, Presets()(image))
    assert crop is not None
    assert np.array_equal(np.asarray(crop), np.asarray(image.resize((80, 80))))
    assert Preprocessing(Presets().__call__)(image)[1] is None


@pytest.mark.parametrize(("side", "wanted"), [(64, 64), (224, 224), (336, 224)])
def test_thumbnails_show_the_crop(side: int, wanted: int) -> None:
    preprocess: Any = image_transform(side, is_train=False)
    image = photograph(400, 350).resize((400, 350))
    _, crop = Preprocessing(preprocess)(image)
    assert crop is not None
    data = thumbnail(crop)
    assert data == thumbnail(crop)
    shown = Image.open(io.BytesIO(data))
    assert (shown.format, shown.size) == ("WEBP", (wanted, wanted))
    small = np.asarray(crop.resize((14, 14), Image.Resampling.BOX)).astype(int)
    seen = np.asarray(shown.convert("RGB").resize((14, 14), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - seen).mean() < 4


def test_thumbnails_can_be_left_out(mixed: Source) -> None:
    stream = batches(mixed, [range(70)], preprocess=OPEN_CLIP, workers=0, thumbnails=False)
    assert next(stream).thumbnails == [None] * 70


# What goes wrong


def too_small(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3, *image.size)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("preprocess", "match"),
    [
        (lambda image: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda image: image, "TypeError: it gave <PIL.Image"),
        (lambda image: torch.zeros(1, 8, 8), r"it gave a tensor \[1, 8, 8\]"),
        (lambda image: torch.zeros(3, 8, 8).int(), "it gave a tensor of torch.int32"),
        (too_small, r"it gave \[3, .*\] after \[3, "),
    ],
)
def test_a_failing_preprocess_is_one_clear_error(
    mixed: Source, preprocess: Callable[[Any], Any], match: str, workers: int
) -> None:
    with pytest.raises(PreprocessFailed, match=match) as caught:
        list(batches(mixed, [range(70)], preprocess=preprocess, workers=workers))
    assert "Traceback" not in str(caught.value)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [
        process
        for process in alive
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_stopping_early_ends_the_workers(mixed: Source) -> None:
    before = set(children())
    stream = batches(mixed, ranges(70, 2), preprocess=OPEN_CLIP, workers=2)
    next(stream)
    started = [process for process in children() if process not in before]
    assert len(started) == 2
    stream.close()
    assert gone(started, 5)


class Slow:
    """Preprocessing that takes long enough to be interrupted."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def __call__(self, image: Image.Image) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.zeros(3, 8, 8)


@pytest.mark.parametrize("moment", ["at work", "while it waits"])
def test_a_killed_worker_is_one_clear_error(mixed: Source, moment: str) -> None:
    before = set(children())
    preprocess: Any = Slow() if moment == "at work" else image_transform(224, is_train=False)
    stream = batches(mixed, [range(70)] * 100, preprocess=preprocess, workers=2, prefetch=4)
    if moment == "at work":
        next(stream)
    else:
        # Thumbnails of 70 images are longer than a pipe: none may be left half-sent in it.
        next(stream)
        time.sleep(3)
    started = [process for process in children() if process not in before]
    for process in started:
        process.kill()
    with pytest.raises(WorkerDied, match=r"ended before its work .* with fewer --workers"):
        list(stream)
    assert gone(started, 10)


def work_on(source: Source, log: Path, ready: Connection, *, slow: Slow) -> None:
    """What a process of its own does until it is stopped; all it prints goes to `log`."""
    os.setsid()
    # Shells start what runs in their background deaf to interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    rows = [range(64, 70), *[range(70)] * 1000]
    stream = batches(source, rows, preprocess=slow, workers=2)
    try:
        for _ in stream:
            ready.send("running")
    except KeyboardInterrupt:
        sys.stdout.write("interrupted\n")


@contextlib.contextmanager
def running(
    source: Source, log: Path, *, slow: Slow
) -> Generator[tuple[Any, list[psutil.Process]]]:
    """A process that leads its own group, as a shell starts it, in the middle of its work."""
    fork = multiprocessing.get_context("fork")
    waiting, ready = fork.Pipe(duplex=False)
    process = fork.Process(target=work_on, args=(source, log, ready), kwargs={"slow": slow})
    # What other tests left of databases must not be collected where their threads are not.
    gc.freeze()
    process.start()
    gc.unfreeze()
    try:
        assert waiting.poll(60)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        yield process, workers
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def test_an_interrupt_is_the_parents_alone(mixed: Source, tmp_path: Path) -> None:
    with running(mixed, tmp_path / "log", slow=Slow()) as (process, workers):
        for worker in workers:
            # A worker that could be interrupted would be so while it starts, too.
            status = Path(f"/proc/{worker.pid}/status").read_text()
            blocked = int(status.split("SigBlk:")[1].split()[0], 16)
            assert blocked >> (signal.SIGINT - 1) & 1
        os.killpg(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == 0
        assert (tmp_path / "log").read_text() == "interrupted\n"
        assert gone(workers, 5)


def test_workers_do_not_outlive_a_killed_parent(mixed: Source, tmp_path: Path) -> None:
    # Thirty images in nine seconds: workers must not finish their batches first.
    with running(mixed, tmp_path / "log", slow=Slow(0.3)) as (process, workers):
        os.kill(process.pid, signal.SIGKILL)
        start = time.monotonic()
        assert gone(workers, 10)
        assert time.monotonic() - start < 5
        assert (tmp_path / "log").read_text() == ""


# Photographs


def test_photographs_with_labels(imagenet_samples: Path) -> None:
    source = open_source(imagenet_samples / "manifest.csv", where="original = 1")
    count = source.table().num_rows
    assert count == 78
    got = list(batches(source, ranges(count, 32), preprocess=OPEN_CLIP, workers=2))
    assert all(batch.ok.all() for batch in got)
    row = 40
    image = got[1].images[row - 32]
    assert torch.equal(image, OPEN_CLIP(decode(source.read(row))))


@pytest.mark.slow
def test_cifar10_has_no_rejected_image(cifar10: Path) -> None:
    source = open_source(cifar10)
    total = 0
    for batch in batches(source, ranges(10_000, 500), preprocess=OPEN_CLIP, workers=2):
        assert batch.ok.all()
        total += len(batch.images)
    assert total == 10_000
