"""What a container has written, and its states: layers, changes, commit, history, undo, branches and reset."""
