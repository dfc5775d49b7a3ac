"""Tests of deploy: the commands of a checkout and what they install."""
