"""Why a stored part was rejected, and what was expected instead. Knows no HTTP."""
