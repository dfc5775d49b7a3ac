"""The rules of budgets: pure functions over values; no I/O.

lives      states, actions, and which leads where          holds     set aside, promise, take, give back
balances   what a budget has, and what a chain takes       refunds   what was charged comes back
marks      when an alert is due                            periods   calendars and time zones
rollover   what the next period begins with                forecast  what will be spent
rates      money into another currency                usage     which budget a cost belongs to
"""
