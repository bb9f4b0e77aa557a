"""Supervision: actors that die or hang are noticed, and replaced one by one.

``supervisor`` watches all actors of a run and starts replacements, within a budget. ``members`` are the actors of one role, of which some
may be down; ``replicas`` gives calls to those that are up, and repeats the calls that a lost one has not answered. ``copies`` says which
actors hold the weights of the last sync.
"""
