//! What is said of a client is said by us: by a PROXY header before its stream, by an option of TCP. Which of its segments could stand in the place of
//! these, so that they go no further, or not as they came?
//!
//! The header is for the number that the real server waits for, which its own answer to the client's SYN says: a client may have sent several. Until the
//! real server acknowledges the header, nothing of the client's goes on that covers that number, or that acknowledges what the real server has not
//! said: a server that keeps nothing of a SYN (RFC 4987 §3.6, cookies) could take it for the end of another handshake. A segment whose TCP header is in two
//! fragments (RFC 1858) cannot be looked at.

use super::edited::TOA_KIND;
use crate::drop::DropReason;
use crate::flow::Direction;
use crate::flow::edit::{Edit, PROXY, TOA, is_less};
use crate::packet::Packet;
use crate::tables::Protocol;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::segment::{self, Segment};
use crate::wire::tcp::{ACK, FIN, RST, SYN};

/// Of one segment.
const MOST_DATA: usize = u16::MAX as usize;

/// The segment that a packet has, `None`: nothing of its header.
///
/// # Errors
/// `EditInPart`: the header does not end in this fragment.
pub(super) fn segment_of(frame: &[u8], headers: &Headers) -> Result<Option<Segment>, DropReason> {
    match Segment::of(frame, headers) {
        None if headers.protocol == Protocol::TCP && headers.fragment == Fragment::First => {
            Err(DropReason::EditInPart)
        }
        segment => Ok(segment),
    }
}

/// A client's segment comes, of a connection to a virtual service: whether it may go on.
///
/// # Errors
/// `EditInPart`: it covers the place of the header. `EditUnacknowledged`: it comes too early. `BadCookie`: it would open another connection than the one whose
/// cookie was acknowledged.
pub(super) fn check_client(edit: &Edit, headers: &Headers, segment: &Segment) -> Result<(), DropReason> {
    let clients = edit.shift(Direction::Original);
    let flags = headers.tcp_flags;
    if flags & SYN != 0 {
        return check_syn(edit, headers, segment);
    }
    if edit.wants & PROXY == 0 || clients.is_acked() || flags & RST != 0 {
        return Ok(());
    }
    let behind = end_of(segment, flags);
    let may_cover = headers.fragment != Fragment::None || is_less(clients.at(), behind);
    if edit.has_begun() && is_less(segment.seq, clients.at()) && may_cover {
        return Err(DropReason::EditInPart);
    }
    let is_asked = flags & ACK != 0 && edit.shift(Direction::Reply).may_be_acked(segment.ack);
    if edit.has_begun() && (edit.is_proxied() || is_asked) {
        return Ok(());
    }
    Err(DropReason::EditUnacknowledged)
}

fn check_syn(edit: &Edit, headers: &Headers, segment: &Segment) -> Result<(), DropReason> {
    let clients = edit.shift(Direction::Original);
    let is_settled = edit.is_open() && (clients.put() == 0 || clients.is_acked());
    if edit.is_proxied() && !is_settled && segment.seq.wrapping_add(1) != clients.at() {
        return Err(DropReason::BadCookie);
    }
    // What follows on it may be data, which is cut off.
    if edit.wants & PROXY != 0 && headers.fragment != Fragment::None {
        return Err(DropReason::EditInPart);
    }
    Ok(())
}

/// A client's SYN, which [may go on](check_client), leads to `SYN_RECV`. `put` bytes will come before its data.
pub(super) fn note_syn(edit: &mut Edit, segment: &Segment, put: u8) {
    let (start, clients) = (segment.seq.wrapping_add(1), edit.shift(Direction::Original));
    if edit.is_proxied() {
        if !edit.is_open() {
            edit.begin(start, put);
        }
    } else if !edit.has_begun() || clients.at() != start || clients.is_acked() {
        edit.forget();
    }
}

/// A real server's segment comes. `put` bytes come before the client's data.
pub(super) fn note_server(edit: &mut Edit, headers: &Headers, segment: &Segment, put: impl FnOnce() -> u8) {
    let flags = headers.tcp_flags & (SYN | ACK | RST);
    if edit.is_proxied() {
        return;
    }
    if flags == SYN | ACK {
        // One that was overtaken by what FTP exchanged would undo that; a header must be put before each stream.
        let is_new =
            !edit.has_begun() || edit.wants & PROXY != 0 && !edit.is_answered_by(segment.ack, segment.seq);
        if is_new {
            edit.answered(segment.ack, put(), segment.seq);
        }
    } else if flags & (SYN | RST) == 0
        && edit.wants & PROXY != 0
        && is_less(edit.shift(Direction::Reply).at(), segment.seq)
    {
        let len = match headers.fragment {
            Fragment::None => segment.data_len + usize::from(headers.tcp_flags & FIN),
            // How much follows on it nobody knows yet.
            _ => MOST_DATA,
        };
        edit.shift_mut(Direction::Reply).note_passed(segment.seq, len);
    }
}

/// Whether a real server's segment says that it has the client's acknowledgement: from then on nobody reads who the client is. That it acknowledges, or refuses,
/// what began the connection does not say so: anybody's wrong segment has it do that.
pub(super) fn is_told(edit: &Edit, headers: &Headers, segment: &Segment) -> bool {
    let flags = headers.tcp_flags;
    let start = edit.shift(Direction::Original).at();
    let has_more = edit.has_begun() && flags & ACK != 0 && is_less(start, segment.ack);
    flags & (SYN | RST) == 0 && (segment.data_len > 0 || flags & FIN != 0 || has_more)
}

/// Takes out of a client's segment what says who it is, if that is ours to say.
pub(super) fn take_out<P: Packet>(edit: &Edit, packet: &mut P, headers: &Headers) {
    if edit.wants & TOA != 0 {
        segment::blank_options(packet.data_mut(), headers, TOA_KIND);
    }
}

/// Behind the last number of a segment that is no SYN.
fn end_of(segment: &Segment, flags: u8) -> u32 {
    segment.seq.wrapping_add(segment.data_len as u32).wrapping_add((flags & FIN).into())
}
