"""How far a result can be relied on: measured from the series and the result alone."""
