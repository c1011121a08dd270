"""Files that people write: settings (TOML) and the schema of the data. Presets and bundled data are here, too."""
