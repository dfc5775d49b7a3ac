"""Renders documents in worker processes with limits on time and memory.

A layout is a module with a function `render(data: Any) -> bytes`, which runs in the worker. `Renderer` starts the
worker; the other modules are used by layouts. Nothing is imported here, since each worker imports this package first.
"""
