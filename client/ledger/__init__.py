"""A member's permanent records: its ledger, the tables in it, and the journal of what it did."""
