use proptest::prelude::*;

use super::*;
use crate::conntrack::{self, CtState, Facts, Step};
use crate::time::Tick;
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN, URG};

const ORIGINAL: Direction = Direction::Original;
const REPLY: Direction = Direction::Reply;
/// Window scale 7, SACK permitted.
const OFFER: &[u8] = &[2, 4, 5, 180, 4, 2, 1, 3, 3, 7];

fn segment(flags: u8, seq: u32, ack: u32, len: u32) -> Segment<'static> {
    let options = if flags & SYN != 0 { OFFER } else { &[] };
    Segment { seq, ack, window: 512, flags, len, is_fragment: false, options }
}

/// A connection, and what it is tracked with.
struct Connection {
    tracked: Tracked,
    state: u8,
    left: Timeout,
    settings: Settings,
}

impl Connection {
    fn begin_with(segment: Segment<'_>, settings: Settings) -> Result<Connection, Invalid> {
        let (tracked, step) = conntrack::begin(&Facts::Tcp(segment), Tick(0), &settings)?;
        let left = step.timeout.expect("it has a time to live");
        Ok(Connection { tracked, state: step.state, left, settings })
    }

    fn begin(segment: Segment<'_>) -> Connection {
        Connection::begin_with(segment, Settings::default()).expect("it begins")
    }

    /// Client's numbers from 1001 on, server's from 5001.
    fn established() -> Connection {
        let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
        connection.pass(REPLY, segment(SYN | ACK, 5000, 1001, 0));
        connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 0));
        assert_eq!(connection.name(), "ESTABLISHED");
        connection
    }

    fn pass(&mut self, direction: Direction, segment: Segment<'_>) -> Step {
        let facts = Facts::Tcp(segment);
        let (tracked, left) = (&mut self.tracked, self.left);
        let step = conntrack::advance(tracked, self.state, direction, &facts, left, Tick(0), &self.settings);
        self.state = step.state;
        self.left = step.timeout.unwrap_or(self.left);
        step
    }

    fn name(&self) -> &'static str {
        TcpState::from_u8(self.state).name()
    }

    /// Passes a segment; the state and the seconds then, or why it is invalid.
    fn says(&mut self, direction: Direction, segment: Segment<'_>) -> Result<(&'static str, u32), Invalid> {
        match self.pass(direction, segment).verdict {
            Verdict::Invalid(why) => Err(why),
            _ => Ok((self.name(), self.left.as_secs())),
        }
    }
}

#[test]
fn a_life_closed_by_the_client() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    assert_eq!((connection.name(), connection.left.as_secs()), ("SYN_SENT", 120));
    for (direction, segment, state, seconds, is) in [
        (REPLY, segment(SYN | ACK, 5000, 1001, 0), "SYN_RECV", 60, CtState::Established),
        (ORIGINAL, segment(ACK, 1001, 5001, 0), "ESTABLISHED", 432_000, CtState::Established),
        (ORIGINAL, segment(ACK | PSH, 1001, 5001, 100), "ESTABLISHED", 300, CtState::Established),
        (REPLY, segment(ACK, 5001, 1101, 0), "ESTABLISHED", 432_000, CtState::Established),
        (ORIGINAL, segment(FIN | ACK, 1101, 5001, 0), "FIN_WAIT", 120, CtState::Established),
        (REPLY, segment(ACK, 5001, 1102, 0), "CLOSE_WAIT", 60, CtState::Established),
        (REPLY, segment(FIN | ACK, 5001, 1102, 0), "LAST_ACK", 30, CtState::Established),
        (ORIGINAL, segment(ACK, 1102, 5002, 0), "TIME_WAIT", 120, CtState::Established),
    ] {
        let step = connection.pass(direction, segment);
        assert_eq!(
            (step.verdict, connection.name(), connection.left.as_secs()),
            (Verdict::Fine, state, seconds)
        );
        assert_eq!(step.is, is);
    }
    assert!(connection.tracked.status.has(Status::ASSURED));
    let protocol = crate::tables::Protocol::TCP;
    assert!(conntrack::may_be_dropped_early(protocol, connection.state, connection.tracked.status));
    let step = connection.pass(ORIGINAL, segment(SYN, 90_000, 0, 0));
    assert_eq!((step.verdict, step.timeout), (Verdict::Reopens, None), "the port is used again");
}

#[test]
fn a_connection_is_assured_by_the_handshakes_end() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    connection.pass(REPLY, segment(SYN | ACK, 5000, 1001, 0));
    assert!(!connection.tracked.status.has(Status::ASSURED));
    assert!(connection.tracked.status.has(Status::SEEN_REPLY));
    let step = connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 0));
    assert!(connection.tracked.status.has(Status::ASSURED) && step.is_changed);
    assert!(!connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 10)).is_changed);
}

#[test]
fn a_syn_again_prolongs_nothing_and_a_refusal_ends() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    assert_eq!(connection.pass(ORIGINAL, segment(SYN, 1000, 0, 0)).timeout, None);
    let step = connection.pass(REPLY, segment(RST | ACK, 0, 1001, 0));
    assert_eq!(step.verdict, Verdict::Ends);
}

#[test]
fn both_ends_may_open_at_once() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    assert_eq!(connection.says(REPLY, segment(SYN, 5000, 0, 0)), Ok(("SYN_SENT2", 120)));
    assert_eq!(connection.says(ORIGINAL, segment(SYN | ACK, 1000, 5001, 0)), Ok(("SYN_RECV", 60)));
    assert_eq!(connection.says(REPLY, segment(SYN | ACK, 5000, 1001, 0)), Ok(("SYN_RECV", 60)));
    assert_eq!(connection.says(REPLY, segment(ACK, 5001, 1001, 0)), Ok(("ESTABLISHED", 432_000)));
}

#[test]
fn flags_that_no_sender_sets_together_are_invalid() {
    let mut connection = Connection::established();
    for flags in [0, SYN | FIN, SYN | RST, FIN, RST | FIN, FIN | RST | ACK, SYN | FIN | ACK, URG, PSH, 0x3f] {
        assert_eq!(
            connection.says(ORIGINAL, segment(flags, 1001, 5001, 0)),
            Err(Invalid::Flags),
            "{flags:#x}"
        );
    }
    assert!(connection.says(ORIGINAL, segment(ACK | PSH | 0xc0, 1001, 5001, 1)).is_ok(), "ECE and CWR");
}

#[test]
fn what_cannot_come_in_a_state_is_invalid() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    for (direction, flags) in
        [(ORIGINAL, ACK), (ORIGINAL, FIN | ACK), (ORIGINAL, SYN | ACK), (REPLY, FIN | ACK)]
    {
        assert_eq!(connection.says(direction, segment(flags, 1001, 1, 0)), Err(Invalid::State));
    }
    let mut connection = Connection::established();
    assert_eq!(connection.says(REPLY, segment(SYN, 9, 0, 0)), Err(Invalid::State));
    for flags in [SYN | ACK, FIN | ACK, RST, RST | ACK] {
        let begun = Connection::begin_with(segment(flags, 1, 1, 0), Settings::default());
        assert_eq!(begun.err(), Some(Invalid::CannotBegin));
    }
}

#[test]
fn a_connection_is_taken_up_in_its_middle_where_that_is_allowed() {
    let strict = Settings { tcp_loose: 0, ..Settings::default() };
    assert_eq!(Connection::begin_with(segment(ACK, 1, 1, 5), strict).err(), Some(Invalid::CannotBegin));
    let mut connection = Connection::begin(segment(ACK, 1000, 5000, 10));
    assert_eq!((connection.name(), connection.left.as_secs()), ("ESTABLISHED", 300), "not for days");
    assert!(connection.says(REPLY, segment(ACK, 5000, 1010, 1000)).is_ok());
    assert!(!connection.tracked.status.has(Status::ASSURED));
    assert!(connection.says(ORIGINAL, segment(ACK, 1010, 6000, 0)).is_ok());
    assert!(connection.tracked.status.has(Status::ASSURED));
    // How its windows are scaled nobody knows.
    assert!(connection.says(REPLY, segment(ACK, 5_000_000, 1010, 0)).is_ok());
}

#[test]
fn the_four_bounds() {
    // Each end offered 512 without scale in its SYN, 512 << 7 since.
    let top = 5001 + (512 << 7);
    let case = |direction, segment| {
        let mut connection = Connection::established();
        connection.pass(REPLY, self::segment(ACK, 5001, 1001, 0));
        let before = connection.tracked;
        let verdict = connection.pass(direction, segment).verdict;
        (verdict, connection.tracked == before)
    };
    use Verdict::{Fine, Invalid as Bad};
    assert_eq!(case(REPLY, segment(ACK, top, 1001, 0)).0, Fine, "I. where the window ends");
    assert_eq!(case(REPLY, segment(ACK, top + 1, 1001, 0)), (Fine, false), "beyond by less than a window");
    let beyond = top + (512 << 7);
    assert_eq!(case(REPLY, segment(ACK, beyond, 1001, 0)), (Bad(Invalid::SequenceAbove), true));
    assert_eq!(case(REPLY, segment(ACK, 4000, 1001, 0)), (Fine, false), "II. sent again");
    assert_eq!(
        case(REPLY, segment(ACK, 5001u32.wrapping_sub((512 << 7) + 1), 1001, 0)),
        (Fine, true),
        "too old to matter"
    );
    assert_eq!(case(REPLY, segment(ACK, 5001, 1002, 0)), (Bad(Invalid::AcknowledgementAbove), true), "III.");
    let oldest = 1001u32.wrapping_sub(66_000);
    assert_eq!(case(REPLY, segment(ACK, 5001, oldest, 0)), (Fine, false), "IV.");
    assert_eq!(case(REPLY, segment(ACK, 5001, oldest.wrapping_sub(1), 0)), (Fine, true));
}

#[test]
fn liberal_lets_everything_pass_but_a_wrong_reset() {
    let mut connection = Connection::established();
    connection.settings.tcp_be_liberal = 1;
    assert!(connection.says(REPLY, segment(ACK, 9_000_000, 1001, 0)).is_ok());
    assert!(connection.says(REPLY, segment(ACK, 5001, 2_000_000, 0)).is_ok());
    assert_eq!(connection.says(REPLY, segment(RST, 4000, 0, 0)), Err(Invalid::Reset));
    connection.settings.tcp_ignore_invalid_rst = 1;
    assert!(connection.says(REPLY, segment(RST, 4000, 0, 0)).is_ok());
}

#[test]
fn windows_are_scaled_only_if_both_ends_offer_it() {
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    connection.pass(REPLY, Segment { options: &[], ..segment(SYN | ACK, 5000, 1001, 0) });
    connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 0));
    assert!(connection.says(REPLY, segment(ACK, 5001 + 512, 1001, 0)).is_ok());
    assert_eq!(connection.says(REPLY, segment(ACK, 5001 + 1024, 1001, 0)), Err(Invalid::SequenceAbove));
}

#[test]
fn selective_acknowledgements_move_the_window() {
    let mut connection = Connection::established();
    connection.pass(REPLY, segment(ACK, 5001, 1001, 0));
    connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 1000));
    connection.pass(ORIGINAL, segment(ACK, 2001, 5001, 1000));
    // 2001 to 3001 arrived, 1001 to 2001 did not.
    let blocks = [1, 1, 5, 10, 0, 0, 0x07, 0xd1, 0, 0, 0x0b, 0xb9];
    let sack = |ack| Segment { options: &blocks, ..segment(ACK, 5001, ack, 0) };
    assert!(connection.says(REPLY, sack(1001)).is_ok());
    // What is let is that much more, and so is the window that it may go beyond.
    let beyond = 3001 + (512 << 7) + (512 << 7) + 2000;
    assert_eq!(connection.says(ORIGINAL, segment(ACK, beyond, 5001, 0)), Err(Invalid::SequenceAbove));
    assert!(connection.says(ORIGINAL, segment(ACK, beyond - 1, 5001, 0)).is_ok());
    let mut unsent = blocks;
    unsent[11] += 1;
    let segment = Segment { options: &unsent, ..sack(1001) };
    let mut connection = Connection::established();
    assert_eq!(connection.says(REPLY, segment), Err(Invalid::AcknowledgementAbove));
}

#[test]
fn a_reset_ends_with_the_expected_number_alone() {
    let mut connection = Connection::established();
    connection.pass(REPLY, segment(ACK, 5001, 1001, 0));
    assert_eq!(
        connection.says(REPLY, segment(RST, 5000, 0, 0)),
        Err(Invalid::Reset),
        "RFC 5961: before the window"
    );
    let step = connection.pass(REPLY, segment(RST, 5100, 0, 0));
    assert_eq!(
        (step.verdict, connection.name()),
        (Verdict::Fine, "ESTABLISHED"),
        "within: it may be challenged"
    );
    assert_eq!(connection.left.as_secs(), 10);
    assert_eq!(
        connection.says(ORIGINAL, segment(ACK, 1001, 5001, 0)),
        Ok(("ESTABLISHED", 300)),
        "a challenge"
    );
    assert_eq!(connection.says(REPLY, segment(RST, 5001, 0, 0)), Ok(("CLOSE", 10)));
    assert_eq!(connection.pass(REPLY, segment(SYN, 1, 0, 0)).verdict, Verdict::Invalid(Invalid::State));
    assert_eq!(connection.pass(ORIGINAL, segment(ACK, 1001, 5001, 0)).verdict, Verdict::Fine);
}

#[test]
fn a_reset_behind_its_own_data_ends() {
    let mut connection = Connection::established();
    connection.pass(REPLY, segment(ACK, 5001, 1001, 100));
    assert_eq!(connection.says(REPLY, segment(RST, 5101, 0, 0)), Ok(("CLOSE", 10)));
}

#[test]
fn after_a_reset_the_same_end_may_begin_anew() {
    let mut connection = Connection::established();
    assert_eq!(connection.says(ORIGINAL, segment(RST, 1001, 0, 0)), Ok(("CLOSE", 10)));
    assert_eq!(connection.pass(ORIGINAL, segment(SYN, 77, 0, 0)).verdict, Verdict::Reopens);
}

#[test]
fn a_syn_of_a_dead_connection_is_believed_when_it_is_answered() {
    let mut connection = Connection::established();
    let step = connection.pass(ORIGINAL, segment(SYN, 900_000, 0, 0));
    assert_eq!((step.verdict, step.timeout, connection.name()), (Verdict::Fine, None, "ESTABLISHED"));
    assert_eq!(connection.says(REPLY, segment(SYN | ACK, 7, 900_001, 0)), Ok(("SYN_RECV", 60)));
    assert_eq!(connection.says(ORIGINAL, segment(ACK, 900_001, 8, 0)), Ok(("ESTABLISHED", 432_000)));
    assert_eq!(connection.says(ORIGINAL, segment(ACK, 1001, 5001, 0)), Err(Invalid::AcknowledgementAbove));
}

#[test]
fn a_challenge_is_no_acknowledgement_of_a_fin() {
    let mut connection = Connection::established();
    connection.pass(ORIGINAL, segment(FIN | ACK, 1001, 5001, 0));
    connection.pass(REPLY, segment(FIN | ACK, 5001, 1002, 0));
    assert_eq!(connection.name(), "LAST_ACK");
    connection.pass(ORIGINAL, segment(SYN, 900_000, 0, 0));
    let step = connection.pass(REPLY, segment(ACK, 5002, 1002, 0));
    assert_eq!((step.verdict, step.timeout, connection.name()), (Verdict::Fine, None, "LAST_ACK"));
    assert_eq!(connection.says(REPLY, segment(RST, 5002, 0, 0)), Ok(("CLOSE", 10)));
}

#[test]
fn a_half_open_server_is_believed_when_the_client_resets_it() {
    // The server still has the connection before, and answers the SYN with the ACK of that.
    let mut connection = Connection::begin(segment(SYN, 1000, 0, 0));
    let step = connection.pass(REPLY, segment(ACK, 70_000, 4711, 0));
    assert_eq!((step.verdict, connection.name()), (Verdict::Fine, "SYN_SENT"));
    assert_eq!(connection.says(ORIGINAL, segment(RST, 4711, 0, 0)), Ok(("CLOSE", 10)));
}

#[test]
fn what_comes_again_and_again_without_answer_rests_less() {
    let mut connection = Connection::established();
    connection.pass(REPLY, segment(ACK, 5001, 1001, 0));
    let again = segment(ACK, 5001, 1001, 0);
    let seconds: Vec<_> = (0..4).map(|_| connection.says(REPLY, again).map(|(_, seconds)| seconds)).collect();
    assert_eq!(seconds, [Ok(432_000), Ok(432_000), Ok(300), Ok(300)]);
    assert_eq!(connection.says(ORIGINAL, segment(ACK, 1001, 5001, 0)), Ok(("ESTABLISHED", 432_000)));
    let closed = Segment { window: 0, ..again };
    assert_eq!(connection.says(REPLY, closed), Ok(("ESTABLISHED", 300)), "a closed window");
}

#[test]
fn ends_that_close_out_of_step_do_not_rest_for_days() {
    let mut connection = Connection::established();
    connection.pass(REPLY, segment(ACK, 5001, 1001, 0));
    let fin = |seq, ack| segment(FIN | ACK, seq, ack, 0);
    assert_eq!(connection.pass(ORIGINAL, fin(9_000_000, 5001)).timeout, None);
    let step = connection.pass(REPLY, fin(9_000_000, 1001));
    assert_eq!((step.is, step.timeout), (CtState::Invalid, Some(Timeout::from_secs(300))));
    assert_eq!(connection.name(), "ESTABLISHED");
}

#[test]
fn a_fragmented_segment_ends_the_measuring() {
    let mut connection = Connection::established();
    let piece = Segment { is_fragment: true, ..segment(ACK, 5001, 1001, 8) };
    assert!(connection.says(REPLY, piece).is_ok());
    assert!(connection.says(ORIGINAL, segment(ACK, 1001, 6461, 0)).is_ok(), "the whole is acknowledged");
}

#[test]
fn options_end_where_they_make_no_sense() {
    for options in
        [&[][..], &[3], &[3, 3], &[3, 0], &[3, 1, 7], &[5, 200, 1], &[1; 40], &[0, 3, 3, 7], &[2, 255]]
    {
        let segment = Segment { options, ..segment(SYN, 1, 1, 0) };
        assert_eq!((segment.offer().scale(), segment.offer().flags()), (0, 0), "{options:?}");
        assert_eq!(segment.highest_arrived(9), 9);
    }
    let large = Segment { options: &[3, 3, 200], ..segment(SYN, 1, 1, 0) };
    assert_eq!(large.offer().scale(), 14);
}

/// An end of a connection, as simple as it can be: it remembers each byte's number that arrived.
struct End {
    /// Its next number, and the oldest that is not acknowledged.
    next: u32,
    unacknowledged: u32,
    /// Behind what it may send.
    limit: u32,
    arrived: u32,
    later: Vec<(u32, u32)>,
    /// Bytes that it can keep.
    room: u32,
    has_closed: bool,
    fin: Option<u32>,
}

const SHIFT: u8 = 2;

impl End {
    fn new(next: u32, peer: u32) -> End {
        let room = 20_000;
        End {
            next,
            unacknowledged: next,
            limit: next.wrapping_add(512),
            arrived: peer,
            later: Vec::new(),
            room,
            has_closed: false,
            fin: None,
        }
    }

    fn say(&self, flags: u8, seq: u32, len: u32, options: &mut Vec<u8>) -> Segment<'static> {
        options.clear();
        if let Some((from, to)) = self.later.iter().max_by_key(|(_, to)| to.wrapping_sub(self.arrived)) {
            options.extend([1, 1, 5, 10]);
            options.extend(from.to_be_bytes());
            options.extend(to.to_be_bytes());
        }
        let window = (self.room >> SHIFT) as u16;
        Segment { seq, ack: self.arrived, window, flags: flags | ACK, len, is_fragment: false, options: &[] }
    }

    fn hear(&mut self, flags: u8, seq: u32, ack: u32, window: u16, end: u32) {
        let _ = (flags, seq);
        if !window::is_before(self.next, ack) && window::is_before(self.unacknowledged, ack) {
            self.unacknowledged = ack;
        }
        let limit = ack.wrapping_add(u32::from(window) << SHIFT);
        if window::is_before(self.limit, limit) {
            self.limit = limit;
        }
        if window::is_before(self.arrived, end) {
            self.later.push((seq, end));
        }
        while let Some(at) = self.later.iter().position(|&(from, _)| !window::is_before(self.arrived, from)) {
            let (_, to) = self.later.remove(at);
            if window::is_before(self.arrived, to) {
                self.arrived = to;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// New data of so many bytes, as far as it may.
    Send(usize, u32),
    Repeat(usize, u32),
    Acknowledge(usize),
    Close(usize),
    /// The packet at this place on the way to the middle: lost, sent on, or sent on and kept as well.
    Middle(usize, u8),
    Arrive(usize, bool),
    /// What no end sends.
    Forge(usize, u32, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..2usize, 1..3000u32).prop_map(|(end, len)| Act::Send(end, len)),
        1 => (0..2usize, 1..3000u32).prop_map(|(end, len)| Act::Repeat(end, len)),
        2 => (0..2usize).prop_map(Act::Acknowledge),
        1 => (0..2usize).prop_map(Act::Close),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(at, fate)| Act::Middle(at, fate)),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(at, is_kept)| Act::Arrive(at, is_kept)),
        1 => (0..2usize, 1..1_000_000u32, any::<bool>()).prop_map(|(end, far, seq)| Act::Forge(end, far, seq)),
    ]
}

type OnTheWay = (usize, Segment<'static>, Vec<u8>);

proptest! {
    /// Two ends, of which each acts on what came to it alone; packets are lost, doubled and overtake each other on both sides of
    /// the middle. They send less than [`window`]'s oldest acknowledgement is old.
    #[test]
    fn no_packet_of_sane_ends_is_invalid_and_those_far_off_are(
        beginnings in any::<(u32, u32)>(),
        acts in prop::collection::vec(act(), 1..300),
    ) {
        let (client, server) = beginnings;
        let options: &[u8] = &[4, 2, 3, 3, SHIFT];
        let syn = |flags, seq, ack| Segment { options, ..segment(flags, seq, ack, 0) };
        let mut connection = Connection::begin(syn(SYN, client.wrapping_sub(1), 0));
        connection.pass(REPLY, syn(SYN | ACK, server.wrapping_sub(1), client));
        connection.pass(ORIGINAL, Segment { window: 128, ..segment(ACK, client, server, 0) });
        prop_assert_eq!(connection.name(), "ESTABLISHED");
        let mut ends = [End::new(client, server), End::new(server, client)];
        let mut before: Vec<OnTheWay> = Vec::new();
        let mut behind: Vec<OnTheWay> = Vec::new();
        let directions = [ORIGINAL, REPLY];
        for act in acts {
            let mut options = Vec::new();
            match act {
                Act::Send(at, len) => {
                    let end = &mut ends[at];
                    let sent = end.next.wrapping_sub(beginnings_of(beginnings, at));
                    let len = len.min(end.limit.wrapping_sub(end.next)).min(60_000 - sent.min(60_000));
                    if !end.has_closed && len > 0 && window::is_before(end.next, end.limit) {
                        let segment = end.say(PSH, end.next, len, &mut options);
                        end.next = end.next.wrapping_add(len);
                        before.push((at, segment, options));
                    }
                }
                Act::Repeat(at, len) => {
                    let end = &ends[at];
                    let waiting = end.next.wrapping_sub(end.unacknowledged);
                    if waiting > 0 && end.fin.is_none() {
                        let len = len.min(waiting);
                        before.push((at, end.say(0, end.unacknowledged, len, &mut options), options));
                    } else if let Some(fin) = end.fin.filter(|_| waiting > 0) {
                        before.push((at, end.say(FIN, fin, 0, &mut options), options));
                    }
                }
                Act::Acknowledge(at) => {
                    let end = &ends[at];
                    before.push((at, end.say(0, end.next, 0, &mut options), options));
                }
                Act::Close(at) => {
                    let end = &mut ends[at];
                    if !end.has_closed && window::is_before(end.next, end.limit) {
                        end.has_closed = true;
                        end.fin = Some(end.next);
                        let segment = end.say(FIN, end.next, 0, &mut options);
                        end.next = end.next.wrapping_add(1);
                        before.push((at, segment, options));
                    }
                }
                Act::Middle(at, fate) if !before.is_empty() => {
                    let at = at % before.len();
                    let (from, segment, options) =
                        if fate % 8 == 1 { before[at].clone() } else { before.swap_remove(at) };
                    if fate % 8 != 0 {
                        let seen = Segment { options: &options, ..segment };
                        let step = connection.pass(directions[from], seen);
                        prop_assert_eq!(step.verdict, Verdict::Fine, "{} {:?}", from, seen);
                        behind.push((from, segment, options));
                    }
                }
                Act::Arrive(at, is_kept) if !behind.is_empty() => {
                    let at = at % behind.len();
                    let (from, segment, _) =
                        if is_kept { behind[at].clone() } else { behind.swap_remove(at) };
                    ends[1 - from].hear(segment.flags, segment.seq, segment.ack, segment.window, segment.end());
                }
                Act::Forge(at, far, is_seq) => {
                    let end = &ends[at];
                    let was = connection.tracked;
                    let mut segment = end.say(PSH, end.next, 1, &mut options);
                    let far = 200_000 + far;
                    if is_seq {
                        segment.seq = segment.seq.wrapping_add(far);
                    } else {
                        segment.ack = ends[1 - at].next.wrapping_add(far);
                    }
                    let step = connection.pass(directions[at], segment);
                    prop_assert!(matches!(step.verdict, Verdict::Invalid(_)), "{:?}", segment);
                    prop_assert_eq!(connection.tracked, was);
                }
                Act::Middle(..) | Act::Arrive(..) => {}
            }
        }
    }

    #[test]
    fn nothing_that_memory_or_a_header_can_hold_panics(
        private in any::<[u32; 14]>(),
        status in any::<u16>(),
        state in any::<u8>(),
        packets in prop::collection::vec(
            (any::<bool>(), any::<(u32, u32, u16, u8, u16)>(), prop::collection::vec(any::<u8>(), 0..40)),
            1..20,
        ),
    ) {
        let mut tracked = Tracked { private, status: Status(status), ..Tracked::default() };
        let (mut state, settings) = (state, Settings::default());
        for (is_reply, (seq, ack, window, flags, len), options) in packets {
            let segment = Segment {
                seq, ack, window, flags, len: len.into(), is_fragment: false, options: &options,
            };
            let direction = if is_reply { REPLY } else { ORIGINAL };
            let step = advance(&mut tracked, state, direction, &segment, Timeout(0), &settings);
            prop_assert!(usize::from(step.state) < 10 || step.state == state);
            state = step.state;
        }
    }
}

fn beginnings_of((client, server): (u32, u32), at: usize) -> u32 {
    if at == 0 { client } else { server }
}
