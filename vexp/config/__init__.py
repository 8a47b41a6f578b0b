"""From overrides to a typed, hashed run: scalars, composition, schema, identity."""
