"""How the suite is run: locally, in containers, in a cluster."""
