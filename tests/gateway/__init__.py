"""Tests of the gateway in front of a fake backend that stands for every service."""
