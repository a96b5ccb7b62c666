//! What a TCP header says.

use super::{SACKS, SCALES};
use crate::conntrack::Invalid;
use crate::wire::array;
use crate::wire::parse::{Fragment, Headers};
use crate::wire::tcp::{self, ACK, FIN, RST, SYN, URG};
use crate::wire::tcp_options::{self, TcpOptions};

/// A segment, as far as tracking looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    pub seq: u32,
    pub ack: u32,
    /// As sent, not scaled.
    pub window: u16,
    /// The last byte of the header's flags.
    pub flags: u8,
    /// Bytes of data.
    pub len: u32,
    /// The first fragment of several: `len` is not the whole.
    pub is_fragment: bool,
    pub options: &'a [u8],
}

/// What a segment is by its flags: of several the strongest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    None,
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

impl Kind {
    /// From memory that may hold anything.
    pub(super) fn from_u8(value: u8) -> Kind {
        const ALL: [Kind; 6] = [Kind::None, Kind::Syn, Kind::SynAck, Kind::Fin, Kind::Ack, Kind::Rst];
        ALL.get(usize::from(value)).copied().unwrap_or(Kind::None)
    }
}

/// Which of FIN, SYN, RST, ACK and URG stand together.
const TOGETHER: [u8; 9] =
    [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];

static KINDS: [Option<Kind>; 64] = {
    let mut kinds = [None; 64];
    let mut at = 0;
    while at < TOGETHER.len() {
        let flags = TOGETHER[at];
        kinds[flags as usize] = Some(if flags & RST != 0 {
            Kind::Rst
        } else if flags & SYN != 0 {
            if flags & ACK != 0 { Kind::SynAck } else { Kind::Syn }
        } else if flags & FIN != 0 {
            Kind::Fin
        } else {
            Kind::Ack
        });
        at += 1;
    }
    kinds
};

impl<'a> Segment<'a> {
    /// # Errors
    /// It is not in `frame`, or its options are not.
    pub fn read(frame: &'a [u8], headers: &Headers) -> Result<Segment<'a>, Invalid> {
        let at = usize::from(headers.l4);
        let tcp = tcp::header(frame, at).ok_or(Invalid::Malformed)?;
        let number = |at| array(tcp, at).copied().map_or(0, u32::from_be_bytes);
        let header_len = usize::from(tcp[12] >> 4) * 4;
        let options = frame.get(at + tcp::LEN..at + header_len).ok_or(Invalid::Malformed)?;
        Ok(Segment {
            seq: number(4),
            ack: number(8),
            window: u16::from_be_bytes([tcp[14], tcp[15]]),
            flags: tcp[13],
            len: headers.l4_len().saturating_sub(header_len) as u32,
            is_fragment: headers.fragment != Fragment::None,
            options,
        })
    }

    /// # Errors
    /// Its flags never stand together.
    #[inline]
    pub(super) fn kind(&self) -> Result<Kind, Invalid> {
        const TELLING: u8 = FIN | SYN | RST | ACK | URG;
        KINDS[usize::from(self.flags & TELLING)].ok_or(Invalid::Flags)
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Behind its last number: SYN and FIN have one.
    #[inline]
    pub(super) fn end(&self) -> u32 {
        let more = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.len).wrapping_add(more)
    }

    /// What a SYN offers.
    pub(super) fn offer(&self) -> Offer {
        let TcpOptions { scale, sack, .. } = TcpOptions::read(self.options);
        Offer { scale, sack }
    }

    /// The highest number that it says has arrived: of its selective acknowledgements (RFC 2018 §3), or `ack`.
    pub(super) fn highest_arrived(&self, ack: u32) -> u32 {
        const SACK: u8 = 5;
        /// Timestamps alone, as nearly all have them (RFC 7323, appendix A).
        const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
        if self.options.len() == 12 && self.options.starts_with(&TIMESTAMPS) {
            return ack;
        }
        let mut highest = ack;
        for option in tcp_options::each(self.options) {
            let [SACK, _, blocks @ ..] = option else { continue };
            if blocks.len().is_multiple_of(8) {
                for block in blocks.as_chunks::<8>().0 {
                    let [_, _, _, _, end @ ..] = *block;
                    let end = u32::from_be_bytes(end);
                    if super::window::is_before(highest, end) {
                        highest = end;
                    }
                }
                break;
            }
        }
        highest
    }
}

/// What one end can.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Offer {
    scale: Option<u8>,
    sack: bool,
}

impl Offer {
    pub(super) fn scale(self) -> u8 {
        self.scale.unwrap_or(0)
    }

    pub(super) fn flags(self) -> u8 {
        (if self.scale.is_some() { SCALES } else { 0 }) | if self.sack { SACKS } else { 0 }
    }
}
