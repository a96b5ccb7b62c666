//! The keys of the config file: one row each, from which "unknown key" messages and the table in
//! `docs/config.md` follow.

use std::borrow::Cow;
use std::sync::LazyLock;

use lb_core::tables::Sysctls;

/// A table of the file and its keys.
pub struct Section {
    /// As in the file: `dataplane`, `port` …
    pub name: &'static str,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    /// What it holds, in the words of TOML.
    pub holds: &'static str,
    /// `required`, or the value that holds when the key is absent.
    pub default: Cow<'static, str>,
    /// Allowed values.
    pub allowed: Cow<'static, str>,
    pub meaning: Cow<'static, str>,
}

const fn key(
    name: &'static str,
    holds: &'static str,
    default: &'static str,
    allowed: &'static str,
    meaning: &'static str,
) -> Key {
    let (default, allowed) = (Cow::Borrowed(default), Cow::Borrowed(allowed));
    Key { name, holds, default, allowed, meaning: Cow::Borrowed(meaning) }
}

pub const DATAPLANE: Section = Section {
    name: "dataplane",
    keys: &[
        key(
            "workers",
            "list of integers",
            "required",
            "1 to 64 different CPUs",
            "CPU of each poll-mode worker",
        ),
        key("driver_args", "list of strings", "[]", "DPDK's", "extra arguments for DPDK's EAL"),
        key("memory_mb", "integer", "512", "64..=1048576", "memory for packet buffers and tables, MiB"),
        key("huge_pages", "boolean", "true", "true, false", "false: ordinary memory, for laptops and tests"),
        key(
            "flow_memory",
            "string",
            "named after api.socket, on hugetlbfs or /dev/shm",
            "absolute path on hugetlbfs or tmpfs, \"none\"",
            "file that keeps the connections for the next start; none: connections and twins end with lbd",
        ),
        key(
            "max_connections",
            "integer",
            "1000000",
            "1024..=268435456",
            "connections, of all workers together",
        ),
        key(
            "max_ipv6_connections",
            "integer",
            "as max_connections",
            "0..=max_connections",
            "how many of them may be IPv6 (64 bytes more each)",
        ),
        key(
            "max_servers",
            "integer",
            "65536",
            "16..=1048576",
            "real servers, and virtual services. As many removed ones may have connections left",
        ),
        key(
            "idle",
            "string",
            "\"auto\"",
            "\"auto\", \"poll\", \"pause\", \"sleep\", \"interrupt\"",
            "a worker without packets: poll; pause between polls; sleep for moments; sleep until something comes, by receive interrupts; auto: pause on isolated CPUs, else sleep",
        ),
        key(
            "forwarding",
            "boolean",
            "true",
            "true, false",
            "route packets that no virtual service takes, as `net.ipv4.ip_forward` does",
        ),
        key(
            "drain_secs",
            "integer",
            "0",
            "0..=86400",
            "seconds that connections have to end in after SIGTERM, while virtual services take no new ones; 0: stop at once",
        ),
    ],
};

pub const PORT: Section = Section {
    name: "port",
    keys: &[
        key(
            "name",
            "string",
            "required",
            "1 to 15 characters of A-Z a-z 0-9 _ . -",
            "also its twin's name in Linux",
        ),
        key("device", "string", "required", "DPDK's", "PCI address, or a DPDK vdev with its arguments"),
        key(
            "addresses",
            "list of strings",
            "[]",
            "\"address/length\"",
            "put on the twin, as `ip addr add` does",
        ),
        key(
            "outside",
            "boolean",
            "false",
            "true, false",
            "clients are out there; several ports may be. A NIC spreads what comes in by its source there, and by its destination at the other ports ([nic.md](nic.md)); without a NIC that does, nothing depends on it",
        ),
        key("mtu", "integer", "1500", "576..=9000", "longest IP packet, bytes"),
    ],
};

pub const API: Section = Section {
    name: "api",
    keys: &[
        key(
            "socket",
            "string",
            "\"/run/lb/api.sock\"",
            "absolute path, 1 to 107 bytes",
            "UNIX socket of the API",
        ),
        key(
            "http",
            "string",
            "none: not served",
            "\"address:port\"",
            "TCP address of /metrics, /healthz, /readyz and the status page",
        ),
    ],
};

pub const TIMEOUTS: Section = Section {
    name: "timeouts",
    keys: &[
        key(
            "tcp",
            "integer",
            "900",
            "1..=2678400",
            "seconds of an established TCP connection without packets",
        ),
        key("tcp_fin", "integer", "120", "1..=2678400", "seconds of a TCP connection after the server's FIN"),
        key("udp", "integer", "300", "1..=2678400", "seconds of a UDP flow without packets"),
    ],
};

pub const SYNC: Section = Section {
    name: "sync",
    keys: &[
        key(
            "master",
            "string",
            "none: no master",
            "name of a Linux interface",
            "tell other directors of this one's connections, by this interface",
        ),
        key(
            "backup",
            "string",
            "none: no backup",
            "name of a Linux interface",
            "take over the connections that other directors tell of, by this interface",
        ),
        key(
            "syncid",
            "integer",
            "0",
            "0..=255",
            "directors with another number are not heard; a backup with 0 hears all",
        ),
        key(
            "group",
            "string",
            "\"224.0.0.81\"",
            "IPv4 or IPv6 multicast address",
            "multicast group of the directors",
        ),
        key("port", "integer", "8848", "1..=65535", "UDP port"),
        key("ttl", "integer", "1", "1..=255", "TTL, or hop limit, of the messages"),
        key(
            "maxlen",
            "integer",
            "what 1500 bytes of IP hold",
            "1..=65507",
            "longest message, bytes of UDP data",
        ),
    ],
};

pub const NFLOG: Section = Section {
    name: "nflog",
    keys: &[
        key(
            "directory",
            "string",
            "\"/var/log/lb\"",
            "absolute path",
            "where the files are; it is made if it is not there",
        ),
        key("file_mb", "integer", "64", "1..=1048576", "MiB of a file, after which the next one begins"),
        key(
            "files",
            "integer",
            "8",
            "1..=1000",
            "files of a group that are kept, the one that is written to included",
        ),
    ],
};

pub const VIRTUAL_SERVICE: Section = Section {
    name: "virtual_service",
    keys: &[
        key(
            "address",
            "string",
            "required",
            "\"address:port\", IPv6 as \"[address]:port\"; \"address/length:port\", \"[address/length]:port\": every address of a prefix; port \
             0, with `persistence`: every port",
            "what clients connect to",
        ),
        key(
            "fwmark",
            "integer",
            "none",
            "1..=4294967295, instead of `address` and `protocol`",
            "takes new connections by the mark that `[[mark]]` or `iptables -j MARK` gives them",
        ),
        key("family", "string", "\"ipv4\"", "\"ipv4\", \"ipv6\"; with `fwmark`", "of the packets"),
        key("protocol", "string", "\"tcp\"", "\"tcp\", \"udp\", \"sctp\"", "transport protocol"),
        key(
            "scheduler",
            "string",
            "\"wlc\"",
            "\"rr\", \"wrr\", \"lc\", \"wlc\", \"lblc\", \"lblcr\", \"dh\", \"sh\", \"sed\", \"nq\", \"fo\", \"ovf\", \"mh\", \"maglev\", \"twos\", \"none\"",
            "which real server gets a new connection",
        ),
        key(
            "scheduler_flags",
            "list of strings",
            "[]",
            "\"sh-port\", \"sh-fallback\"; \"mh-port\", \"mh-fallback\"; \"maglev-port\"",
            "hash the client's port too; try other servers when the one that is meant takes none",
        ),
        key(
            "table_size",
            "integer",
            "65537",
            "a prime in 65537..=16777216",
            "places in the table of scheduler maglev; a hundred or more for each real server make even shares",
        ),
        key(
            "warmup",
            "integer",
            "0",
            "0..=3600 seconds",
            "slow start: how long a real server that is added, or comes back from weight 0, takes to its full weight",
        ),
        key(
            "persistence",
            "integer",
            "none",
            "1..=2678400",
            "seconds that a client keeps its real server after its last new connection",
        ),
        key(
            "persistence_engine",
            "string",
            "none",
            "\"sip\"",
            "with `persistence`, what tells clients apart besides their addresses: \"sip\", the Call-ID of each datagram",
        ),
        key(
            "persistence_mask",
            "string",
            "none: each address",
            "an IPv4 mask, such as \"255.255.255.0\", or an IPv6 prefix length, such as \"64\"",
            "which bits of their addresses tell clients apart for `persistence`",
        ),
        key(
            "one_packet",
            "boolean",
            "false",
            "with protocol \"udp\"",
            "schedules each datagram anew and remembers none; answers are not translated",
        ),
        key(
            "proxy_protocol",
            "string",
            "none",
            "\"v1\" or \"v2\", with protocol \"tcp\"",
            "a PROXY protocol header in front of the stream tells real servers, which must be masqueraded, who the client is",
        ),
        key(
            "toa",
            "boolean",
            "false",
            "with protocol \"tcp\"",
            "a TCP option (kind 254) tells masqueraded real servers who the client is",
        ),
        key(
            "clamp_mss",
            "boolean",
            "false",
            "with protocol \"tcp\"",
            "lowers the maximum segment size in a client's SYN to what fits the tunnel to the real server",
        ),
        key(
            "helper",
            "string",
            "none",
            "\"ftp\", with protocol \"tcp\"",
            "reads along in control connections, so that FTP's data connections come to the same real server",
        ),
        key(
            "syn_cookies",
            "string",
            "\"off\"",
            "\"off\", \"on\", \"auto\", \"auto:SYNS_A_SECOND\", with protocol \"tcp\"",
            "answers clients with SYN cookies, always or while more SYNs a second come (\"auto\": 1000); for masqueraded real servers",
        ),
        key("conn_limit", "integer", "0", "0..=16000000", "most connections at once; 0: any number"),
        key(
            "conn_rate",
            "string",
            "none: any number",
            "\"RATE\", \"RATE:BURST\", each in 1..=10000000",
            "most new connections in a second, and at once; a burst of a second's worth unless it is said",
        ),
        key(
            "source_conn_limit",
            "integer",
            "0",
            "0..=16000000",
            "most connections of each source at once; 0: any number",
        ),
        key(
            "source_conn_rate",
            "string",
            "none: any number",
            "as `conn_rate`",
            "most new connections of each source",
        ),
        key(
            "source_prefix",
            "integer",
            "none: each address",
            "1..=32, IPv6: 1..=128; with `source_conn_limit` or `source_conn_rate`",
            "leading bits of clients' addresses that tell one source from another",
        ),
        key(
            "local_addresses",
            "list of strings",
            "[]: the address of the interface towards the real server",
            "at most 64 addresses of the director, of either family",
            "where the connections to real servers with forward = \"fullnat\" come from",
        ),
        key(
            "quic_lb",
            "list of tables",
            "[]",
            "with protocol \"udp\"; see below",
            "how QUIC connection IDs name real servers, so that a client whose address changes keeps its real server",
        ),
        key(
            "real_servers",
            "list of tables",
            "[]",
            "see below",
            "real servers, as in `ipvsadm -a`, oldest first",
        ),
    ],
};

pub const REAL_SERVER: Section = Section {
    name: "real_servers",
    keys: &[
        key(
            "address",
            "string",
            "required",
            "\"address:port\" or \"address\": the service's port; unicast",
            "of the family of its service, but for \"tunnel\" and \"fullnat\"; \"masq\" and \"fullnat\" alone may change the port",
        ),
        key("weight", "integer", "1", "0..=65535", "share of new connections; 0 quiesces the server"),
        key(
            "forward",
            "string",
            "\"masq\"",
            "\"masq\", \"direct\", \"tunnel\", \"fullnat\"",
            "forwarding method",
        ),
        key("tunnel", "string", "\"ipip\"", "\"ipip\", \"gue\", \"gre\"", "kind of tunnel"),
        key(
            "tunnel_port",
            "integer",
            "none",
            "1..=65535",
            "UDP port of the real server's end of a gue tunnel",
        ),
        key(
            "tunnel_checksum",
            "string",
            "\"none\"",
            "\"none\", \"checksum\"; gue also \"remote\"",
            "checksum of a gue or gre tunnel's own header",
        ),
        key(
            "upper_threshold",
            "integer",
            "0",
            "0..=2147483647",
            "no new connections from this many on; 0: no limit",
        ),
        key(
            "lower_threshold",
            "integer",
            "0",
            "0..=upper_threshold",
            "new connections again below this many; 0: below 75 % of upper_threshold",
        ),
        key(
            "quic_server_ids",
            "list of strings",
            "[]",
            "at most 8 of 1 to 15 bytes, two hexadecimal digits each, of a length that `quic_lb` has; no other server's",
            "what it writes into QUIC connection IDs",
        ),
    ],
};

pub const QUIC_LB: Section = Section {
    name: "quic_lb",
    keys: &[
        key("config_id", "integer", "required", "0..=6, each once", "first three bits of the connection IDs"),
        key("server_id_length", "integer", "required", "1..=15", "bytes of the server ID"),
        key(
            "nonce_length",
            "integer",
            "required",
            "4..=18; with server_id_length at most 19",
            "bytes of the nonce",
        ),
        key(
            "key",
            "string",
            "none: connection IDs are not enciphered",
            "32 hexadecimal digits",
            "key of AES-128; a secret: messages and listings do not show it",
        ),
    ],
};

/// What the packet path and the control plane know their sysctls by, as keys: in the order of their full names.
pub static SYSCTL: LazyLock<Section> = LazyLock::new(|| Section { name: "sysctl", keys: &SYSCTL_KEYS });

static SYSCTL_KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let kept = Sysctls::default().values().map(|(sysctl, default)| {
        let allowed = match sysctl.max {
            1 => "0, 1".to_owned(),
            max => format!("0..={max}"),
        };
        (sysctl.prefix, sysctl_key(sysctl.name, default, allowed, sysctl.meaning.into()))
    });
    let fixed = Sysctls::fixed().map(|fixed| {
        let always = format!("always so: {}", fixed.why);
        (fixed.prefix, sysctl_key(fixed.name, fixed.value, fixed.value.to_string(), always.into()))
    });
    let mut keys: Vec<_> = kept.chain(fixed).collect();
    keys.sort_by_key(|(prefix, key)| (*prefix, key.name));
    keys.into_iter().map(|(_, key)| key).collect()
});

fn sysctl_key(name: &'static str, default: u32, allowed: String, meaning: Cow<'static, str>) -> Key {
    Key { name, holds: "integer", default: default.to_string().into(), allowed: allowed.into(), meaning }
}

pub const MARK: Section = Section {
    name: "mark",
    keys: &[
        key("mark", "integer", "required", "1..=4294967295", "what a `[[virtual_service]]` says as `fwmark`"),
        key("protocol", "string", "any", "\"tcp\", \"udp\", \"sctp\"", "transport protocol"),
        key(
            "source",
            "string",
            "any",
            "an address or prefix, such as \"192.0.2.0/24\"",
            "where the client is",
        ),
        key(
            "destination",
            "string",
            "any",
            "an address or prefix, such as \"2001:db8::/64\"",
            "what the client connects to",
        ),
        key(
            "destination_ports",
            "string",
            "any",
            "a port, such as \"80\", or a range, such as \"8000-8999\"",
            "to which port",
        ),
        key(
            "source_set",
            "string",
            "any",
            "the name of an IP set",
            "the set that the client is in; asked with `src,dst,dst`",
        ),
        key(
            "destination_set",
            "string",
            "any",
            "the name of an IP set",
            "the set that what the client connects to is in; asked with `dst,dst,src`",
        ),
    ],
};

/// Tables at the top of the file.
pub const TOP: &[&str] =
    &["dataplane", "port", "api", "timeouts", "sysctl", "sync", "nflog", "virtual_service", "mark"];

/// The known name that is nearest to `typed`, when it is near enough to be meant.
pub fn nearest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&typed.to_lowercase(), name), name))
        .filter(|&(likeness, _)| likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use lb_core::ipvs::SchedulerKind;

    use super::*;

    #[test]
    fn the_row_of_schedulers_names_them_all() {
        let row = VIRTUAL_SERVICE.keys.iter().find(|key| key.name == "scheduler").expect("a row");
        let names: Vec<_> = SchedulerKind::ALL.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
        assert_eq!(row.allowed, names.join(", "));
    }

    #[test]
    fn the_documentation_holds_every_key_with_its_row() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
        let document = std::fs::read_to_string(path).expect(path);
        let mut missing = String::new();
        let sections: [&Section; 11] = [
            &DATAPLANE,
            &PORT,
            &API,
            &TIMEOUTS,
            &SYSCTL,
            &SYNC,
            &NFLOG,
            &VIRTUAL_SERVICE,
            &QUIC_LB,
            &REAL_SERVER,
            &MARK,
        ];
        for section in sections {
            for key in section.keys {
                let row = format!(
                    "| `{}` | {} | {} | {} | {} |",
                    key.name, key.holds, key.default, key.allowed, key.meaning
                );
                if !document.contains(&row) {
                    writeln!(missing, "[{}] {row}", section.name).expect("a string");
                }
            }
        }
        assert!(missing.is_empty(), "docs/config.md does not hold:\n{missing}");
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        let keys = || DATAPLANE.keys.iter().map(|key| key.name);
        assert_eq!(nearest("hugepages", keys()), Some("huge_pages"));
        assert_eq!(nearest("worker", keys()), Some("workers"));
        assert_eq!(nearest("zzz", keys()), None);
    }
}
