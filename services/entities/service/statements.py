"""Use case of statements of account."""

from dataclasses import replace

from kit import clock, dates
from kit.db import ReadSession
from services.entities import domain, store
from services.entities.domain.statements import Statement, StatementQuery


async def get(tx: ReadSession, query: StatementQuery) -> Statement:
    """Return a statement with a page of its documents, one more than the page has if another page follows.

    `tx` must be a snapshot, so that documents and totals fit together. Raises EntityNotFound.
    """
    entity = await store.entities.get(tx, query.entity_id)
    as_of = query.as_of or dates.date_in(entity.time_zone, clock.now())
    events = await store.statements.find_events(tx, entity.id)
    statement = domain.statements.build(entity.id, events, as_of, entity.currency_code)
    after = query.after
    documents = [each for each in statement.documents if after is None or each.position > after]
    return replace(statement, documents=documents[: query.limit])
