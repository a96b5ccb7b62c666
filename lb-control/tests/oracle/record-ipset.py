#!/usr/bin/env python3
"""Records what ipset does with random lines: record-ipset.py SEED ROUNDS > ipset_lines.txt

Run as root in a network namespace of its own (`ip netns add x; ip netns exec x …`): all its sets are destroyed. Each round begins without
sets; a line of the recording is the exit code, a tab, the line, a tab, what was said, with | where a line ended. Lines of types that the
kernel does not have, and those on which ipset itself crashes, are left out.
"""
import random
import re
import subprocess
import sys

R = random.Random(int(sys.argv[1]))
ROUNDS, STEPS = int(sys.argv[2]), 60

# What ipset calls each type today.
TYPES = {
    name: name
    for name in (
        "hash:ip hash:net hash:ip,port hash:net,port hash:ip,port,ip hash:ip,port,net hash:net,iface bitmap:ip bitmap:port "
        "bitmap:ip,mac list:set"
    ).split()
} | {
    "iphash": "hash:ip",
    "nethash": "hash:net",
    "ipmap": "bitmap:ip",
    "portmap": "bitmap:port",
    "ipporthash": "hash:ip,port",
    "setlist": "list:set",
    "macipmap": "bitmap:ip,mac",
    "hash:foo": None,
}


def one(*words):
    return R.choice(words)


def ip(family):
    if family == "inet6":
        return one("2001:db8::%x" % R.randrange(6), "::", "fe80::1", "::ffff:1.2.3.4", "2001:db8:0:0::1")
    near = one("10.0.0.%d" % R.randrange(8), "10.0.1.%d" % R.randrange(4))
    return near if R.random() < 0.7 else one(near, "192.168.0.%d" % R.randrange(256), "1.2.3.4", "255.255.255.255", "10.0.0.256", "2001:db8::1")


def near_net(family):
    return f"{ip(family)}/{one(28, 29, 30, 31, 32, 128)}"


def net(family):
    dice = R.random()
    if dice < 0.45:
        return f"{ip(family)}/{one(0, 1, 8, 16, 24, 30, 31, 32, 33, 64, 127, 128) if R.random() < 0.3 else one(8, 16, 24, 28, 29, 30, 31, 32)}"
    if dice < 0.6 and family != "inet6":
        return f"10.0.{R.randrange(2)}.{R.randrange(8)}-10.0.{R.randrange(2)}.{R.randrange(8)}"
    return ip(family)


def port():
    dice = R.random()
    protocol = one("tcp:", "udp:", "") if R.random() < 0.6 else one("sctp:", "udplite:", "icmp:", "6:", "17:", "0:", "255:", "256:", "foo:", "esp:")
    if dice < 0.6:
        return protocol + one("80", "22", "0", "53", "443")
    if dice < 0.8:
        return protocol + one("80-82", "443-440", "0-3", "http", "ssh", "65535", "65536", "foo", "echo-request", "8/0", "20-22")
    return one("icmp:echo-request", "icmp:8/0", "icmp:ping", "vrrp:0", "tcp:http", "udp:domain")


def mac(_):
    return one("00:11:22:33:44:55", "AA:bb:cc:dd:ee:ff", "1:2:3:4:5:6", "00-11-22-33-44-55", "001122334455")


PARTS = {
    "ip": ip,
    "net": net,
    # Of a set of addresses: what fills it would have it refuse what else comes, at its own discretion.
    "near": near_net,
    "port": lambda _: port(),
    "mac": mac,
    "iface": lambda _: one("eth0", "physdev:eth0", "lo", "verylonginterface", "wlan+"),
}


def element(kind, family):
    if kind == "list:set":
        return one("s0", "s1", "s2", "s3", "s4", "nope")
    parts = kind.split(":")[1].split(",")
    if R.random() < 0.06:
        parts = parts[:-1] if R.random() < 0.5 and len(parts) > 1 else parts + ["ip"]
    if kind in ("hash:ip", "hash:ip,port") and R.random() < 0.3:
        parts[0] = "near"
    if kind.startswith("bitmap:ip"):
        first = one(f"10.0.0.{R.randrange(20)}", "10.0.0.0/29", "10.0.0.2-10.0.0.5", "10.0.1.1", "9.255.255.255")
        return ",".join([first] + [PARTS[part](family) for part in parts[1:]])
    return ",".join(PARTS[part](family) for part in parts)


def options(chances):
    text = ""
    for name, values, chance in chances:
        if R.random() < chance:
            text += f" {name}" + (f" {one(*values)}" if values else "")
    return text


ADDED = [
    ("timeout", "0 600 2147483 2147484 -1 x 010 99999999999999999999".split(), 0.07),
    ("comment", ["hello", "x" * 20], 0.05),
    ("packets", "5 0 x -1".split(), 0.04),
    ("bytes", "100 18446744073709551615".split(), 0.03),
    ("nomatch", [], 0.05),
    ("skbmark", "0x1 0x1/0xff 1/0 0x1/1".split(), 0.03),
    ("skbprio", "1:10 1 1ffff:1".split(), 0.03),
    ("skbqueue", "3 65536".split(), 0.03),
    ("before", ["s1"], 0.02),
    ("after", "s0 nope".split(), 0.02),
    ("-exist", [], 0.07),
    ("timeout", ["600"], 0.01),
]
CREATED = [
    ("family", "inet inet6 ipv4 ipv6 foo".split(), 0.2),
    ("timeout", "0 600 2147483 2147484 x -5".split(), 0.14),
    ("counters", [], 0.1),
    ("comment", [], 0.1),
    ("skbinfo", [], 0.07),
    ("maxelem", "65536 0 x 4294967296".split(), 0.06),
    ("hashsize", "1 64 1000 1024 0 99999999999".split(), 0.07),
    ("netmask", "24 30 33 0 255.255.255.0 64 128".split(), 0.08),
    ("bitmask", "255.255.0.0 ffff::".split(), 0.04),
    ("markmask", "0xff 0".split(), 0.04),
    ("forceadd", [], 0.03),
    ("size", "0 8 x".split(), 0.04),
    ("bucketsize", "2 4 12 100 256".split(), 0.04),
    ("nomatch", [], 0.02),
    ("-exist", [], 0.07),
    ("timeout", ["600"], 0.02),
]
RANGES = {
    "bitmap:ip": "10.0.0.0/28 10.0.0.0-10.0.0.20 10.0.0.0/24 10.0.0.0/8 10.0.0.0/15 10.0.0.5-10.0.0.1 10.0.0.1 x".split(),
    "bitmap:ip,mac": "10.0.0.0/28 10.0.0.0-10.0.0.20 10.0.0.0/15".split(),
    "bitmap:port": "0-100 80-90 tcp:20-30 100-20 0-65535 0-65536 sctp:1-2 80".split(),
}
ODD = (
    "flush|add s0|create|create x|foo|swap a|test|rename s0 verylongsetnameverylongsetnameverylong|del s0 1.1.1.1,2|destroy nope|"
    "create verylongsetnameverylongsetnameverylong hash:ip|add s0 10.0.0.1 timeout|add nope 1.1.1.1|swap s0 nope"
).split("|")


def line(sets):
    dice, name = R.random(), f"s{R.randrange(5)}"
    if dice < 0.18 or not sets:
        kind = one(*TYPES)
        ranges = RANGES.get(TYPES[kind], [])
        text = f" range {one(*ranges)}" if ranges and R.random() < 0.9 else ""
        return f"create {name} {kind}{text}{options(CREATED)}"
    if dice < 0.76 or dice > 0.93:
        name = name if name in sets else one(*sets)
        kind, family = sets[name]
        family = family if R.random() < 0.95 else one("inet", "inet6")
        return f"{one('add', 'add', 'add', 'test', 'del')} {name} {element(kind, family)}{options(ADDED)}"
    if dice < 0.88:
        other = f"s{R.randrange(5)}"
        return one(f"flush {name}", f"destroy {name}", f"swap {name} {other}")
    return one(*ODD)


def run(words):
    done = subprocess.run(["ipset", *words], capture_output=True, text=True, check=False)
    said = re.sub(r"ipset v[\d.]+: |\nTry `ipset help' for more information.|Warning: Option .*\n", "", done.stdout + done.stderr)
    return done.returncode, said.strip().replace("\n", "|")


for _ in range(ROUNDS):
    for words in (["flush"], ["destroy"], ["destroy"]):
        run(words)
    print()
    sets = {}
    for _ in range(STEPS):
        text = line(sets)
        code, said = run(text.split())
        if code < 0 or "type not supported" in said:
            continue
        print(code, text, said, sep="\t")
        words = text.split()
        if code == 0 and words[0] == "create":
            is_ipv6 = re.search("family (inet6|ipv6)", text)
            sets.setdefault(words[1], (TYPES[words[2]], "inet6" if is_ipv6 else "inet"))
        elif code == 0 and words[0] == "destroy":
            sets.pop(words[1], None)
        elif code == 0 and words[0] == "swap":
            sets[words[1]], sets[words[2]] = sets[words[2]], sets[words[1]]
