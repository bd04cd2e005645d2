"""A finished graph without the litter of its conversion. `rules` is the way in, the other modules one idea each."""
