"""Work that goes on while nobody waits: trainings and calibrations."""
