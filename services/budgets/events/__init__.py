"""Events: what this service publishes, and its handlers of the events of others.

`consumers` depends on the use cases, which use `published`. So it is imported by main.py only.
"""

from services.budgets.events import published

__all__ = ["published"]
