"""Comparisons in virtual time: several recipes in the same worlds, over seeds, side by side."""
