"""The gateway, in front of a backend that stands for any service."""
