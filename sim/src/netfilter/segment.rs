//! A TCP segment's header, as ends and conntrack see it.

use crate::wire::{ACK, FIN, RST, SYN};

const URG: u8 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// As sent, not scaled.
    pub(super) window: u16,
    pub(super) options: Options,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Options {
    /// Shift of windows (RFC 7323).
    pub(super) scale: Option<u8>,
    /// Selective acknowledgements may come (RFC 2018).
    pub(super) permits_blocks: bool,
    /// What has arrived behind a gap: from, and up to.
    pub(super) block: Option<(u32, u32)>,
}

/// What a segment is to conntrack, by its flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Segment {
    /// Without options, and with the largest window.
    pub(super) fn plain(flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { flags, seq, ack, window: u16::MAX, options: Options::default() }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Behind its last number, with so many bytes of data.
    pub(super) fn end(&self, len: usize) -> u32 {
        let ends = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(len as u32).wrapping_add(ends)
    }

    /// `None`: no sender sets these flags together. PSH and those of congestion may be with any.
    pub(super) fn kind(&self) -> Option<Kind> {
        let is_urgent = self.has(URG);
        match self.flags & (FIN | SYN | RST | ACK) {
            SYN => Some(Kind::Syn),
            RST if !is_urgent => Some(Kind::Rst),
            ACK => Some(Kind::Ack),
            flags if flags == SYN | ACK && !is_urgent => Some(Kind::SynAck),
            flags if flags == RST | ACK && !is_urgent => Some(Kind::Rst),
            flags if flags == FIN | ACK => Some(Kind::Fin),
            _ => None,
        }
    }
}

impl Options {
    /// Of a SYN: the scale, at most 14 (RFC 7323, section 2.3), and whether blocks may come.
    pub(super) fn offer(&self) -> (Option<u8>, bool) {
        (self.scale.map(|scale| scale.min(14)), self.permits_blocks)
    }

    /// As they stand in a header, filled up with "no operation".
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(scale) = self.scale {
            bytes.extend([3, 3, scale]);
        }
        if self.permits_blocks {
            bytes.extend([4, 2]);
        }
        if let Some((from, to)) = self.block {
            bytes.extend([5, 10]);
            bytes.extend(from.to_be_bytes());
            bytes.extend(to.to_be_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4), 1);
        bytes
    }
}
