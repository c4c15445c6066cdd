"""Scores in words, for the pages: `engine.analysis.scale`, which the report of a run reads too."""

from engine.analysis.scale import Scale, exact, verbs, without_it

__all__ = ["Scale", "exact", "verbs", "without_it"]
