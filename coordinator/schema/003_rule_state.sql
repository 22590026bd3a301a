-- What the recipe's rules must not forget: the round under way, the exchange that is waited for. JSON that names its type.

CREATE TABLE rule_state (
    rule TEXT PRIMARY KEY,
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
