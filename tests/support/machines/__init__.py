"""State machines that ``federation/test_machines.py`` runs."""
