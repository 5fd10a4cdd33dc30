"""A model zoo mined for units that its members share (thesis chapter 4)."""
