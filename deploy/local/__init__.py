"""The local stack: everything on this machine, with servers from pip wheels."""
