"""Who may release a model, how its versions are shown, and the card that goes with one."""
