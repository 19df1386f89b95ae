"""Build specs: what should exist, written in YAML, checked, and expanded into variants.

`loader.load_variants` reads a file, `matrix.expand` makes its variants, `selectors.Selection`
picks some of them, `schema.build_spec_schema` describes the file form to editors.
"""
