"""From a tilt series to an inverse problem: checks, intensity, noise, weights."""
