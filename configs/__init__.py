"""What people write down: settings (TOML), the schema of the data, presets and bundled data."""
