"""Targets as tables: boards, cards, JetPack releases, and what each of them can do.

What enters is a fact with its source, or a rule that follows from such facts. Nothing is measured.
"""
