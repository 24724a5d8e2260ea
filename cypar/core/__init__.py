"""The compiled core and what every layer above it shares."""
