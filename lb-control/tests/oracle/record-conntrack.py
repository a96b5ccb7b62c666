#!/usr/bin/env python3
"""Records how conntrack behaves, in a network namespace of its own: unshare -n ./record-conntrack.py > conntrack.json

Needs root, a kernel with connection tracking, and conntrack. Seconds are written as 4000, ids as the number of the connection."""
import json, re, shlex, subprocess

CONNECTIONS = [
    "-p tcp -s 1.2.3.4 -d 5.6.7.8 --sport 1 --dport 2 --state SYN_SENT -m 7 -g 9.9.9.9",
    "-p tcp -s 1.2.3.4 -d 5.6.7.8 --sport 3 --dport 2 --state ESTABLISHED -u ASSURED,SEEN_REPLY",
    "-p udp -s 1.2.3.4 -d 5.6.7.8 --sport 4 --dport 53",
    "-p udp -s fd00::1 -d fd00::2 --sport 5 --dport 53 -u SEEN_REPLY",
    "-p sctp -s 1.2.3.4 -d 5.6.7.8 --sport 6 --dport 9 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
    "-p icmp -s 1.2.3.4 -d 5.6.7.8 --icmp-type 8 --icmp-code 0 --icmp-id 77",
    "-p icmpv6 -s fd00::1 -d fd00::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 78",
    "-p 99 -s 1.2.3.4 -d 5.6.7.8",
    "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 9 --dport 80 --state CLOSE_WAIT -w 3 -n 192.0.2.1 -u ASSURED,SEEN_REPLY",
]
LINES = open(__file__.replace("record-conntrack.py", "conntrack-lines.txt")).read().splitlines()

def conntrack(line):
    return subprocess.run(["conntrack", *shlex.split(line)], capture_output=True, text=True, timeout=5)

def make():
    conntrack("-F")
    for words in CONNECTIONS:
        made = conntrack(f"-I {words} -t 4000")
        assert made.returncode == 0, (words, made.stderr)

def ids():
    numbers = {}
    for n, words in enumerate(CONNECTIONS):
        found = re.search(r"--sport (\d+)|--icmp(?:v6)?-id (\d+)", words)
        key = f"sport={found[1]} " if found and found[1] else f"id={found[2]} " if found else "unknown"
        for line in conntrack("-L -o id").stdout.splitlines():
            if key in line.split("[")[0].split("src=", 2)[1] or key == "unknown" and line.startswith(key):
                numbers[re.search(r"use=1 id=(\d+)", line)[1]] = str(n + 1)
    return numbers

vectors = []
for line in LINES:
    make()
    numbers = ids()
    done = conntrack(line)
    def text(out):
        out = re.sub(r"\b(39\d\d|4000)\b", "4000", out)
        for number, n in numbers.items():
            out = out.replace(f"id={number}", f"id={n}").replace(f"<id>{number}</id>", f"<id>{n}</id>")
        return out
    vectors.append({"argv": shlex.split(line), "rc": done.returncode, "stdout": text(done.stdout), "stderr": text(done.stderr)})
version = conntrack("-V").stdout.strip()
kernel = subprocess.run(["uname", "-r"], capture_output=True, text=True).stdout.strip()
print(json.dumps({"conntrack": version, "kernel": kernel, "connections": CONNECTIONS, "vectors": vectors}, indent=1))
