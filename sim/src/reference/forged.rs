//! What a client may not send, so that its real server takes it for nobody else: nothing where a PROXY header is to stand, and nothing before the real server has said
//! by its own SYN what number that is for.

use lb_core::drop::DropReason;

use super::edited::{Edit, number};
use super::parse::{ACK, FIN, Piece, RST, Read, SYN};
use super::stream::is_before;

/// Of one segment.
const MOST_DATA: usize = 65_535;

/// Whether a client's segment with so much data, of a connection that is edited, goes on.
pub(super) fn check_client(edit: &Edit, frame: &[u8], read: &Read, len: usize) -> Result<(), DropReason> {
    let (seq, ack) = (number(frame, read.l4 + 4), number(frame, read.l4 + 8));
    let ([clients, servers], flags) = (edit.streams, read.tcp_flags);
    let has_header = clients.is_acked;
    if flags & SYN != 0 {
        let waits = edit.cookie.is_some_and(|cookie| cookie.open.is_none() || clients.put > 0 && !has_header);
        return if waits && clients.at != seq.wrapping_add(1) {
            Err(DropReason::BadCookie)
        } else if edit.proxy.is_some() && read.piece != Piece::Whole {
            Err(DropReason::EditInPart)
        } else {
            Ok(())
        };
    }
    if edit.proxy.is_none() || has_header || flags & RST != 0 {
        return Ok(());
    }
    let Some(_) = edit.start else { return Err(DropReason::EditUnacknowledged) };
    let behind = seq.wrapping_add(len as u32).wrapping_add(u32::from(flags & FIN));
    let may_cover = read.piece != Piece::Whole || is_before(clients.at, behind);
    if is_before(seq, clients.at) && may_cover {
        return Err(DropReason::EditInPart);
    }
    let is_asked = edit.cookie.is_some() || flags & ACK != 0 && servers.may_be_acked(ack);
    if is_asked { Ok(()) } else { Err(DropReason::EditUnacknowledged) }
}

impl Edit {
    /// The client's SYN, which leads to `SYN_RECV`: so many bytes will come before its data.
    pub(super) fn note_syn(&mut self, seq: u32, put: usize) {
        let start = seq.wrapping_add(1);
        match self.cookie {
            Some(cookie) if cookie.open.is_some() => {}
            Some(_) => self.begin(Some(start), put, 0),
            None if self.start.is_some() && self.streams[0].at == start && !self.streams[0].is_acked => {}
            None => self.begin(None, 0, 0),
        }
    }

    /// A real server's segment says that its client's acknowledgement has come: it has something to say, or to acknowledge besides the SYN.
    pub(super) fn is_told_by(&self, frame: &[u8], read: &Read, len: usize) -> bool {
        let ack = number(frame, read.l4 + 8);
        let has_more =
            self.start.is_some() && read.tcp_flags & ACK != 0 && is_before(self.streams[0].at, ack);
        read.tcp_flags & (SYN | RST) == 0 && (len > 0 || read.tcp_flags & FIN != 0 || has_more)
    }

    /// A real server's segment: its SYN says where the header is to be.
    pub(super) fn note_server(&mut self, frame: &[u8], read: &Read, len: usize, put: usize) {
        let (seq, ack) = (number(frame, read.l4 + 4), number(frame, read.l4 + 8));
        if self.cookie.is_some() {
            return;
        }
        let is_known = || (self.streams[0].at, self.streams[1].at) == (ack, seq);
        match read.tcp_flags & (SYN | ACK | RST) {
            both if both == SYN | ACK && (self.start.is_none() || self.proxy.is_some() && !is_known()) => {
                self.begin(Some(ack), put, seq);
            }
            0 | ACK if self.proxy.is_some() && is_before(self.streams[1].at, seq) => {
                let whole = len + usize::from(read.tcp_flags & FIN);
                let len = if read.piece == Piece::Whole { whole } else { MOST_DATA };
                self.streams[1].note_passed(seq, len);
            }
            _ => {}
        }
    }
}
