"""Events of the approvals service: `published` builds its own, `consumers` handles those of others."""

from services.approvals.events import published

__all__ = ["published"]
