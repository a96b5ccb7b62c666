//! Fragmentation (RFC 791 §3.2).

use lb_core::drop::DropReason;

use super::checksum::seal_ipv4;
use super::parse::{Read, word};

/// Most pieces of a packet.
const MOST: usize = 32;

/// The frames that a packet becomes for a next hop that takes `mtu` bytes. Each but the first needs a buffer.
pub(super) fn of(
    frame: &[u8],
    read: &Read,
    mtu: u16,
    mut has_buffer: impl FnMut() -> bool,
) -> Result<Vec<Vec<u8>>, DropReason> {
    if read.dont_fragment {
        return Err(DropReason::TooBig);
    }
    let link = &frame[..read.l3];
    let (header, data) = (&frame[read.l3..read.l4], &frame[read.l4..read.end]);
    let later_header = copied(header);
    let room = |header: &[u8]| usize::from(mtu).saturating_sub(header.len()) / 8 * 8;
    if room(header) == 0 || room(&later_header) == 0 {
        return Err(DropReason::TooBig);
    }
    let (first, rest) = data.split_at(room(header).min(data.len()));
    let mut parts = vec![(header, first)];
    parts.extend(rest.chunks(room(&later_header)).map(|part| (&later_header[..], part)));
    if parts.len() > MOST {
        return Err(DropReason::TooBig);
    }
    if !(1..parts.len()).all(|_| has_buffer()) {
        return Err(DropReason::NoBuffer);
    }
    let flags = word(header, 6);
    let mut offset = flags & 0x1fff;
    let mut frames = Vec::new();
    for (number, (header, part)) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        let more = if is_last { flags & 0x2000 } else { 0x2000 };
        let mut header = header.to_vec();
        let total = (header.len() + part.len()) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        seal_ipv4(&mut header);
        frames.push([link, &header, part].concat());
        offset += (part.len() / 8) as u16;
    }
    Ok(frames)
}

/// A later piece's header: of the options, those that are copied.
fn copied(header: &[u8]) -> Vec<u8> {
    let mut out = header[..20].to_vec();
    let mut at = 20;
    while at < header.len() && header[at] != 0 {
        let len = if header[at] == 1 { 1 } else { usize::from(header[at + 1]) };
        if header[at] & 0x80 != 0 {
            out.extend(&header[at..at + len]);
        }
        at += len;
    }
    out.resize(out.len().next_multiple_of(4), 0);
    out[0] = 0x40 | (out.len() / 4) as u8;
    out
}
