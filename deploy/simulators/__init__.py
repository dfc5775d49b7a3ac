"""Outside systems, as small as they can be: what they say and answer, so that all of it can be tried on one machine."""
