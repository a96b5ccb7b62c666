//! The SCTP common header, and the header of the first chunk behind it (RFC 9260 §3).

use super::parse::{Fragment, Headers};
use super::{array, array_mut, be16, crc32c};

/// Length of the common header.
pub const LEN: usize = 12;
/// Offset of the checksum.
pub const CHECKSUM: usize = 8;
/// Length of a chunk's header, which a packet that says anything has behind the common one.
pub const CHUNK: usize = 4;

pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const ABORT: u8 = 6;
pub const SHUTDOWN: u8 = 7;
pub const SHUTDOWN_ACK: u8 = 8;
pub const ERROR: u8 = 9;
pub const COOKIE_ECHO: u8 = 10;
pub const COOKIE_ACK: u8 = 11;
pub const SHUTDOWN_COMPLETE: u8 = 14;

pub type Header = [u8; LEN];

#[inline]
pub fn header_mut(frame: &mut [u8], l4: usize) -> Option<&mut Header> {
    array_mut(frame, l4)
}

/// The type of the chunk that says what becomes of the association: the first one; or an ABORT behind a cookie, which is the
/// one chunk of importance that may stand second (RFC 9260 §3.3.7). `None`: a later fragment.
pub fn chunk(frame: &[u8], headers: &Headers) -> Option<u8> {
    if headers.fragment == Fragment::Later {
        return None;
    }
    let packet = frame.get(..headers.end()).unwrap_or(frame);
    let first = usize::from(headers.l4) + LEN;
    let &[kind, _, high, low]: &[u8; CHUNK] = array(packet, first)?;
    let len = usize::from(be16(high, low));
    if matches!(kind, COOKIE_ECHO | COOKIE_ACK) && len >= CHUNK {
        let second: Option<&[u8; CHUNK]> = array(packet, first + len.next_multiple_of(4));
        if second.is_some_and(|second| second[0] == ABORT) {
            return Some(ABORT);
        }
    }
    Some(kind)
}

/// Bytes that the checksum covers: to the packet's end; of a first fragment, to that of the whole.
#[inline]
pub fn covered(headers: &Headers) -> u16 {
    if headers.fragment == Fragment::First { headers.datagram_len } else { headers.l4_len() as u16 }
}

/// Writes both ports and brings the checksum up to date: it is over `len` bytes from the header on.
#[inline]
pub fn rewrite(header: &mut Header, sport: u16, dport: u16, len: u16) {
    let [a, b, c, d, ..] = *header;
    header[0..2].copy_from_slice(&sport.to_be_bytes());
    header[2..4].copy_from_slice(&dport.to_be_bytes());
    let change = u32::from_le_bytes([a ^ header[0], b ^ header[1], c ^ header[2], d ^ header[3]]);
    if change == 0 {
        return;
    }
    let change = crc32c::change_at_start(change, len).to_le_bytes();
    for (byte, change) in header[CHECKSUM..].iter_mut().zip(change) {
        *byte ^= change;
    }
}
