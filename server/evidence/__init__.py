"""What an auditor checks: a round's certificate, its sum added up again, and what the coordinator can read."""
