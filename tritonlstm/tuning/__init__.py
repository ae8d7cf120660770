"""The offline search for launch configurations. The layers never import it; what it found is read by `launch`."""
