"""What can be done with rules, requests and delegations."""
