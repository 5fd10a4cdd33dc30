"""The demonstration's tour: a few questions to its store, each with the line that asks it."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...schema.errors import LensbaseError
from ..store import Store
from .guide import Guide

_HEADS = 3
_TEXTS = 5


@dataclass(frozen=True)
class TopicHead:
    """A head most of whose first texts speak of one attribute of the scenes."""

    address: str
    topic: str
    text: str


def take_tour(guide: Guide, store: Path, *, picture: Path) -> None:
    """Ask a demonstration store what it knows, and write one heatmap to a picture."""
    place = shlex.quote(str(store))
    guide.say("What was ingested:")
    guide.python(
        f"from lensbase.api import open_store\nstore = open_store({str(store)!r})\n"
        "clip = store.run()\nclip"
    )
    opened: Store = guide.names["store"]
    heads = topic_heads(opened)
    guide.say(
        "The heads whose contributions vary most from scene to scene, with the first of the "
        "texts that explain each:"
    )
    guide.shell(
        f'lensbase sql {place} "SELECT component, mean_norm, variance, texts[1] AS first_text\n'
        'FROM heads ORDER BY variance DESC LIMIT 5"'
    )
    listed = ", ".join(f"{head.address} ({head.topic})" for head in heads)
    guide.say(
        f"{len(heads)} that vary much and tell different things apart: {listed}. TEXTSPAN says "
        "which texts span what a head writes, and how much of its variance they explain:"
    )
    for head in heads:
        guide.shell(f"lensbase head texts {place} {head.address} -m {_TEXTS}")
    first = heads[0]
    guide.say(
        f"The scenes in which {first.address} writes most along its first text about {first.topic}:"
    )
    guide.python(f"top = clip.head({first.address!r}).top_images({first.text!r}, k=100)\ntop[:5]")
    guide.say(
        f"The demonstration knows the truth about its scenes. The {first.topic} of those 100 "
        "(of a scene's first object, where there are several):"
    )
    guide.python(
        f'store.sql("""SELECT {first.topic}, count(*) AS scenes FROM images\n'
        'WHERE list_contains(?, image_id) GROUP BY ALL ORDER BY scenes DESC LIMIT 5""",\n'
        '[top["image_id"].tolist()])'
    )
    guide.say(f"How much {first.address} writes into a scene, by {first.topic}, from SQL alone:")
    guide.shell(
        f'lensbase sql {place} "SELECT {first.topic}, count(*) AS scenes,\n'
        "  avg(norm) AS mean_norm, avg(share) AS mean_share\n"
        "FROM head_effects JOIN images USING (run, image_id)\n"
        f"WHERE component = '{first.address}' GROUP BY ALL ORDER BY mean_share DESC LIMIT 5\""
    )
    image, text = _scene_and_text(opened)
    guide.say(f"Where in scene {image} the tokens write {text!r}:")
    guide.shell(
        f"lensbase image heatmap {place} {image} {shlex.quote(text)}"
        f" -o {shlex.quote(str(picture))}".replace("'", '"')
    )
    guide.say(
        "All of this came from the store: no model was loaded to answer. Next: your own images, "
        "`lensbase ingest --help`; every view and column, "
        f"`lensbase info {place} --catalog`; every command, docs/cli.md."
    )


def topic_heads(store: Store, *, heads: int = _HEADS) -> list[TopicHead]:
    """The heads that vary most among those whose texts mostly speak of one attribute.

    Each of another attribute; fewer where fewer attributes have a head. Raises `LensbaseError`
    where there is none.
    """
    from ...ingest.world.pool import text_attribute

    found: dict[str, TopicHead] = {}
    for row in store.sql("SELECT component, texts FROM heads ORDER BY variance DESC"):
        topics = [(text, text_attribute(text)) for text in row["texts"] or ()]
        counted = Counter(topic for _, topic in topics if topic is not None)
        if not counted:
            continue
        topic, texts = counted.most_common(1)[0]
        if 2 * texts > len(topics) and topic not in found:
            text = next(text for text, about in topics if about == topic)
            found[topic] = TopicHead(row["component"], topic, text)
        if len(found) == heads:
            break
    if not found:
        msg = f"no head of {store.path} has texts that speak mostly of one attribute."
        raise LensbaseError(msg)
    return list(found.values())


def _scene_and_text(store: Store) -> tuple[int, str]:
    """A scene with a few objects, the first of them large, and the words for that one."""
    from ...ingest.world.captions import with_article

    (scene,) = store.sql(
        """SELECT image_id, color, shape FROM images WHERE status = 'ok'
           ORDER BY "count" BETWEEN 2 AND 4 DESC, size = 'large' DESC, image_id LIMIT 1"""
    )
    return scene["image_id"], with_article(f"{scene['color']} {scene['shape']}")
