"""The services: one room each, all furnished alike. See CONTRIBUTING.md for what lives in which file."""
