"""Complete programs written with jaxmodules, each short enough to read in one go."""
