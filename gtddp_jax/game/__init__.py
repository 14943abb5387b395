"""The sequential game: adjoints, policies backward, answers forward."""
