"""An mkdocs hook: equations become MathML when the pages are built; no script shows them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace what arithmatex has marked by MathML."""

    def written_as(display: str) -> Any:
        return lambda found: convert(html.unescape(found.group(1)).strip(), display=display)

    return _INLINE.sub(written_as("inline"), _DISPLAY.sub(written_as("block"), content))
