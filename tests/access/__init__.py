"""Access to every RPC, tried with every kind of caller; and random input to every RPC."""
