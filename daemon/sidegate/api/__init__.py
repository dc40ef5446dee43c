"""One implementation of every verb, served over the control socket."""
