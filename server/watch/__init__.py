"""What people and machines see of the coordinator's records: overview, views, metrics, narrator, results."""
