"""What a member must not forget: its ledger, the tables in it, and the journal of what it did."""
