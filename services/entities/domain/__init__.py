"""The rules of entities: pure functions over values; no I/O.

entities     the tree of companies: states, limits, defaults      departments  the tree inside a company
rates        which exchange rate holds on a day
allocations  which cost may be borne, at which rate               usage        which cost a record of usage stands for
"""
