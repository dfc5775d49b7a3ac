"""Requests that people approve, and the rules that say who."""
