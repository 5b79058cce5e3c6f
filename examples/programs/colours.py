"""Writes to whoever looks: colours, a title, a cleared screen. It reaches the runner as text and stays text."""

print("\x1b[31mred\x1b[0m, a new title: \x1b]0;owned\x07, the screen cleared: \x1b[2J\x1b[H")
print("a line that is overwritten\ra lie instead")
