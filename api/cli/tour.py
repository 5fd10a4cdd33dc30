"""The demonstration's tour: a few questions to its store, each with the line that asks it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from ...schema.errors import LensbaseError
from ..store import Store
from .guide import Guide

_HEADS = 3
_TEXTS = 5
_TOP = 50
_FOUND = "a photo of a red shape"
_SEVERAL = "several"  # attributes in one text
_FIRST_TEXTS = """SELECT component, text, explained_variance, variance
    FROM head_texts JOIN heads USING (run, component) WHERE rank <= ? ORDER BY component, rank"""


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
        f'lensbase sql {place} "SELECT component, mean_norm, variance,\n'
        '  texts[1] AS first_text FROM heads ORDER BY variance DESC LIMIT 5"'
    )
    listed = ", ".join(f"{head.address} ({head.topic})" for head in heads)
    guide.say(
        f"Heads that speak mostly of one thing, each of another: {listed}. TEXTSPAN names the "
        "texts that span what a head writes, and how much of its variance they explain:"
    )
    for head in heads:
        guide.shell(f"lensbase head texts {place} {head.address} -m {_TEXTS}")
    head = heads[0]
    guide.say(
        f"The scenes in which {head.address} writes most along its first text about {head.topic}:"
    )
    guide.python(f"top = clip.head({head.address!r}).top_images({head.text!r}, k={_TOP})\ntop[:5]")
    guide.say(
        f"The demonstration knows the truth about its scenes: their {head.topic}, counted over "
        f"those {_TOP} and over all{_of_which(head.topic)}:"
    )
    guide.python(
        f'store.sql("""SELECT {head.topic}, count(*) AS of_all,\n'
        f"  count(*) FILTER (list_contains(?, image_id)) AS of_{_TOP}\n"
        f'FROM images GROUP BY ALL ORDER BY of_{_TOP} DESC, 1 LIMIT 5""",\n'
        '  [top["image_id"].tolist()])'
    )
    guide.say(f"How much {head.address} writes into a scene, by {head.topic}, from SQL alone:")
    guide.shell(
        f'lensbase sql {place} "SELECT {head.topic}, count(*) AS scenes,\n'
        "  avg(norm) AS mean_norm, avg(share) AS mean_share\n"
        "FROM head_effects JOIN images USING (run, image_id)\n"
        f"WHERE component = '{head.address}' GROUP BY ALL ORDER BY mean_share DESC LIMIT 5\""
    )
    image, text = _scene_and_text(opened)
    guide.say(f"Where in scene {image} the tokens write {text!r}:")
    guide.shell(f'lensbase image heatmap {place} {image} "{text}" -o {shlex.quote(str(picture))}')
    guide.say(f"What scene {image} shows, in the words of the neurons that are active in it:")
    guide.shell(f"lensbase image concepts {place} {image} -k 5 --center")
    guide.say(
        f"Neurons, seen through what later heads make of them: those that write {_FOUND!r}, and "
        "what the first of them writes besides, as a sum of texts:"
    )
    guide.python(f"list(clip.find_neurons({_FOUND!r}, k=3)['component'])")
    neuron = opened.run().find_neurons(_FOUND, k=1)["component"][0]
    guide.shell(f"lensbase neuron texts {place} {neuron} -m 5")
    guide.say(
        "What the model would answer without some of its parts: how many lone shapes it names "
        "right, and how many when the direct effects of all MLPs, or of the last three attention "
        "layers, are replaced by their means:"
    )
    guide.python(
        """shapes = clip.classifier(store.sql("SELECT DISTINCT label FROM images")["label"],
  templates=["a photo of a {}", "a picture of a {}"])
alone = '"count" = 1'
clip.accuracy(shapes, where=alone, ablate="mlp")
clip.accuracy(shapes, where=alone, ablate="attn[-3:]")"""
    )
    guide.say(
        "All of this came from the store: no model was loaded to answer. Next: look around in a "
        f"browser, `lensbase serve {place}`; your own images, `lensbase ingest --help`; every view "
        f"and column, `lensbase info {place} --catalog`; every command, docs/cli.md."
    )


def topic_heads(store: Store, *, heads: int = _HEADS) -> list[TopicHead]:
    """Heads whose texts speak of one attribute of the scenes, each of another.

    First those with the most variance along such texts. Raises `LensbaseError` where no head
    has half of what its texts explain along texts about one attribute.
    """
    from ...ingest.world.pool import text_attribute

    explained: dict[str, dict[str, float]] = {}
    first: dict[tuple[str, str], str] = {}
    variance: dict[str, float] = {}
    for row in store.sql(_FIRST_TEXTS, [_TEXTS]):
        head, topic = row["component"], text_attribute(row["text"]) or _SEVERAL
        variance[head] = row["variance"]
        shares = explained.setdefault(head, {})
        shares[topic] = shares.get(topic, 0.0) + row["explained_variance"]
        first.setdefault((head, topic), row["text"])
    told: list[tuple[float, TopicHead]] = []
    for head, shares in explained.items():
        topic, share = max(shares.items(), key=itemgetter(1))
        if topic != _SEVERAL and 2 * share >= sum(shares.values()):
            told.append((variance[head] * share, TopicHead(head, topic, first[head, topic])))
    found: dict[str, TopicHead] = {}
    for _, head in sorted(told, key=itemgetter(0), reverse=True):
        found.setdefault(head.topic, head)
    if not found:
        msg = f"no head of {store.path} has texts that speak mostly of one attribute."
        raise LensbaseError(msg)
    return list(found.values())[:heads]


def _of_which(topic: str) -> str:
    of_scenes = ("background", "count")
    return "" if topic in of_scenes else " (that of the first object, where there are several)"


def _scene_and_text(store: Store) -> tuple[int, str]:
    """A scene with a few different objects, the first one large, and the words for that one."""
    from ...ingest.world.captions import with_article

    (scene,) = store.sql(
        """SELECT image_id, color, shape FROM images WHERE status = 'ok'
           ORDER BY "count" BETWEEN 2 AND 4 AND caption LIKE '% and %' DESC, size = 'large' DESC,
                    image_id LIMIT 1"""
    )
    return scene["image_id"], with_article(f"{scene['color']} {scene['shape']}")
