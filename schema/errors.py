"""Errors of lensbase: each names what was wrong, what would be right and how to get there."""

from __future__ import annotations


class LensbaseError(Exception):
    """Base of every error that lensbase raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print its argument's repr; these messages are for people.
        return str(self.args[0]) if self.args else ""


# Addresses and names


class BadAddress(LensbaseError, ValueError):
    """A component address that cannot be parsed."""


class BadName(LensbaseError, ValueError):
    """A run, pool or data set name outside `[a-z0-9][a-z0-9._-]*`."""


class UnknownComponent(LensbaseError, KeyError):
    """A well-formed address of a component that the model does not have."""


class UnknownRun(LensbaseError, KeyError):
    """A run that the store does not hold."""


class AmbiguousRun(LensbaseError, LookupError):
    """A short address in a store with several runs."""


class UnknownRole(LensbaseError, KeyError):
    """A role that no component of the run has been annotated with."""


class UnknownImage(LensbaseError, KeyError):
    """An image id, key or path that the run does not hold."""


class UnknownPool(LensbaseError, KeyError):
    """A text pool that the store does not hold or the run's model has not embedded."""


# Classification and ablation


class BadAblation(LensbaseError, ValueError):
    """A component whose direct effect cannot be taken out by itself: a neuron or a patch."""


class BadClasses(LensbaseError, ValueError):
    """Classes that make no classifier: none, the same one twice, or names that are no texts."""


class BadTemplate(LensbaseError, ValueError):
    """A template that makes no text of a class's name."""


class ClassifierMismatch(LensbaseError, ValueError):
    """A classifier of another model than the run's."""


class UnknownLabel(LensbaseError, KeyError):
    """Images with a label that is none of the classifier's classes."""


# What a run kept


class HeadNotStored(LensbaseError, LookupError):
    """A head of a layer that the run did not keep."""


class TokensNotStored(LensbaseError, LookupError):
    """A question about image tokens to a run ingested without them."""


class HeadTokensNotStored(LensbaseError, LookupError):
    """A question about one head's tokens to a run that did not keep them."""


class NeuronsNotStored(LensbaseError, LookupError):
    """A question about neurons to a run that did not keep them."""


class NeuronInputNotStored(LensbaseError, LookupError):
    """The run kept nothing to make activation maps of."""


class NoSecondOrderEffect(LensbaseError, ValueError):
    """Neurons of a layer with no attention after it."""


class TextNotStored(LensbaseError, LookupError):
    """A text without a stored embedding where the model cannot be loaded, or cannot read it."""


class ImageFileMissing(LensbaseError, FileNotFoundError):
    """An original image that is not where the store says, and no thumbnail kept."""


class RejectedRow(LensbaseError, LookupError):
    """A question about an image that could not be read at ingest."""


# Masks


class MaskMissing(LensbaseError, LookupError):
    """An image to be evaluated for which no mask is given."""


class BadMask(LensbaseError, ValueError):
    """A mask that cannot be read, or whose size is neither the image's nor the crop's."""


# The store's files


class StoreNotFound(LensbaseError, FileNotFoundError):
    """A path that holds no lensbase store."""


class NotAStore(LensbaseError, ValueError):
    """A directory that exists and is something else."""


class FormatTooNew(LensbaseError, RuntimeError):
    """A store written in a format this version does not read."""


class FormatTooOld(LensbaseError, RuntimeError):
    """The store's catalogue was published by an older version and must be upgraded first."""


class RunBusy(LensbaseError, RuntimeError):
    """Another process is writing the run or publishing the store."""


class RunMismatch(LensbaseError, ValueError):
    """Resuming a run with settings, weights or images other than those it began with."""


class RunIncomplete(LensbaseError, RuntimeError):
    """An operation that needs every segment committed."""


class StoreCorrupt(LensbaseError, RuntimeError):
    """Files of the store that are missing or differ from their manifests."""


class AnnotationNotKept(LensbaseError, OSError):
    """An annotation that could not be written: it must not be lost silently, as a cache may be."""


class GenerationNotFound(LensbaseError, LookupError):
    """A generation to roll back to that is no longer kept."""


# SQL


class BadSQL(LensbaseError, ValueError):
    """A statement that the store's read-only connection refuses."""


class BadSelection(LensbaseError, ValueError):
    """An `images=` or `where=` that does not select images."""


class BadQuestion(LensbaseError, ValueError):
    """Arguments of a query that are out of range or contradict each other."""


class UnknownColumn(LensbaseError, KeyError):
    """A column that a result does not have."""


# Images and where they come from


class SourceNotFound(LensbaseError, FileNotFoundError):
    """A folder, manifest or shard of images that is not there."""


class SourceUnreadable(LensbaseError, OSError):
    """A folder, manifest or shard of images that is there and cannot be listed."""


class UnknownSource(LensbaseError, ValueError):
    """Something given as images that is none of the kinds lensbase reads."""


class AmbiguousSource(LensbaseError, ValueError):
    """Images that could be read in several ways, of which one has to be named."""


class ExtraMissing(LensbaseError, ImportError):
    """A question or a source whose library, of an optional extra, is not installed."""


class ManifestColumnMissing(LensbaseError, KeyError):
    """A manifest without a column that says where its images are."""


class BadManifest(LensbaseError, ValueError):
    """A manifest whose rows cannot be read as one image each."""


class DuplicateKeys(LensbaseError, ValueError):
    """Images of one source that share a key."""


class BadWhere(LensbaseError, ValueError):
    """A `where` that is not a boolean SQL expression over a source's columns."""


class NoImages(LensbaseError, ValueError):
    """A source, or a selection of it, without a single image."""


class RejectedImage(LensbaseError, ValueError):
    """Bytes that are no image a model can see; `reason` is one short line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PreprocessFailed(LensbaseError, RuntimeError):
    """A model's preprocessing that fails on a good image."""


class ImagesChanged(LensbaseError, RuntimeError):
    """An image that one pass over a run's images could read, and another not, or not the same."""


class WorkerDied(LensbaseError, RuntimeError):
    """A decoding process that ended before its work was done."""


# Models


class UnknownModel(LensbaseError, ValueError):
    """A model name or pretrained tag that open_clip does not know, or not together."""


class UnsupportedModel(LensbaseError, ValueError):
    """A model whose output is not a sum over heads and tokens, or a setting it cannot run in."""


class ActivationMismatch(LensbaseError, ValueError):
    """Weights under a model name with another activation than they were trained with."""


class WeightsNotFound(LensbaseError, FileNotFoundError):
    """Weights (or a text tower's files) that are not on disk and cannot be downloaded."""


class UnsafeCheckpoint(LensbaseError, ValueError):
    """A checkpoint that could only be read by running code from it."""


class CheckpointMismatch(LensbaseError, ValueError):
    """A checkpoint that is damaged or does not fit the model it was loaded into."""


class PreprocessMissing(LensbaseError, TypeError):
    """A module passed without the preprocessing or the tokenizer it needs."""


# Text pools, parts and devices


class BadPool(LensbaseError, ValueError):
    """A text pool that cannot be read, is empty, or contradicts one of the same name."""


class BadPart(LensbaseError, ValueError):
    """A part of a run that does not exist, such as 0/16."""


class DeviceNotFound(LensbaseError, ValueError):
    """A device that this machine does not have."""


class BadColumns(LensbaseError, ValueError):
    """A table of columns to add that does not fit the store's images."""


class BadSize(LensbaseError, ValueError):
    """A number of bytes that cannot be read, such as 4 apples."""


class MemoryTooSmall(LensbaseError, ValueError):
    """The smallest part of a job needs more memory than is allowed."""


# Adversarial images


class ChatNotConfigured(LensbaseError, LookupError):
    """A language model that is asked for and that no environment variable says how to reach."""


class ChatFailed(LensbaseError, OSError):
    """A chat endpoint that cannot be reached, refuses, takes too long or answers no chat."""


class BadDescriptions(LensbaseError, ValueError):
    """Image descriptions of which none can be used."""


class BadCaption(LensbaseError, ValueError):
    """A text that is no caption of the embedded world."""


class PainterFailed(LensbaseError, RuntimeError):
    """A text-to-image model that fails, or gives no image."""


class BadMeans(LensbaseError, ValueError):
    """Mean activations that do not fit the layer whose activations they are to replace."""


# Export


class FolderTaken(LensbaseError, FileExistsError):
    """A folder to write into that holds something else already."""


class ExportFailed(LensbaseError, RuntimeError):
    """A page of a store that cannot be written as a file."""


# Serving


class TokenNeeded(LensbaseError, ValueError):
    """A server that others can reach and that is given no token, or one easily guessed."""


class PortTaken(LensbaseError, OSError):
    """A port that the server cannot listen on."""


class ServerBusy(LensbaseError, RuntimeError):
    """More SQL queries at once than the server runs; the same question works later."""
