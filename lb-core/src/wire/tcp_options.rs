//! The options of a TCP header: one by one; what a SYN offers by them (RFC 9293 §3.2, RFC 7323, RFC 2018); and those that every segment
//! may have, changed in place.

use arrayvec::ArrayVec;

use super::checksum::Delta;
use super::{array_mut, be16, tcp};

/// Most bytes of options.
pub const MAX: usize = 40;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = tcp::MSS;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// The options one by one, kind and length included; at most forty, as many as there are bytes. Ends where they make no sense.
pub fn each(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while let [NO_OPERATION, rest @ ..] = bytes {
            bytes = rest;
        }
        match *bytes {
            [] | [END, ..] | [_] => None,
            [_, len, ..] if len < 2 => None,
            [_, len, ..] => {
                let (option, rest) = bytes.split_at_checked(len.into())?;
                bytes = rest;
                Some(option)
            }
        }
    })
}

/// What two ends tell each other by options when they open a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    pub mss: Option<u16>,
    /// Shift of the sender's windows.
    pub scale: Option<u8>,
    /// Selective acknowledgements are understood.
    pub sack: bool,
    /// The sender's clock, and the last one that it saw of the other's.
    pub stamps: Option<(u32, u32)>,
}

impl TcpOptions {
    /// RFC 7323 §2.3.
    pub const MAX_SCALE: u8 = 14;

    /// Reads `bytes`, a header's options. What makes no sense is as if it were not there.
    pub fn read(bytes: &[u8]) -> TcpOptions {
        let mut found = TcpOptions::default();
        for option in each(bytes) {
            match *option {
                [MSS, 4, high, low] => found.mss = Some(be16(high, low)),
                [WINDOW_SCALE, 3, scale] => found.scale = Some(scale.min(Self::MAX_SCALE)),
                [SACK_PERMITTED, 2] => found.sack = true,
                [TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
                    found.stamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
                }
                _ => {}
            }
        }
        found
    }

    /// Of the segment in `frame` whose header begins at `l4`.
    pub fn of(frame: &[u8], l4: usize) -> TcpOptions {
        let header = tcp::with_options(frame, l4);
        TcpOptions::read(header.and_then(|header| header.get(tcp::LEN..)).unwrap_or_default())
    }

    /// As bytes: a multiple of four, in the order in which Linux has them.
    pub fn bytes(&self) -> ArrayVec<u8, MAX> {
        let mut bytes = ArrayVec::new();
        // All of them together are 24.
        let mut push = |option: &[u8]| {
            let _ = bytes.try_extend_from_slice(option);
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            push(&[MSS, 4, high, low]);
        }
        match (self.sack, self.stamps.is_some()) {
            (true, true) => push(&[SACK_PERMITTED, 2]),
            (true, false) => push(&[NO_OPERATION, NO_OPERATION, SACK_PERMITTED, 2]),
            (false, true) => push(&[NO_OPERATION, NO_OPERATION]),
            (false, false) => {}
        }
        if let Some((clock, echo)) = self.stamps {
            push(&[TIMESTAMPS, 10]);
            push(&clock.to_be_bytes());
            push(&echo.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            push(&[NO_OPERATION, WINDOW_SCALE, 3, scale]);
        }
        bytes
    }
}

/// Adds to the timestamps of a segment, where it has them: to the sender's clock, and to what it says of the other's.
pub fn shift_stamps(frame: &mut [u8], l4: usize, clock: u32, echo: u32) {
    let Some((at, &[_, _, _, _, _, _, _, _])) =
        tcp::with_options(frame, l4).and_then(|header| tcp::option(header, TIMESTAMPS))
    else {
        return;
    };
    let mut delta = Delta::default();
    for (place, by) in [(l4 + at + 2, clock), (l4 + at + 6, echo)] {
        let Some(field) = array_mut::<4>(frame, place) else { return };
        let old = u32::from_be_bytes(*field);
        let new = old.wrapping_add(by);
        *field = new.to_be_bytes();
        let changed = Delta::double_word(old, new);
        // An option may begin at an odd byte, where a word's halves are exchanged (RFC 1071 §2 (B)).
        delta = delta.and(if at.is_multiple_of(2) { changed } else { Delta(changed.0.swap_bytes()) });
    }
    if let Some(header) = tcp::header_mut(frame, l4) {
        tcp::set_checksum(header, delta.apply(tcp::checksum(header)));
    }
}

/// Exchanges the window of a segment for one in other units: shifted to the left by `by`, or to the right if it is negative.
pub fn shift_window(frame: &mut [u8], l4: usize, by: i8) {
    let Some(header) = tcp::header_mut(frame, l4) else { return };
    let old = be16(header[14], header[15]);
    let new = scaled(old.into(), by);
    header[14..16].copy_from_slice(&new.to_be_bytes());
    tcp::set_checksum(header, Delta::word(old, new).apply(tcp::checksum(header)));
}

/// A window in units of 2⁻`by`: the largest that a header can say, if it is larger.
pub fn scaled(window: u32, by: i8) -> u16 {
    let shift = u32::from(by.unsigned_abs()).min(31);
    let wide = if by < 0 { u64::from(window) >> shift } else { u64::from(window) << shift };
    wide.min(u16::MAX.into()) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options() -> impl Strategy<Value = TcpOptions> {
        let number = prop::option::of(any::<u16>());
        let stamps = prop::option::of(any::<(u32, u32)>());
        (number, prop::option::of(0..=14_u8), any::<bool>(), stamps)
            .prop_map(|(mss, scale, sack, stamps)| TcpOptions { mss, scale, sack, stamps })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was(options in options()) {
            let bytes = options.bytes();
            prop_assert!(bytes.len().is_multiple_of(4));
            prop_assert_eq!(TcpOptions::read(&bytes), options);
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..=40)) {
            let _ = TcpOptions::read(&bytes);
        }

        /// Against a header whose checksum is added up anew.
        #[test]
        fn stamps_and_windows_are_shifted_and_the_checksum_stays_right(
            (stamps, clock, echo, is_odd) in (any::<(u32, u32)>(), any::<u32>(), any::<u32>(), any::<bool>()),
            (window, by) in (any::<u16>(), -14..=14_i8),
        ) {
            let mut segment = vec![0; 20];
            (segment[12], segment[14], segment[15]) = (8 << 4, (window >> 8) as u8, window as u8);
            segment.extend_from_slice(if is_odd { &[NO_OPERATION][..] } else { &[NO_OPERATION, NO_OPERATION] });
            segment.extend_from_slice(&TcpOptions { stamps: Some(stamps), ..TcpOptions::default() }.bytes()[2..]);
            segment.resize(32, 0);
            let sum = super::super::checksum::finish(super::super::checksum::sum(&segment));
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            shift_stamps(&mut segment, 0, clock, echo);
            shift_window(&mut segment, 0, by);
            let wanted = (stamps.0.wrapping_add(clock), stamps.1.wrapping_add(echo));
            prop_assert_eq!(TcpOptions::of(&segment, 0).stamps, Some(wanted));
            let expected = (f64::from(window) * f64::from(by).exp2()).floor().min(65_535.0) as u16;
            prop_assert_eq!(be16(segment[14], segment[15]), expected);
            prop_assert!(super::super::checksum::is_good(super::super::checksum::sum(&segment)));
        }
    }
}
