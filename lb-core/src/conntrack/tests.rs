use super::*;
use crate::tables::Sysctls;
use crate::wire::testing;

const ORIGINAL: Direction = Direction::Original;
const REPLY: Direction = Direction::Reply;

fn settings() -> Settings {
    Settings::default()
}

/// A connection that time passes for.
struct Connection {
    tracked: Tracked,
    state: u8,
    now: Tick,
    settings: Settings,
}

impl Connection {
    fn begin(facts: &Facts<'_>) -> Result<(Connection, Step), Invalid> {
        let now = Tick(u32::MAX - 50);
        let (tracked, step) = begin(facts, now, &settings())?;
        Ok((Connection { tracked, state: step.state, now, settings: settings() }, step))
    }

    fn pass(&mut self, direction: Direction, facts: &Facts<'_>) -> Step {
        let left = Timeout::from_secs(1000);
        let step = advance(&mut self.tracked, self.state, direction, facts, left, self.now, &self.settings);
        self.state = step.state;
        step
    }

    fn wait(&mut self, seconds: u32) {
        self.now = self.now.after(Timeout::from_secs(seconds));
    }
}

fn seconds(step: Step) -> Option<u32> {
    step.timeout.map(Timeout::as_secs)
}

#[test]
fn udp_is_a_stream_after_two_seconds_both_ways() {
    let (mut udp, step) = Connection::begin(&Facts::Udp).unwrap();
    assert_eq!((step.is, seconds(step), step.is_changed), (CtState::New, Some(30), true));
    assert_eq!(udp.pass(ORIGINAL, &Facts::Udp).is, CtState::New);
    let step = udp.pass(REPLY, &Facts::Udp);
    assert_eq!((step.is, seconds(step), step.is_changed), (CtState::Established, Some(30), true));
    udp.wait(2);
    let step = udp.pass(ORIGINAL, &Facts::Udp);
    assert_eq!((step.is, seconds(step), step.is_changed), (CtState::Established, Some(30), false));
    assert!(!udp.tracked.status.has(Status::ASSURED));
    udp.wait(1);
    let step = udp.pass(REPLY, &Facts::Udp);
    assert_eq!((seconds(step), step.is_changed), (Some(120), true));
    assert!(udp.tracked.status.has(Status::ASSURED));
    assert!(!may_be_dropped_early(Protocol::UDP, 0, udp.tracked.status));
}

#[test]
fn udp_without_an_answer_is_new_however_long_it_goes_on() {
    let (mut udp, _) = Connection::begin(&Facts::Udp).unwrap();
    for _ in 0..10 {
        udp.wait(20);
        let step = udp.pass(ORIGINAL, &Facts::Udp);
        assert_eq!((step.is, seconds(step), step.is_changed), (CtState::New, Some(30), false));
    }
    assert!(may_be_dropped_early(Protocol::UDP, 0, udp.tracked.status));
}

#[test]
fn an_expected_connection_is_related_until_it_is_answered() {
    let (mut udp, _) = Connection::begin(&Facts::Udp).unwrap();
    udp.tracked.status.set(Status::EXPECTED);
    assert_eq!(udp.pass(ORIGINAL, &Facts::Udp).is, CtState::Related);
    assert_eq!(udp.pass(REPLY, &Facts::Udp).is, CtState::Established);
    assert_eq!(udp.pass(ORIGINAL, &Facts::Udp).is, CtState::Established);
}

#[test]
fn no_packet_prolongs_a_connection_of_fixed_timeout() {
    let (mut udp, _) = Connection::begin(&Facts::Udp).unwrap();
    udp.tracked.status.set(Status::FIXED_TIMEOUT);
    assert_eq!(udp.pass(REPLY, &Facts::Udp).timeout, None);
}

#[test]
fn gre_and_others_rest_as_long_as_in_the_kernel() {
    let (mut gre, step) = Connection::begin(&Facts::Gre).unwrap();
    assert_eq!(seconds(step), Some(30));
    gre.pass(REPLY, &Facts::Gre);
    assert_eq!(seconds(gre.pass(ORIGINAL, &Facts::Gre)), Some(180));
    assert!(gre.tracked.status.has(Status::ASSURED));
    let (mut other, step) = Connection::begin(&Facts::Other).unwrap();
    assert_eq!((step.is, seconds(step)), (CtState::New, Some(600)));
    assert_eq!(other.pass(REPLY, &Facts::Other).is, CtState::Established);
}

/// The facts of an ICMP or ICMPv6 message of this type.
fn icmp(is_ipv6: bool, kind: u8) -> Result<icmp::Message, Invalid> {
    let frame = [&[0; 34][..], &[kind, 3, 0, 0, 0x12, 0x34, 0, 1]].concat();
    let headers = Headers { l4: 34, ip_len: 28, is_ipv6, icmp_type: kind, ..Headers::NONE };
    icmp::Message::read(&frame, &headers)
}

#[test]
fn icmp_questions_begin_connections_and_answers_are_theirs() {
    let pairs = [
        (false, 8, 0),
        (false, 13, 14),
        (false, 15, 16),
        (false, 17, 18),
        (true, 128, 129),
        (true, 139, 140),
    ];
    for (is_ipv6, question, answer) in pairs {
        let (ask, reply) = (icmp(is_ipv6, question).unwrap(), icmp(is_ipv6, answer).unwrap());
        assert_eq!(ask.ports, (0x1234, u16::from(question) << 8 | 3));
        assert_eq!(reply.ports, (ask.ports.1, ask.ports.0), "the tuple reversed");
        assert_eq!(icmp::kind(is_ipv6, ask.ports.1, ORIGINAL), (question, 3));
        assert_eq!(icmp::kind(is_ipv6, ask.ports.1, REPLY), (answer, 3));
        let (mut connection, step) = Connection::begin(&Facts::Icmp(ask)).unwrap();
        assert_eq!((step.is, seconds(step)), (CtState::New, Some(30)));
        let step = connection.pass(REPLY, &Facts::Icmp(reply));
        assert_eq!((step.is, step.verdict), (CtState::Established, Verdict::Fine));
        let step = connection.pass(REPLY, &Facts::Icmp(ask));
        assert_eq!((step.is, step.timeout), (CtState::Invalid, None));
        assert_eq!(Connection::begin(&Facts::Icmp(reply)).err(), Some(Invalid::CannotBegin));
    }
    for (is_ipv6, kind) in [(false, 3), (false, 128), (true, 8), (true, 1), (true, 135)] {
        assert_eq!(icmp(is_ipv6, kind), Err(Invalid::CannotBegin), "type {kind}");
    }
}

/// An SCTP packet: its tag, and chunks as type, flags and value.
fn sctp_packet(tag: u32, chunks: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0; 34];
    frame.extend([0, 1, 0, 2]);
    frame.extend(tag.to_be_bytes());
    frame.extend([0; 4]);
    for (kind, flags, value) in chunks {
        let len = 4 + value.len();
        assert!(len.is_multiple_of(4));
        frame.extend([*kind, *flags, (len >> 8) as u8, len as u8]);
        frame.extend(*value);
    }
    frame
}

fn read_sctp(frame: &[u8]) -> Result<sctp::Chunks<'_>, Invalid> {
    let headers = Headers {
        l3: 14,
        l4: 34,
        ip_len: frame.len() as u32 - 14,
        protocol: Protocol::SCTP,
        ..Headers::NONE
    };
    sctp::Chunks::read(frame, &headers)
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const CLIENT: u32 = 0xc11e;
const SERVER: u32 = 0x5e4e;

/// A packet of one chunk, and the state then.
type Said<'a> = (Direction, u32, (u8, u8, &'a [u8]), Result<&'a str, Invalid>);

fn association(steps: &[Said<'_>]) {
    let mut connection: Option<Connection> = None;
    for &(direction, tag, chunk, expected) in steps {
        let frame = sctp_packet(tag, &[chunk]);
        let chunks = read_sctp(&frame).unwrap();
        let step = match &mut connection {
            None => match Connection::begin(&Facts::Sctp(chunks)) {
                Ok((begun, step)) => {
                    connection = Some(begun);
                    step
                }
                Err(why) => {
                    assert_eq!(Err(why), expected, "chunk {}", chunk.0);
                    continue;
                }
            },
            Some(connection) => connection.pass(direction, &Facts::Sctp(chunks)),
        };
        let found = match step.verdict {
            Verdict::Invalid(why) => Err(why),
            _ => Ok(name(Protocol::SCTP, step.state).unwrap()),
        };
        assert_eq!(found, expected, "chunk {}", chunk.0);
    }
}

#[test]
fn an_association_lives_by_its_chunks_and_tags() {
    let (client, server) = (CLIENT.to_be_bytes(), SERVER.to_be_bytes());
    association(&[
        (ORIGINAL, 7, (INIT, 0, &client), Err(Invalid::Tag)),
        (ORIGINAL, 7, (COOKIE_ACK, 0, &[]), Err(Invalid::CannotBegin)),
        (ORIGINAL, 7, (0, 0, &[]), Err(Invalid::CannotBegin)),
        (ORIGINAL, 0, (INIT, 0, &client), Ok("CLOSED")),
        (ORIGINAL, 0, (INIT, 0, &client), Ok("CLOSED")),
        (REPLY, CLIENT, (INIT_ACK, 0, &server), Ok("COOKIE_WAIT")),
        (ORIGINAL, CLIENT, (COOKIE_ECHO, 0, &[]), Err(Invalid::Tag)),
        (ORIGINAL, SERVER, (COOKIE_ECHO, 0, &[]), Ok("COOKIE_ECHOED")),
        (REPLY, CLIENT, (COOKIE_ACK, 0, &[]), Ok("ESTABLISHED")),
        (ORIGINAL, SERVER, (0, 0, &[]), Ok("ESTABLISHED")),
        (ORIGINAL, 7, (0, 0, &[]), Err(Invalid::Tag)),
        (REPLY, SERVER, (ABORT, 0, &[]), Err(Invalid::Tag)),
        (ORIGINAL, SERVER, (SHUTDOWN, 0, &[]), Ok("SHUTDOWN_SENT")),
        (REPLY, CLIENT, (SHUTDOWN_ACK, 0, &[]), Ok("SHUTDOWN_ACK_SENT")),
        (ORIGINAL, SERVER, (SHUTDOWN_COMPLETE, 0, &[]), Ok("CLOSED")),
    ]);
    // With the T bit the tag is the other end's.
    association(&[
        (ORIGINAL, 0, (INIT, 0, &client), Ok("CLOSED")),
        (REPLY, CLIENT, (ABORT, 0, &[]), Ok("CLOSED")),
        (REPLY, SERVER, (ABORT, 1, &[]), Err(Invalid::Tag)),
    ]);
    association(&[
        (ORIGINAL, SERVER, (HEARTBEAT, 0, &[]), Ok("HEARTBEAT_SENT")),
        (REPLY, 0, (0, 0, &[]), Ok("HEARTBEAT_SENT")),
        (REPLY, CLIENT, (SHUTDOWN, 0, &[]), Err(Invalid::Tag)),
        (REPLY, CLIENT, (HEARTBEAT_ACK, 0, &[]), Ok("ESTABLISHED")),
        (ORIGINAL, 7, (HEARTBEAT, 0, &[]), Ok("ESTABLISHED")),
        (REPLY, 8, (HEARTBEAT_ACK, 0, &[]), Ok("ESTABLISHED")),
        (REPLY, CLIENT, (0, 0, &[]), Err(Invalid::Tag)),
        (REPLY, 8, (0, 0, &[]), Ok("ESTABLISHED")),
    ]);
}

#[test]
fn chunks_that_go_alone_do_not_stand_among_others() {
    let both = |a: u8, b: u8| read_sctp(&sctp_packet(0, &[(a, 0, &[0; 4]), (b, 0, &[0; 4])])).map(|_| ());
    for (a, b) in [(INIT, 0), (0, INIT), (0, COOKIE_ECHO), (INIT_ACK, INIT_ACK), (0, SHUTDOWN_COMPLETE)] {
        assert_eq!(both(a, b), Err(Invalid::Malformed), "{a} and {b}");
    }
    assert_eq!(both(COOKIE_ECHO, 0), Ok(()));
    assert_eq!(read_sctp(&sctp_packet(0, &[])), Err(Invalid::Malformed));
    let mut zero = sctp_packet(0, &[(0, 0, &[])]);
    zero[34 + 12 + 3] = 0;
    assert_eq!(read_sctp(&zero), Err(Invalid::Malformed), "a chunk of no length");
}

#[test]
fn facts_are_read_from_what_is_on_the_wire() {
    let frame = testing::frame(testing::v4(), testing::tcp(), 10);
    let headers = testing::headers(&frame);
    let Ok(Facts::Tcp(segment)) = Facts::read(&frame, &headers) else { panic!("TCP") };
    assert_eq!(segment.flags, headers.tcp_flags);
    let later = Headers { fragment: Fragment::Later, ..headers };
    assert_eq!(Facts::read(&frame, &later), Err(Invalid::Malformed));
    for cut in 0..frame.len() {
        let _ = Facts::read(&frame[..cut], &headers);
    }
}

#[test]
fn the_defaults_are_those_that_a_kernel_shows() {
    // Of Linux 6.18, `sysctl net.netfilter`.
    let shown = [
        ("nf_conntrack_acct", 0),
        // As a kernel with 256 buckets of expectations.
        ("nf_conntrack_expect_max", 1024),
        ("nf_conntrack_generic_timeout", 600),
        ("nf_conntrack_gre_timeout", 30),
        ("nf_conntrack_gre_timeout_stream", 180),
        ("nf_conntrack_icmp_timeout", 30),
        ("nf_conntrack_icmpv6_timeout", 30),
        // Different: as many as the table has places for.
        ("nf_conntrack_max", 0),
        ("nf_conntrack_sctp_timeout_closed", 10),
        ("nf_conntrack_sctp_timeout_cookie_echoed", 3),
        ("nf_conntrack_sctp_timeout_cookie_wait", 3),
        ("nf_conntrack_sctp_timeout_established", 210),
        ("nf_conntrack_sctp_timeout_heartbeat_sent", 30),
        ("nf_conntrack_sctp_timeout_shutdown_ack_sent", 3),
        ("nf_conntrack_sctp_timeout_shutdown_recd", 3),
        ("nf_conntrack_sctp_timeout_shutdown_sent", 3),
        ("nf_conntrack_tcp_be_liberal", 0),
        ("nf_conntrack_tcp_ignore_invalid_rst", 0),
        ("nf_conntrack_tcp_loose", 1),
        ("nf_conntrack_tcp_max_retrans", 3),
        ("nf_conntrack_tcp_timeout_close", 10),
        ("nf_conntrack_tcp_timeout_close_wait", 60),
        ("nf_conntrack_tcp_timeout_established", 432_000),
        ("nf_conntrack_tcp_timeout_fin_wait", 120),
        ("nf_conntrack_tcp_timeout_last_ack", 30),
        ("nf_conntrack_tcp_timeout_max_retrans", 300),
        ("nf_conntrack_tcp_timeout_syn_recv", 60),
        ("nf_conntrack_tcp_timeout_syn_sent", 120),
        ("nf_conntrack_tcp_timeout_time_wait", 120),
        ("nf_conntrack_tcp_timeout_unacknowledged", 300),
        ("nf_conntrack_udp_timeout", 30),
        ("nf_conntrack_udp_timeout_stream", 120),
    ];
    let mut all = Sysctls { conntrack: settings(), ..Sysctls::default() };
    let ours: Vec<_> =
        Settings::TABLE.iter().map(|sysctl| (sysctl.name, *(sysctl.value)(&mut all))).collect();
    assert_eq!(ours, shown);
    for sysctl in Settings::TABLE {
        *(sysctl.value)(&mut all) = u32::MAX;
    }
    let changed = Settings::TABLE.iter().filter(|sysctl| *(sysctl.value)(&mut all) == u32::MAX).count();
    assert_eq!(changed, shown.len(), "each is another value");
}

#[test]
fn any_byte_is_a_state() {
    for value in 0..=255 {
        for protocol in [Protocol::TCP, Protocol::SCTP] {
            assert!(name(protocol, value).is_some());
        }
        assert_eq!(name(Protocol::UDP, value), None);
    }
    assert_eq!(size_of::<Tracked>(), 64);
    let names: Vec<_> = CtState::ALL.iter().map(|state| state.name()).collect();
    assert_eq!(names, ["INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"]);
}
