"""The rules of entities: pure functions over values; no I/O.

entities     the tree of companies: states, limits, defaults      departments  the tree inside a company
rates        which exchange rate holds on a day
"""
