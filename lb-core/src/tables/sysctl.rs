//! The switches that the kernel's IPVS has under `net.ipv4.vs`, with its names, and `drop_newcomers`, which it has not: one row each. Those of connection tracking,
//! under `net.netfilter`, are in [`conntrack::Settings`]. What is here always as with one value of the kernel's is [`Fixed`].
//!
//! Source of what they do: Linux, `Documentation/networking/ipvs-sysctl.rst`, and recorded connections.

use crate::conntrack;

/// Their values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sysctls {
    pub am_droprate: u32,
    pub amemthresh: u32,
    pub backup_only: u32,
    pub cache_bypass: u32,
    pub conn_reuse_mode: u32,
    /// The kernel's `conntrack`.
    pub source_nat: u32,
    pub drop_entry: u32,
    /// The kernel has none.
    pub drop_newcomers: u32,
    pub drop_packet: u32,
    pub expire_nodest_conn: u32,
    pub expire_quiescent_template: u32,
    pub nat_icmp_send: u32,
    pub pmtu_disc: u32,
    pub schedule_icmp: u32,
    pub secure_tcp: u32,
    pub sloppy_sctp: u32,
    pub sloppy_tcp: u32,
    /// Read by nobody: with routes by destination alone an answer's way is the same with 0 and 1.
    pub snat_reroute: u32,
    /// Packets; the second number of the kernel's `sync_threshold`.
    pub sync_period: u32,
    pub sync_persist_mode: u32,
    /// Seconds.
    pub sync_refresh_period: u32,
    /// Bytes.
    pub sync_sock_size: u32,
    /// Packets.
    pub sync_threshold: u32,
    /// How connections of no virtual service are followed.
    pub conntrack: conntrack::Settings,
}

/// Before their names.
const PREFIX: &str = "net.ipv4.vs.";

/// Of `lblc` and `lblcr`.
const DESTINATIONS: &str =
    "a destination that nobody goes to is remembered for a day, or until its place is needed";

/// The kernel keeps them in signed numbers.
const MAX: u32 = i32::MAX as u32;

/// One of them: what the control plane knows it by.
pub struct Sysctl {
    pub name: &'static str,
    /// Before its name in the kernel: `net.ipv4.vs.`
    pub prefix: &'static str,
    /// Allowed are 0 to this.
    pub max: u32,
    pub meaning: &'static str,
    pub value: fn(&mut Sysctls) -> &mut u32,
}

/// One that cannot be switched: what is so here is what one value of the kernel's says. Setting that value changes nothing, and no other can
/// be set.
pub struct Fixed {
    pub name: &'static str,
    /// As in [`Sysctl`].
    pub prefix: &'static str,
    pub value: u32,
    /// Why it has no other.
    pub why: &'static str,
}

impl Fixed {
    /// What is wrong with another value, in words.
    pub fn refusal(&self) -> String {
        format!("allowed is {} alone: {}", self.value, self.why)
    }
}

impl Sysctls {
    /// Those of IPVS.
    pub const TABLE: &[Sysctl] = &[
        Sysctl {
            name: "am_droprate",
            prefix: PREFIX,
            max: MAX,
            meaning: "of how many new connections one is dropped while drop_packet is 3; 0: none",
            value: |all| &mut all.am_droprate,
        },
        Sysctl {
            name: "amemthresh",
            prefix: PREFIX,
            max: MAX,
            meaning: "places left in the flow table, of max_connections, below which drop_entry, drop_packet and secure_tcp act with 1 and 2",
            value: |all| &mut all.amemthresh,
        },
        Sysctl {
            name: "backup_only",
            prefix: PREFIX,
            max: 1,
            meaning: "1: while a sync backup runs, no packet is for a virtual service",
            value: |all| &mut all.backup_only,
        },
        Sysctl {
            name: "cache_bypass",
            prefix: PREFIX,
            max: 1,
            meaning: "1: a packet for another host that a service by mark has no real server for goes straight on to its destination, and its \
                      connection with it",
            value: |all| &mut all.cache_bypass,
        },
        Sysctl {
            name: "conn_reuse_mode",
            prefix: PREFIX,
            max: 3,
            meaning: "a SYN on a TCP connection that is over: 0 goes to its real server, 1 begins a new one; 2 and 3 also after a FIN \
                      of one that is routed directly or tunnelled",
            value: |all| &mut all.conn_reuse_mode,
        },
        Sysctl {
            name: "conntrack",
            prefix: PREFIX,
            max: 1,
            meaning: "1: the table nat is asked at POSTROUTING for the source of masqueraded connections of virtual services",
            value: |all| &mut all.source_nat,
        },
        Sysctl {
            name: "drop_entry",
            prefix: PREFIX,
            max: 3,
            meaning: "half-open connections are ended, a 32nd of the table a second, and UDP without a packet for a minute; where \
                      nf_conntrack_acct counts packets, UDP and established connections that had few of them and rest: 0 never; 1 and 2 \
                      while the flow table has fewer places left than amemthresh; 3 always",
            value: |all| &mut all.drop_entry,
        },
        Sysctl {
            name: "drop_newcomers",
            prefix: PREFIX,
            max: 1,
            meaning: "1: a worker that is offered more than it can take lets in few packets of which it knows no connection, so that the others keep \
                      their rate",
            value: |all| &mut all.drop_newcomers,
        },
        Sysctl {
            name: "drop_packet",
            prefix: PREFIX,
            max: 3,
            meaning: "new connections that are dropped: 0 none; 1 and 2 the more, the fewer places below amemthresh the flow table has left; \
                      3 one in am_droprate",
            value: |all| &mut all.drop_packet,
        },
        Sysctl {
            name: "expire_nodest_conn",
            prefix: PREFIX,
            max: 2,
            meaning: "connections whose real server was removed: 0 stay, without what their clients send, and adding the server again \
                      resumes; 1 end, and a SYN leaves one of weight 0; 2 those of UDP end with their next packet",
            value: |all| &mut all.expire_nodest_conn,
        },
        Sysctl {
            name: "expire_quiescent_template",
            prefix: PREFIX,
            max: 1,
            meaning: "1: a client of a persistent service leaves its real server when that has weight 0",
            value: |all| &mut all.expire_quiescent_template,
        },
        Sysctl {
            name: "nat_icmp_send",
            prefix: PREFIX,
            max: 1,
            meaning: "1: a masqueraded real server that sends from its port for a connection that is not there is told so",
            value: |all| &mut all.nat_icmp_send,
        },
        Sysctl {
            name: "pmtu_disc",
            prefix: PREFIX,
            max: 1,
            meaning: "an IPv4 packet that may not be split and does not fit into an IPv4 tunnel: 1 its sender is told, 0 the tunnel's packet is \
                      split",
            value: |all| &mut all.pmtu_disc,
        },
        Sysctl {
            name: "schedule_icmp",
            prefix: PREFIX,
            max: 1,
            meaning: "1: an ICMP error about a connection that is not known is scheduled as its client's packets would be",
            value: |all| &mut all.schedule_icmp,
        },
        Sysctl {
            name: "secure_tcp",
            prefix: PREFIX,
            max: 3,
            meaning: "a masqueraded TCP connection is established by its server's acknowledgement, not its client's: 0 never; 1 and 2 while the \
                      flow table has fewer places left than amemthresh; 3 always",
            value: |all| &mut all.secure_tcp,
        },
        Sysctl {
            name: "sloppy_sctp",
            prefix: PREFIX,
            max: 1,
            meaning: "1: any SCTP packet begins a connection, not an INIT alone",
            value: |all| &mut all.sloppy_sctp,
        },
        Sysctl {
            name: "sloppy_tcp",
            prefix: PREFIX,
            max: 1,
            meaning: "1: any TCP packet without RST begins a connection, not a SYN alone",
            value: |all| &mut all.sloppy_tcp,
        },
        Sysctl {
            name: "snat_reroute",
            prefix: PREFIX,
            max: 1,
            meaning: "whether an answer's way is looked up once its source is the service's: the same with 0 and 1, since routes are by \
                      destination alone",
            value: |all| &mut all.snat_reroute,
        },
        Sysctl {
            name: "sync_period",
            prefix: PREFIX,
            max: MAX,
            meaning: "where nf_conntrack_acct counts packets: a sync master tells of a connection again with every so manieth packet of \
                      its client, from that of sync_threshold on; 0: once a sync_refresh_period alone",
            value: |all| &mut all.sync_period,
        },
        Sysctl {
            name: "sync_persist_mode",
            prefix: PREFIX,
            max: 1,
            meaning: "1: a sync master tells of persistent services' templates, and not of their connections; a backup needs sloppy_tcp \
                      and sloppy_sctp then",
            value: |all| &mut all.sync_persist_mode,
        },
        Sysctl {
            name: "sync_refresh_period",
            prefix: PREFIX,
            max: 3600,
            meaning: "seconds after which a sync master tells again of a connection that had packets; 0 is 1",
            value: |all| &mut all.sync_refresh_period,
        },
        Sysctl {
            name: "sync_sock_size",
            prefix: PREFIX,
            max: 1 << 30,
            meaning: "bytes that may wait in the sockets of sync daemons that start from now on; 0: 8 MiB to be read, and what the \
                      system gives to be sent",
            value: |all| &mut all.sync_sock_size,
        },
        Sysctl {
            name: "sync_threshold",
            prefix: PREFIX,
            max: MAX,
            meaning: "where nf_conntrack_acct counts packets: a sync master tells of a connection once its client has sent so many; 0: \
                      as soon as it is established. Two numbers, as the kernel's: the second is sync_period",
            value: |all| &mut all.sync_threshold,
        },
    ];

    /// Those whose behaviour with one of the kernel's values is what this director has, whatever it is told.
    pub const FIXED: &[Fixed] = &[
        Fixed {
            name: "ignore_tunneled",
            prefix: PREFIX,
            value: 1,
            why: "what came in a tunnel to the director is unpacked by Linux, and never scheduled",
        },
        Fixed { name: "lblc_expiration", prefix: PREFIX, value: 86_400, why: DESTINATIONS },
        Fixed { name: "lblcr_expiration", prefix: PREFIX, value: 86_400, why: DESTINATIONS },
        Fixed {
            name: "run_estimation",
            prefix: PREFIX,
            value: 1,
            why: "rates are estimated, and workers have nothing to do with it",
        },
        Fixed { name: "sync_ports", prefix: PREFIX, value: 1, why: "one port is sent to and heard" },
        Fixed {
            name: "sync_retries",
            prefix: PREFIX,
            value: 0,
            why: "what is lost is told of again within sync_refresh_period, and a backup that begins asks for all",
        },
        Fixed {
            name: "sync_version",
            prefix: PREFIX,
            value: 1,
            why: "messages of format version 1 are sent, those of 0 and 1 are heard",
        },
    ];

    /// Those of the kernel's that have nothing to switch here and no value that is always so, and why.
    pub const REFUSED: &[(&str, &str)] = &[(
        "sync_qlen_max",
        "no message waits: what changes faster than it is told of is counted, and told of within sync_refresh_period",
    )];

    /// The one that is two numbers in the kernel, and what the second is called here.
    pub const PAIR: (&str, &str) = ("sync_threshold", "sync_period");

    /// Why there is none of this name, in words.
    pub fn why_not(name: &str) -> String {
        let mut refused = Sysctls::REFUSED.iter().chain(conntrack::Settings::REFUSED);
        match refused.find(|refused| refused.0 == name) {
            Some((_, why)) => (*why).to_owned(),
            None => {
                let fixed = Sysctls::fixed().map(|fixed| fixed.name);
                let known: Vec<_> = Sysctls::all().map(|sysctl| sysctl.name).chain(fixed).collect();
                format!("there are {}", known.join(", "))
            }
        }
    }

    pub fn fixed() -> impl Iterator<Item = &'static Fixed> {
        Sysctls::FIXED.iter().chain(conntrack::Settings::FIXED)
    }

    /// One that is fixed.
    pub fn fixed_named(name: &str) -> Option<&'static Fixed> {
        Sysctls::fixed().find(|fixed| fixed.name == name)
    }

    pub fn named(name: &str) -> Option<&'static Sysctl> {
        Sysctls::all().find(|sysctl| sysctl.name == name)
    }

    /// All of both prefixes that can be switched.
    pub fn all() -> impl Iterator<Item = &'static Sysctl> {
        Sysctls::TABLE.iter().chain(conntrack::Settings::TABLE)
    }

    /// Names and values of all, those that are fixed among them, in the order of their full names.
    pub fn listed(self) -> Vec<(&'static str, u32)> {
        let fixed = Sysctls::fixed().map(|fixed| (fixed.prefix, fixed.name, fixed.value));
        let kept = self.values().map(|(sysctl, value)| (sysctl.prefix, sysctl.name, value));
        let mut all: Vec<_> = kept.chain(fixed).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, name, value)| (name, value)).collect()
    }

    /// What stands before a name in the kernel.
    pub fn prefix_of(name: &str) -> &'static str {
        let kept = Sysctls::named(name).map(|sysctl| sysctl.prefix);
        kept.or(Sysctls::fixed_named(name).map(|fixed| fixed.prefix)).unwrap_or("")
    }

    /// All that are kept, with their values.
    pub fn values(mut self) -> impl Iterator<Item = (&'static Sysctl, u32)> {
        Sysctls::all().map(move |sysctl| (sysctl, *(sysctl.value)(&mut self)))
    }
}

impl Default for Sysctls {
    /// The kernel's, but for `expire_nodest_conn`: a UDP client knows of no end and would be sent nowhere for as long as it asks. And for
    /// `sync_refresh_period`, as packets are not counted of themselves for `sync_threshold`.
    fn default() -> Sysctls {
        Sysctls {
            am_droprate: 10,
            amemthresh: 1024,
            backup_only: 0,
            cache_bypass: 0,
            conn_reuse_mode: 1,
            source_nat: 0,
            drop_entry: 0,
            drop_newcomers: 1,
            drop_packet: 0,
            expire_nodest_conn: 2,
            expire_quiescent_template: 0,
            nat_icmp_send: 0,
            pmtu_disc: 1,
            schedule_icmp: 0,
            secure_tcp: 0,
            sloppy_sctp: 0,
            sloppy_tcp: 0,
            snat_reroute: 1,
            sync_period: 0,
            sync_persist_mode: 0,
            sync_refresh_period: 10,
            sync_sock_size: 0,
            sync_threshold: 0,
            conntrack: conntrack::Settings::default(),
        }
    }
}
