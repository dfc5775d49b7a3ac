"""What every service stands on. Imports no service and knows no billing noun but Money."""
