"""One TOML file per device type; `skerry.profile` reads them."""
