"""Layouts of billing documents: each module renders the record of a document (domain/documents.py) in one format.

They run in worker processes (rendering/), so they import nothing of the service, whose imports take a second.
"""
