//! SIP's messages in a stream (`CT --helper sip` of TCP): those that lie whole in a segment are read, one after the other, and what they name is exchanged as in
//! datagrams (`signalled.rs`).
//!
//! A message says by its Content-Length where the next one begins (RFC 3261 §18.3). One that goes on in another segment passes as it is, and so does what
//! is behind it there, as with the kernel's helper: nothing is kept of it.
//!
//! All that is changed in a segment is one edit, of whole messages: so who sends a part of one again sends the whole in the end ([0047](../../../docs/decisions/0047-a-segments-messages-are-one-edit.md)): a segment that comes again is
//! read again, and must come to the same. What an edit cannot follow on yet, or the link does not take behind it, is cut off: its sender
//! sends it again.

use super::Path;
use super::signalled::grown_by;
use crate::drop::DropReason;
use crate::flow::FlowRef;
use crate::flow::edit::{Overlap, Shift};
use crate::packet::{NoRoom, Packet};
use crate::time::Tick;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::segment::{self, Segment};
use crate::wire::sip::message::{self, Message};

/// Messages of a segment that are read.
const MOST_MESSAGES: usize = 32;

/// Bytes of a segment's data as it came: from the first, up to the last.
type Range = (usize, usize);

/// Whether a message may be changed, so that it is of another length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Change,
    /// A part of it has gone on as it was, or the link does not take more.
    NoMore,
    /// What was changed before must be acknowledged first.
    NotYet,
}

impl<P: Packet> Path<P> {
    /// Does what a segment's messages ask for, and exchanges what they name. Returns the headers as they are then.
    ///
    /// # Errors
    /// Why it goes no further.
    pub(super) fn signal_segment(
        &mut self,
        packet: &mut P,
        headers: &Headers,
        segment: &Segment,
        at: FlowRef,
        now: Tick,
    ) -> Result<Headers, DropReason> {
        let Some(edit) = self.flows.edit(at.id()) else { return Ok(*headers) };
        let shift = *edit.shift(at.direction());
        let known = match shift.overlap(segment.seq, segment.data_len) {
            Overlap::None => None,
            Overlap::Whole { at, len } if headers.fragment == Fragment::None => Some((at, at + len)),
            Overlap::Whole { .. } | Overlap::Part => return Err(DropReason::EditInPart),
        };
        if headers.fragment != Fragment::None {
            return Ok(*headers);
        }
        let (mut headers, mtu) = (*headers, self.mtu(at));
        let mut edited: Option<Range> = None;
        // Before what was changed, which does not fit behind that: it comes again by itself.
        let mut is_cut = false;
        // Where the next message begins in the segment as it came, and by how much it is longer now.
        // What is before an edit that comes again may begin anywhere.
        let (mut from, mut grown) = (known.map_or(0, |(begin, _)| begin), 0);
        for _ in 0..MOST_MESSAGES {
            let begins = segment.data.saturating_add_signed(grown) + from;
            let Some(rest) = packet.data().get(begins..headers.end()) else { break };
            let Some((skipped, len)) = message::framed(rest) else { break };
            let data = &rest[skipped..skipped + len];
            let Some(message) = Message::read(data) else { break };
            let changes = self.heed(data, &message, at, now)?;
            let by = grown_by(&changes);
            from += skipped;
            if !changes.is_empty() {
                let range = (from, from + len);
                let mut may = may_change(&shift, segment.seq, range, known, edited);
                let is_too_long = |headers: &Headers| {
                    by > 0
                        && mtu.is_some_and(|mtu| headers.ip_len as usize + by.unsigned_abs() > mtu as usize)
                };
                if may == May::Change && is_too_long(&headers) {
                    let keep = (from + len).saturating_add_signed(grown);
                    headers = segment::cut_behind(packet, &headers, segment, keep).map_err(no_room)?;
                    if is_too_long(&headers) {
                        may = if known.or(edited).is_none() { May::NoMore } else { May::NotYet };
                    }
                }
                match may {
                    May::Change => edited = Some((edited.map_or(range.0, |(first, _)| first), range.1)),
                    // Of the same length: nothing is moved.
                    _ if by == 0 => {}
                    May::NoMore => {
                        from += len;
                        continue;
                    }
                    May::NotYet if from == skipped => return Err(DropReason::EditUnacknowledged),
                    May::NotYet => {
                        let keep = (from - skipped).saturating_add_signed(grown);
                        headers = segment::cut_behind(packet, &headers, segment, keep).map_err(no_room)?;
                        is_cut = known.is_some_and(|(begin, _)| from - skipped <= begin);
                        break;
                    }
                }
            }
            for change in changes.iter().rev() {
                let (place, words) = (change.place, &change.words);
                let place_at = from.saturating_add_signed(grown) + place.at;
                headers = segment::exchange(packet, &headers, segment, place_at, place.len, words)
                    .map_err(no_room)?;
            }
            from += len;
            grown += by;
        }
        if !is_cut {
            self.note_edit(&shift, segment.seq, known, edited, grown, at)?;
        }
        Ok(headers)
    }

    /// What came again must have become the same.
    fn note_edit(
        &mut self,
        shift: &Shift,
        seq: u32,
        known: Option<Range>,
        edited: Option<Range>,
        grown: isize,
        at: FlowRef,
    ) -> Result<(), DropReason> {
        let Some((first, last)) = edited else {
            return if known.is_some() { Err(DropReason::EditInPart) } else { Ok(()) };
        };
        let (taken, put) = (last - first, (last - first).saturating_add_signed(grown));
        if taken.max(put) > Shift::MOST {
            return Err(DropReason::Unsupported);
        }
        if known.is_some() {
            let is_same = known == edited && put == usize::from(shift.put());
            return if is_same { Ok(()) } else { Err(DropReason::EditInPart) };
        }
        if let Some(edit) = self.flows.edit_mut(at.id()) {
            edit.shift_mut(at.direction()).follow(seq.wrapping_add(first as u32), taken, put);
        }
        Ok(())
    }
}

fn may_change(
    shift: &Shift,
    seq: u32,
    (first, last): Range,
    known: Option<Range>,
    edited: Option<Range>,
) -> May {
    let seq = seq.wrapping_add(first as u32);
    match known {
        Some((begin, end)) if first < end && last > begin => May::Change,
        Some((begin, _)) if last <= begin => May::NoMore,
        Some(_) => May::NotYet,
        None if edited.is_some() => May::Change,
        None if shift.has_passed(seq) => May::NoMore,
        None if shift.may_follow(seq) => May::Change,
        None => May::NotYet,
    }
}

fn no_room(_: NoRoom) -> DropReason {
    DropReason::NoBuffer
}
