"""What the tests stand on: servers, databases, tokens, callers and a look from outside."""
