"""Events of the entities service: `published` builds its own, `consumers` handles those of others."""

from services.entities.events import published

__all__ = ["published"]
