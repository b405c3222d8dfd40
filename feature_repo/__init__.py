"""Features: column names, table schemas, importers, feature building and every Feast object.

The lowest floor: it imports nothing of the project but itself.
"""
