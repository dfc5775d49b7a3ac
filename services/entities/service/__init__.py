"""What can be done with entities, departments and exchange rates."""
