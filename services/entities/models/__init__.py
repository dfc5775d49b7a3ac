"""The tables of the schema `entities`."""
