r"""Which modules of a model are hooked: after their activation by default, or by a pattern.

By default, in the order of `named_modules()`:

- of networks of residual blocks (classes `BasicBlock` and `Bottleneck`: torchvision, timm,
  open_clip's `ModifiedResNet`, DINO's ResNets) the blocks themselves, whose output is what the
  ReLU after the addition gives, as in the published scripts, and the activations outside of
  blocks, which are the stem's. Not a block's own `relu`: torchvision calls one several times.
- of StyleGAN's synthesis networks the `SynthesisLayer`s, which end with their activation.
- of all others every activation (ReLU, GELU, SiLU, QuickGELU and the like, not the sigmoids,
  softmaxes and hyperbolic tangents that gate and normalize) with places: `mlp.act` of timm's
  transformers, `mlp.gelu` of open_clip's.

A pattern is one or several shell-style globs over whole dotted names, divided by commas; `*` also
matches dots, and `!` before a glob takes its modules out again: `layer3.*.relu`,
`blocks.*.mlp.act,!blocks.0.*`. After `re:` it is one regular expression over whole names:
`re:layer[34]\.\d+`.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from typing import TYPE_CHECKING, Final

from ...schema.zoo_errors import BadMember, NoSuchModule

if TYPE_CHECKING:
    from torch import nn

RESIDUAL_BLOCKS: Final = ("BasicBlock", "Bottleneck")
SYNTHESIS_LAYERS: Final = ("SynthesisLayer",)

_ACTIVATION = re.compile(
    r"(relu6?|leakyrelu|prelu|rrelu|elu|selu|celu|gelu|gelutanh|quickgelu|newgelu|fastgelu"
    r"|clippedgelu|pytorchgelutanh|silu|swish|swishme|mish|mishme|hardswish|hardswishme|hardmish"
    r"|hardmishme|softplus)(activation)?"
)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function whose outputs are units' values."""
    return _ACTIVATION.fullmatch(type(module).__name__.lower()) is not None


def default_modules(network: nn.Module) -> list[str]:
    """Dotted names of the modules hooked where no pattern says otherwise; may be none.

    Some may turn out to have no places (a head's activation): these are left out after a probe.
    """
    named = [(name, module) for name, module in network.named_modules() if name]
    layers = [name for name, module in named if type(module).__name__ in SYNTHESIS_LAYERS]
    if layers:
        return layers
    blocks = {name for name, module in named if type(module).__name__ in RESIDUAL_BLOCKS}
    return [
        name
        for name, module in named
        if name in blocks or (is_activation(module) and not _inside(name, blocks))
    ]


def _inside(name: str, blocks: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in blocks for count in range(1, len(parts)))


def matching_modules(names: list[str], pattern: str) -> list[str]:
    """Those of dotted `names` that a pattern chooses, in their order.

    Raises BadMember for a regular expression that cannot be read, NoSuchModule where nothing
    matches.
    """
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            msg = f"the pattern {pattern!r} is no regular expression ({error})"
            raise BadMember(msg) from error
        chosen = [name for name in names if expression.fullmatch(name)]
    else:
        globs = [part.strip() for part in pattern.split(",") if part.strip()]
        taken = [part for part in globs if not part.startswith("!")]
        out = [part[1:] for part in globs if part.startswith("!")]
        chosen = [
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, part) for part in taken)
            and not any(fnmatch.fnmatchcase(name, part) for part in out)
        ]
    if chosen:
        return chosen
    msg = (
        f"the pattern {pattern!r} matches none of the model's {len(names)} modules; "
        f"near names: {near_names(pattern, names)}. A pattern is globs over whole dotted names, "
        "divided by commas (layer3.*), or re: and a regular expression"
    )
    raise NoSuchModule(msg)


def near_names(word: str, names: list[str], *, count: int = 5) -> str:
    """The `count` names that are most like a word, or the first, as one line."""
    plain = word.removeprefix("re:").partition(",")[0]
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(plain.lower(), folded, n=count, cutoff=0.4)
    return ", ".join([folded[one] for one in near] or names[:count]) or "there are none"
