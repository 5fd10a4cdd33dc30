"""What can be wrong with a zoo of models, with mining one, and with its generator's pictures."""

from __future__ import annotations

from .errors import LensbaseError

# Inversion and editing


class BadPairs(LensbaseError, ValueError):
    """Matched units that no inversion can be guided by: none, unknown ones, or dead ones."""


class BadTarget(LensbaseError, ValueError):
    """An image, or maps, that an inversion cannot take as its target."""


class BadLatent(LensbaseError, ValueError):
    """A latent, or a start, that is none of the generator's."""


class BadOptimization(LensbaseError, ValueError):
    """Steps, rates or weights that no optimization can run with."""


class UnknownEdit(LensbaseError, KeyError):
    """An edit of maps that lensbase does not know."""


class BadEdit(LensbaseError, ValueError):
    """An amount that an edit of maps does not take."""


# Members of a model zoo


class BadMember(LensbaseError, ValueError):
    """A zoo member's specification that cannot be read, or a name that two members share."""


class NoSuchModule(LensbaseError, LookupError):
    """A pattern over a model's modules that matches none, or a module that is not hooked."""


class NoSpatialMaps(LensbaseError, ValueError):
    """A hooked module whose output has no places: pooled, a class's score, or never computed."""


class BadPictures(LensbaseError, ValueError):
    """Pictures that a zoo's members cannot see alike: not square, not RGB, or without latents."""


class BadGenerator(LensbaseError, ValueError):
    """A generator whose images are not square RGB in the range that it states."""


class ForwardFailed(LensbaseError, RuntimeError):
    """A model that fails on two pictures of its input size."""


# Rosetta zoos


class UnknownZoo(LensbaseError, KeyError):
    """A zoo that the store does not hold."""


class AmbiguousZoo(LensbaseError, LookupError):
    """A question about a zoo to a store with several, none of them named."""


class UnknownMember(LensbaseError, KeyError):
    """A model that the zoo does not have."""


class UnknownUnit(LensbaseError, KeyError):
    """A unit's address that names no channel of any hooked module of the zoo."""


class NoMatches(LensbaseError, LookupError):
    """A picture of matched units where no units match."""


class MapsNotStored(LensbaseError, LookupError):
    """Example pictures, or maps of a unit, that the zoo does not keep."""


class ZooMismatch(LensbaseError, ValueError):
    """Adding to a zoo what was mined on other pictures, or with other weights or settings."""


class ZooIncomplete(LensbaseError, RuntimeError):
    """A zoo to be published of which pairs or statistics are not kept yet."""


# Mining


class BadZooPairs(LensbaseError, ValueError):
    """Pairs of a zoo's members that cannot be mined: a member that is not there, or one twice."""


class MapsNotFinite(LensbaseError, ValueError):
    """A unit whose map holds NaN or infinity, or values too large to square."""


class MapsMismatch(LensbaseError, ValueError):
    """Maps that are not of the channels and the grid that their module was declared with."""


class MiningMismatch(LensbaseError, ValueError):
    """A kept state of another mining run: other models, pairs, images or settings."""


class NoGenerator(LensbaseError, LookupError):
    """A zoo without a generator that is asked to make pictures."""
