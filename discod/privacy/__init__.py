"""What a released update may cost: the accountant, and the plan of a run's noise."""
