"""Who may take part: join tokens, parties, revocations. Its records are a database of their own."""
