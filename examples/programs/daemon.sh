# Leaves something running behind. It ends with its container, whose main command this is.
(trap '' HUP TERM INT; exec setsid sleep 1000) >/dev/null 2>&1 &
echo "left process $! behind"
