//! The switches that the kernel has under `net.netfilter` for tracking, with its names and defaults: one row each.
//!
//! Source of what they do: Linux, `Documentation/networking/nf_conntrack-sysctl.rst`.

use super::sctp::SctpState;
use super::tcp::TcpState;
use crate::tables::{Fixed, Sysctl, Sysctls};
use crate::time::Timeout;

/// Their values; timeouts in seconds, by state where the protocol has states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub acct: u32,
    /// Expectations of all workers together.
    pub expect_max: u32,
    /// Of all workers together; 0: no limit but the table's room.
    pub max: u32,
    pub tcp_be_liberal: u32,
    pub tcp_ignore_invalid_rst: u32,
    pub tcp_loose: u32,
    pub tcp_max_retrans: u32,
    pub tcp: [u32; TcpState::ALL.len()],
    pub tcp_max_retrans_timeout: u32,
    pub tcp_unacknowledged: u32,
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub icmpv6: u32,
    pub sctp: [u32; SctpState::ALL.len()],
    pub gre: u32,
    pub gre_stream: u32,
    pub generic: u32,
}

/// Before their names.
const PREFIX: &str = "net.netfilter.";

const fn switch(name: &'static str, meaning: &'static str, value: fn(&mut Sysctls) -> &mut u32) -> Sysctl {
    Sysctl { name, prefix: PREFIX, max: 1, meaning, value }
}

const fn fixed(name: &'static str, value: u32, why: &'static str) -> Fixed {
    Fixed { name, prefix: PREFIX, value, why }
}

const fn timeout(name: &'static str, meaning: &'static str, value: fn(&mut Sysctls) -> &mut u32) -> Sysctl {
    Sysctl { name, prefix: PREFIX, max: Timeout::MAX_SECS, meaning, value }
}

impl Settings {
    /// By name.
    pub const TABLE: &[Sysctl] = &[
        switch("nf_conntrack_acct", "1: packets and bytes of each connection are counted", |all| {
            &mut all.conntrack.acct
        }),
        Sysctl {
            name: "nf_conntrack_expect_max",
            prefix: PREFIX,
            max: 1 << 16,
            meaning: "connections that are expected in all workers together; at most 1024 in each",
            value: |all| &mut all.conntrack.expect_max,
        },
        timeout("nf_conntrack_generic_timeout", "seconds; a protocol without a row of its own", |all| {
            &mut all.conntrack.generic
        }),
        timeout("nf_conntrack_gre_timeout", "seconds; nothing came back yet", |all| &mut all.conntrack.gre),
        timeout("nf_conntrack_gre_timeout_stream", "seconds; packets of both directions", |all| {
            &mut all.conntrack.gre_stream
        }),
        timeout("nf_conntrack_icmp_timeout", "seconds; after a question or an answer", |all| {
            &mut all.conntrack.icmp
        }),
        timeout("nf_conntrack_icmpv6_timeout", "seconds; after a question or an answer", |all| {
            &mut all.conntrack.icmpv6
        }),
        Sysctl {
            name: "nf_conntrack_max",
            prefix: PREFIX,
            max: i32::MAX as u32,
            meaning: "connections of no virtual service in all workers together; 0: as many as the flow table has places",
            value: |all| &mut all.conntrack.max,
        },
        timeout("nf_conntrack_sctp_timeout_closed", "seconds; over, or an INIT alone", |all| {
            sctp(all, SctpState::Closed)
        }),
        timeout("nf_conntrack_sctp_timeout_cookie_echoed", "seconds; after COOKIE ECHO", |all| {
            sctp(all, SctpState::CookieEchoed)
        }),
        timeout("nf_conntrack_sctp_timeout_cookie_wait", "seconds; after INIT ACK", |all| {
            sctp(all, SctpState::CookieWait)
        }),
        timeout("nf_conntrack_sctp_timeout_established", "seconds; an established connection", |all| {
            sctp(all, SctpState::Established)
        }),
        timeout("nf_conntrack_sctp_timeout_heartbeat_sent", "seconds; HEARTBEAT on another path", |all| {
            sctp(all, SctpState::HeartbeatSent)
        }),
        timeout("nf_conntrack_sctp_timeout_shutdown_ack_sent", "seconds; after SHUTDOWN ACK", |all| {
            sctp(all, SctpState::ShutdownAckSent)
        }),
        timeout("nf_conntrack_sctp_timeout_shutdown_recd", "seconds; after the server's SHUTDOWN", |all| {
            sctp(all, SctpState::ShutdownReceived)
        }),
        timeout("nf_conntrack_sctp_timeout_shutdown_sent", "seconds; after the client's SHUTDOWN", |all| {
            sctp(all, SctpState::ShutdownSent)
        }),
        switch(
            "nf_conntrack_tcp_be_liberal",
            "1: packets out of window are INVALID only if they are resets",
            |all| &mut all.conntrack.tcp_be_liberal,
        ),
        switch("nf_conntrack_tcp_ignore_invalid_rst", "1: no reset is INVALID for its number", |all| {
            &mut all.conntrack.tcp_ignore_invalid_rst
        }),
        switch("nf_conntrack_tcp_loose", "1: a connection may be taken up in its middle", |all| {
            &mut all.conntrack.tcp_loose
        }),
        Sysctl {
            name: "nf_conntrack_tcp_max_retrans",
            prefix: PREFIX,
            max: 255,
            meaning: "repetitions of a packet until nf_conntrack_tcp_timeout_max_retrans counts",
            value: |all| &mut all.conntrack.tcp_max_retrans,
        },
        timeout("nf_conntrack_tcp_timeout_close", "seconds; after a reset", |all| tcp(all, TcpState::Close)),
        timeout("nf_conntrack_tcp_timeout_close_wait", "seconds; one end's FIN is acknowledged", |all| {
            tcp(all, TcpState::CloseWait)
        }),
        timeout("nf_conntrack_tcp_timeout_established", "seconds; an established connection", |all| {
            tcp(all, TcpState::Established)
        }),
        timeout("nf_conntrack_tcp_timeout_fin_wait", "seconds; after the first FIN", |all| {
            tcp(all, TcpState::FinWait)
        }),
        timeout("nf_conntrack_tcp_timeout_last_ack", "seconds; after the second FIN", |all| {
            tcp(all, TcpState::LastAck)
        }),
        timeout(
            "nf_conntrack_tcp_timeout_max_retrans",
            "seconds; at most so long after too many repetitions",
            |all| &mut all.conntrack.tcp_max_retrans_timeout,
        ),
        timeout("nf_conntrack_tcp_timeout_syn_recv", "seconds; after SYN and ACK", |all| {
            tcp(all, TcpState::SynRecv)
        }),
        timeout("nf_conntrack_tcp_timeout_syn_sent", "seconds; after SYN", |all| syn_sent(all)),
        timeout("nf_conntrack_tcp_timeout_time_wait", "seconds; both FINs are acknowledged", |all| {
            tcp(all, TcpState::TimeWait)
        }),
        timeout(
            "nf_conntrack_tcp_timeout_unacknowledged",
            "seconds; at most so long while data is not acknowledged",
            |all| &mut all.conntrack.tcp_unacknowledged,
        ),
        timeout("nf_conntrack_udp_timeout", "seconds; a question and its answers", |all| {
            &mut all.conntrack.udp
        }),
        timeout(
            "nf_conntrack_udp_timeout_stream",
            "seconds; packets of both directions for two seconds",
            |all| &mut all.conntrack.udp_stream,
        ),
    ];

    /// As [`Sysctls::FIXED`].
    pub const FIXED: &[Fixed] = &[
        fixed("nf_conntrack_checksum", 0, "no checksum of a packet that goes through is looked at"),
        fixed("nf_conntrack_events", 2, "events are there for as long as somebody reads them"),
        fixed(
            "nf_conntrack_helper",
            0,
            "no port has a helper by itself: a rule `-t raw -j CT --helper` says who has",
        ),
        fixed(
            "nf_conntrack_log_invalid",
            0,
            "a LOG rule with `-m conntrack --ctstate INVALID` tells of what is invalid",
        ),
        fixed("nf_conntrack_timestamp", 0, "no times of beginning and end are kept"),
    ];

    /// Those of the kernel's that have nothing to switch here and no value that is always so, and why.
    pub const REFUSED: &[(&str, &str)] = &[
        ("nf_conntrack_buckets", "the index has the size of the flow table: max_connections of [dataplane]"),
        ("nf_conntrack_count", "`conntrack -C` counts"),
    ];
}

fn tcp(all: &mut Sysctls, state: TcpState) -> &mut u32 {
    &mut all.conntrack.tcp[state as usize]
}

fn syn_sent(all: &mut Sysctls) -> &mut u32 {
    tcp(all, TcpState::SynSent)
}

fn sctp(all: &mut Sysctls, state: SctpState) -> &mut u32 {
    &mut all.conntrack.sctp[state as usize]
}

impl Default for Settings {
    /// The kernel's.
    fn default() -> Settings {
        Settings {
            acct: 0,
            expect_max: 1024,
            max: 0,
            tcp_be_liberal: 0,
            tcp_ignore_invalid_rst: 0,
            tcp_loose: 1,
            tcp_max_retrans: 3,
            tcp: [120, 120, 60, 432_000, 120, 60, 30, 120, 10, 120],
            tcp_max_retrans_timeout: 300,
            tcp_unacknowledged: 300,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            icmpv6: 30,
            sctp: [10, 10, 3, 3, 210, 3, 3, 3, 30],
            gre: 30,
            gre_stream: 180,
            generic: 600,
        }
    }
}
