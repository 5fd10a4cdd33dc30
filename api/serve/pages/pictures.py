"""Pictures of a run: thumbnails and originals, and what is painted over them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Response

from ....schema.errors import BadQuestion, ImageFileMissing
from ...image import Debias
from ...segmentation_methods import Method
from ..asked import AskedRun
from ..asking import ImageId, MaybeText, Text
from ..kept import inside
from ..page import Pages

if TYPE_CHECKING:
    from PIL.Image import Image

pages = Pages("pictures")

MOST_PIXELS = 1600
_WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}

HeadAsked = Annotated[
    str, Query(max_length=40, description="A head's address; empty for all heads together.")
]
NeuronAsked = Annotated[str, Query(max_length=40, description="A neuron's address.")]
Debiased = Annotated[
    str,
    Query(
        max_length=200,
        description="A pool whose mean map is taken away; `true` is the run's, `false` is none.",
    ),
]


@pages.json.get(
    "/runs/{run}/images/{image_id}/thumbnail.webp", responses=_WEBP, response_class=Response
)
def thumbnail(run: AskedRun, image_id: ImageId) -> Response:
    """The crop that the model saw, 224 pixels at most."""
    opened = inside(run)
    row, _ = opened.images.one(image_id)
    (webp,) = opened.pictures.thumbnails([row])
    if webp is None:
        msg = (
            f"run {run.name!r} keeps no thumbnail of image {image_id}; "
            "ingest without --no-thumbnails to keep them."
        )
        raise ImageFileMissing(msg)
    return Response(webp, media_type="image/webp")


@pages.json.get(
    "/runs/{run}/images/{image_id}/picture.webp", responses=_WEBP, response_class=Response
)
def picture(run: AskedRun, image_id: ImageId) -> Response:
    """The original where its file still is, made small enough to look at; else the thumbnail."""
    image = run.image(image_id).picture()
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return Response(_encoded(image, "WEBP", quality=90), media_type="image/webp")


@pages.json.get(
    "/runs/{run}/images/{image_id}/heatmap.png", responses=_PNG, response_class=Response
)
def heatmap_png(
    run: AskedRun,
    image_id: ImageId,
    text: Text,
    *,
    head: HeadAsked = "",
    relative_to: MaybeText = "",
    debias: Debiased = "true",
) -> Response:
    """Where a text is written, over the crop: by all heads together, or by one."""
    found = run.image(image_id).heatmap(
        text, head=head or None, relative_to=relative_to or None, debias=debias_of(debias)
    )
    return Response(found.png(), media_type="image/png")


@pages.json.get(
    "/runs/{run}/images/{image_id}/activation.png", responses=_PNG, response_class=Response
)
def activation_png(run: AskedRun, image_id: ImageId, neuron: NeuronAsked) -> Response:
    """Where a neuron is active, over the crop."""
    found = run.neuron(neuron).activation_map(image_id)
    return Response(found.png(), media_type="image/png")


@pages.json.get(
    "/runs/{run}/images/{image_id}/segment.png", responses=_PNG, response_class=Response
)
def segment_png(
    run: AskedRun, image_id: ImageId, text: Text, *, method: Method = "tokens"
) -> Response:
    """Where a text is, as a mask painted over the crop."""
    found = run.image(image_id).segment(text, method=method)
    return Response(_encoded(found.picture(), "PNG"), media_type="image/png")


def debias_of(said: str) -> Debias:
    """What `debias` means in an address: `true`, `false` or a pool's name."""
    if said in ("true", "false"):
        return said == "true"
    if not said:
        msg = "debias= is empty: give `true`, `false` or a pool's name."
        raise BadQuestion(msg)
    return said


def _encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
