//! What ends of TCP connections say in worlds with windows: what they should, most often, and what is sent again, too late, too far, or by who does not know
//! better.

use super::packet::{Packet, Says};
use super::segment::{Options, Segment};
use super::tcp::Bounds;
use super::traffic::{REMEMBERED, Sending, TTL, Traffic, bytes};
use crate::draw::Draw;
use crate::wire::{ACK, FIN, PSH, RST, SYN};

/// So far from what is right.
const FAR: [u32; 12] = [1, 1, 2, 10, 511, 512, 4000, 65_535, 66_001, 1 << 20, (1 << 31) - 1, 1 << 31];
const WINDOWS: [u16; 6] = [u16::MAX, u16::MAX, 4000, 512, 1, 0];
/// What no sender sets together, or seldom.
const ODD: [u8; 8] = [0, FIN, PSH, SYN | FIN, SYN | RST, FIN | RST | ACK, ACK | 32 | PSH, SYN | 0xc0];

impl Traffic {
    /// What an end says next, to what it got or behind what it said. `bounds`: where a direction's bounds are.
    pub(super) fn say(
        &mut self,
        draw: &mut Draw,
        bounds: impl Fn(&Packet) -> Option<Bounds>,
    ) -> Option<Sending> {
        let mut sending = if draw.below(4) > 0 { self.reply(draw) } else { self.go_on(draw) }?;
        let Says::Tcp(segment) = &mut sending.packet.says else { return None };
        *segment = strayed(*segment, draw);
        let bounds = bounds(&sending.packet).filter(|_| draw.below(6) == 0);
        if let (Says::Tcp(segment), Some(bounds)) = (&mut sending.packet.says, bounds) {
            let near = draw.pick(&[u32::MAX - 1, u32::MAX, 0, 0, 1, 2]);
            match draw.below(3) {
                0 => segment.ack = draw.pick(&bounds.ack).wrapping_add(near),
                _ => segment.seq = draw.pick(&bounds.seq).wrapping_add(near),
            }
        }
        self.says(&sending, draw);
        Some(sending)
    }

    /// A first segment, with what an end may offer.
    pub(super) fn offering(&mut self, mut sending: Sending, draw: &mut Draw) -> Sending {
        if let Says::Tcp(segment) = &mut sending.packet.says {
            (segment.seq, segment.ack) = (begin(draw), begin(draw));
            offer(segment, draw);
            self.says(&sending, draw);
        }
        sending
    }

    /// It is remembered, that more may follow.
    fn says(&mut self, sending: &Sending, draw: &mut Draw) {
        if self.said.len() == REMEMBERED {
            self.said.swap_remove(draw.below(REMEMBERED as u64) as usize);
        }
        self.said.push(sending.clone());
    }

    /// Behind the last that the other end said, as far as is known.
    fn reply(&mut self, draw: &mut Draw) -> Option<Sending> {
        let last = self.arrived.len().checked_sub(1)?;
        let nth = if draw.coin() { last } else { draw.below(last as u64 + 1) as usize };
        let (is_host, packet) = self.arrived[nth].clone();
        if !self.may_answer(is_host, &packet) {
            return None;
        }
        let heard = *packet.segment()?;
        let ack = heard.end(packet.payload.len());
        let segment = if heard.has(SYN) && !heard.has(ACK) {
            let mut segment = Segment::plain(SYN | ACK, begin(draw), ack);
            offer(&mut segment, draw);
            segment
        } else {
            Segment::plain(ACK, heard.ack, ack)
        };
        let payload = if segment.has(SYN) || draw.coin() { Vec::new() } else { bytes(draw) };
        let packet = Packet { ends: packet.ends.reversed(), says: Says::Tcp(segment), ttl: TTL, payload };
        Some(Sending { is_host, packet })
    }

    /// Behind what it said itself, or the same again.
    fn go_on(&mut self, draw: &mut Draw) -> Option<Sending> {
        if self.said.is_empty() {
            return None;
        }
        let mut sending = self.said[draw.below(self.said.len() as u64) as usize].clone();
        if draw.coin() {
            let before = *sending.packet.segment()?;
            let seq = before.end(sending.packet.payload.len());
            sending.packet.says = Says::Tcp(Segment::plain(ACK, seq, before.ack));
            sending.packet.payload = bytes(draw);
        }
        Some(sending)
    }
}

/// Numbers go round early, or late.
fn begin(draw: &mut Draw) -> u32 {
    let any = draw.number() as u32;
    draw.pick(&[1000, 0, u32::MAX - 20, (1 << 31) - 20, any])
}

fn offer(segment: &mut Segment, draw: &mut Draw) {
    segment.window = draw.pick(&WINDOWS);
    segment.options = Options {
        scale: draw.pick(&[None, Some(0), Some(3), Some(7), Some(14), Some(20)]),
        permits_blocks: draw.coin(),
        block: None,
    };
}

/// The same, or what else comes in its place.
fn strayed(right: Segment, draw: &mut Draw) -> Segment {
    let far = draw.pick(&FAR);
    let Segment { seq, ack, .. } = right;
    let window = if draw.below(4) == 0 { draw.pick(&WINDOWS) } else { right.window };
    let right = Segment { window, ..right };
    let reset = |seq| Segment { flags: RST, seq, ..right };
    match draw.below(24) {
        0 => Segment { seq: seq.wrapping_sub(far), ..right },
        1 => Segment { seq: seq.wrapping_add(far), ..right },
        2 => Segment { ack: ack.wrapping_sub(far), ..right },
        3 => Segment { ack: ack.wrapping_add(far), ..right },
        4 => {
            let from = ack.wrapping_add(draw.pick(&FAR[..6]));
            let block = Some((from, from.wrapping_add(draw.pick(&FAR[..6]))));
            Segment { flags: ACK, options: Options { block, ..Options::default() }, ..right }
        }
        5 | 6 => Segment { flags: FIN | ACK, ..right },
        7 => reset(seq),
        8 => Segment { flags: RST | ACK, ..right },
        9 => reset(draw.pick(&[0, seq.wrapping_sub(far), seq.wrapping_add(far)])),
        10 => Segment { flags: RST | ACK, ack: 0, ..right },
        // The connection's end, and a new one's beginning.
        11 => {
            let mut segment = Segment { flags: SYN, seq: begin(draw), ..right };
            offer(&mut segment, draw);
            segment
        }
        12 => Segment { flags: SYN, ..right },
        13 => Segment { flags: SYN | ACK, ..right },
        14 if draw.coin() => Segment { flags: draw.pick(&ODD), ..right },
        _ => right,
    }
}
