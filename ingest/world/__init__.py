"""The embedded world: captioned scenes with full ground truth, and small real models of them."""
