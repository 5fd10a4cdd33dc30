"""Companions of the embedded world's CLIP: other models that learned from the same scenes."""
