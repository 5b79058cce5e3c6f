# What a program in a container sees of the machine: its programs, and little else.
echo "hello from $(hostname), process $$ of $(ls -d /proc/[0-9]* | wc -l), user $(id -u)"
echo "files here: $(ls | wc -l); in /home: $(ls /home 2>/dev/null | wc -l); network devices: $(tail -n +3 /proc/net/dev | wc -l)"
