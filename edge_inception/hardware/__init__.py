"""Targets as tables: boards, cards, JetPack releases, and what each of them can do.

The code here states facts with their sources, and rules that follow from them. It measures nothing.
"""
