//! One end of a TCP connection: in order, go back to what is missing, give up after a while. Every byte that comes in must be
//! the one that belongs there.
//!
//! Positions count from the SYN, which is 0: data from 1 on, the FIN behind it.

use crate::draw::mix;
use crate::wire::{ACK, FIN, PSH, RST, SYN, Segment};

/// First retransmission after so many microseconds, later ones after twice as long each.
const PATIENCE: u64 = 300_000;
/// Retransmissions of one thing before the end gives up.
const TRIES: u32 = 7;

/// Writes the bytes from `offset` on of the stream `key`.
pub fn fill(key: u64, offset: u64, out: &mut [u8]) {
    let word = |number: u64| mix(key ^ number).to_le_bytes();
    let (mut number, from) = (offset / 8, (offset % 8) as usize);
    let mut rest = out;
    if from > 0 {
        let (first, later) = rest.split_at_mut((8 - from).min(rest.len()));
        first.copy_from_slice(&word(number)[from..from + first.len()]);
        (number, rest) = (number + 1, later);
    }
    let (words, last) = rest.as_chunks_mut::<8>();
    for out in words {
        *out = word(number);
        number += 1;
    }
    let len = last.len();
    last.copy_from_slice(&word(number)[..len]);
}

/// The first byte that is not the stream's.
pub fn first_wrong(key: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = [0; 512];
    for (n, chunk) in bytes.chunks(512).enumerate() {
        let at = offset + 512 * n as u64;
        fill(key, at, &mut expected[..chunk.len()]);
        if expected[..chunk.len()] != *chunk {
            let wrong = chunk.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
            return Some(at + wrong as u64);
        }
    }
    None
}

/// A segment to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Send {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// Offset and length of the data in the stream.
    pub offset: u32,
    pub len: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Open,
    /// All was sent, acknowledged and received.
    Done,
    Reset,
    GaveUp,
}

/// What an end came across that may not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrongByte {
    pub offset: u64,
}

#[derive(Clone, Debug)]
pub struct End {
    /// Streams that it sends and receives.
    pub sends: u64,
    receives: u64,
    send_len: u32,
    receive_len: u32,
    iss: u32,
    irs: u32,
    una: u32,
    nxt: u32,
    /// Highest position ever sent, plus one.
    max: u32,
    rcv: u32,
    /// Data goes out at all (the client's at once, the server's when it has the whole request).
    waits_for_request: bool,
    closes_first: bool,
    pub mss: u16,
    pub window: u32,
    pub life: Life,
    /// When something is sent again.
    pub deadline: u64,
    tries: u32,
    needs_ack: bool,
}

/// What the two ends of a connection agree on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub key: u64,
    pub request: u32,
    pub response: u32,
    pub mss: u16,
    pub window: u32,
    pub server_closes_first: bool,
}

impl End {
    pub fn client(terms: &Terms, iss: u32, now: u64) -> End {
        End {
            sends: terms.key,
            receives: !terms.key,
            send_len: terms.request,
            receive_len: terms.response,
            iss,
            irs: 0,
            una: 0,
            nxt: 0,
            max: 0,
            rcv: 0,
            waits_for_request: false,
            closes_first: !terms.server_closes_first,
            mss: terms.mss,
            window: terms.window,
            life: Life::Open,
            deadline: now + PATIENCE,
            tries: 0,
            needs_ack: false,
        }
    }

    /// The end that a SYN with the sequence number `irs` reached.
    pub fn server(terms: &Terms, iss: u32, irs: u32, now: u64) -> End {
        End {
            sends: !terms.key,
            receives: terms.key,
            send_len: terms.response,
            receive_len: terms.request,
            irs,
            rcv: 1,
            waits_for_request: true,
            closes_first: terms.server_closes_first,
            ..End::client(terms, iss, now)
        }
    }

    fn fin(&self) -> u32 {
        self.send_len + 1
    }

    fn peer_fin(&self) -> u32 {
        self.receive_len + 1
    }

    fn is_connected(&self) -> bool {
        self.una > 0 && self.rcv > 0
    }

    /// How far it may send by now.
    fn limit(&self) -> u32 {
        if !self.is_connected() {
            return 1;
        }
        let has_request = !self.waits_for_request || self.rcv >= self.peer_fin();
        if !has_request {
            return 1;
        }
        let may_close =
            if self.closes_first { self.rcv >= self.peer_fin() } else { self.rcv > self.peer_fin() };
        let end = if may_close { self.fin() + 1 } else { self.fin() };
        end.min(self.una + self.window)
    }

    /// All that is to be sent now.
    pub fn send(&mut self, now: u64, out: &mut Vec<Send>) {
        if self.life == Life::Done && self.needs_ack {
            self.needs_ack = false;
            out.push(self.acknowledgement());
        }
        if self.life != Life::Open {
            return;
        }
        let before = out.len();
        while self.nxt < self.limit() {
            let at = self.nxt;
            let ack = if self.rcv > 0 { ACK } else { 0 };
            let mut send =
                Send { seq: self.iss.wrapping_add(at), ack: self.ack(), flags: ack, offset: 0, len: 0 };
            if at == 0 {
                send.flags |= SYN;
                self.nxt += 1;
            } else if at == self.fin() {
                send.flags |= FIN;
                self.nxt += 1;
            } else {
                let len = (self.limit().min(self.fin()) - at).min(u32::from(self.mss));
                (send.offset, send.len) = (at - 1, len as u16);
                if at + len == self.fin() {
                    send.flags |= PSH;
                }
                self.nxt += len;
            }
            out.push(send);
        }
        self.max = self.max.max(self.nxt);
        if out.len() > before {
            self.needs_ack = false;
            self.deadline = now + (PATIENCE << self.tries.min(8));
        } else if self.needs_ack && self.rcv > 0 {
            self.needs_ack = false;
            out.push(self.acknowledgement());
        }
    }

    fn acknowledgement(&self) -> Send {
        Send { seq: self.iss.wrapping_add(self.nxt), ack: self.ack(), flags: ACK, offset: 0, len: 0 }
    }

    fn ack(&self) -> u32 {
        if self.rcv > 0 { self.irs.wrapping_add(self.rcv) } else { 0 }
    }

    /// Whether something sent is not acknowledged yet.
    pub fn waits(&self) -> bool {
        self.life == Life::Open && (self.una < self.nxt || self.una < self.limit())
    }

    /// The deadline is over: sends again what is missing, or gives up.
    pub fn time_out(&mut self, now: u64) {
        if self.life != Life::Open {
            return;
        }
        self.tries += 1;
        self.deadline = now + (PATIENCE << self.tries.min(8));
        if self.tries > TRIES {
            self.life = Life::GaveUp;
        } else if self.waits() {
            self.nxt = self.una;
        } else if !self.is_client() || self.rcv > 0 {
            // The other end is silent: it may wait for an acknowledgement that was lost.
            self.needs_ack = true;
        }
    }

    fn is_client(&self) -> bool {
        !self.waits_for_request
    }

    /// A path on the way takes no longer segments.
    pub fn shrink(&mut self, mss: u16) {
        if mss < self.mss {
            self.mss = mss.max(64);
            self.nxt = self.nxt.min(self.una.max(1)).max(self.una);
        }
    }

    /// Takes a segment whose checksum is right.
    ///
    /// # Errors
    /// The first byte that is not the one of this connection and place.
    pub fn take(&mut self, segment: &Segment<'_>, now: u64) -> Result<(), WrongByte> {
        if self.life == Life::Done {
            // As in TIME_WAIT: the other end does not know yet that its FIN came.
            self.needs_ack |= segment.flags & (FIN | SYN | RST) == FIN;
        }
        if self.life != Life::Open {
            return Ok(());
        }
        if segment.flags & SYN != 0 && self.rcv == 0 && segment.flags & ACK != 0 {
            if segment.ack != self.iss.wrapping_add(1) {
                return Ok(());
            }
            (self.irs, self.rcv, self.needs_ack) = (segment.seq, 1, true);
        }
        if self.rcv == 0 {
            // Nothing but an answer to the SYN counts before the connection is up.
            if segment.flags & RST != 0 && segment.flags & ACK != 0 && segment.ack == self.iss.wrapping_add(1)
            {
                self.life = Life::Reset;
            }
            return Ok(());
        }
        let at = segment.seq.wrapping_sub(self.irs);
        if segment.flags & RST != 0 {
            // RFC 5961 wants the very next number; the kernel's twin and a closed end send what was acknowledged.
            if at == self.rcv || self.rcv.wrapping_sub(at) < 1 << 20 || segment.flags & ACK != 0 {
                self.life = Life::Reset;
            }
            return Ok(());
        }
        if segment.flags & ACK != 0 {
            let acked = segment.ack.wrapping_sub(self.iss);
            if acked > self.una && acked <= self.max {
                self.una = acked;
                self.nxt = self.nxt.max(acked);
                self.tries = 0;
                self.deadline = now + PATIENCE;
            }
        }
        let len = segment.payload.len() as u32;
        if len > 0 && at >= 1 && at + len <= self.peer_fin() {
            if let Some(offset) = first_wrong(self.receives, u64::from(at - 1), segment.payload) {
                return Err(WrongByte { offset });
            }
            self.needs_ack = true;
            if at <= self.rcv && at + len > self.rcv {
                self.rcv = at + len;
                self.tries = 0;
            }
        } else if len > 0 || segment.flags & SYN != 0 {
            self.needs_ack = true;
        }
        if segment.flags & FIN != 0 {
            self.needs_ack = true;
            if at + len == self.peer_fin() && self.rcv == self.peer_fin() {
                self.rcv += 1;
                self.tries = 0;
            }
        }
        if self.una > self.fin() && self.rcv > self.peer_fin() {
            self.life = Life::Done;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(server_closes_first: bool) -> Terms {
        Terms { key: 99, request: 3000, response: 20_000, mss: 700, window: 5000, server_closes_first }
    }

    /// Carries segments between two ends, losing every `lose`th; the outcome of both.
    fn talk(terms: &Terms, lose: u64) -> (Life, Life) {
        let mut client = End::client(terms, u32::MAX - 500, 0);
        let mut server: Option<End> = None;
        let (mut now, mut count) = (0, 0);
        for _ in 0..2000 {
            now += 50_000;
            let mut sends = Vec::new();
            if now > client.deadline {
                client.time_out(now);
            }
            client.send(now, &mut sends);
            for send in sends {
                count += 1;
                if lose > 0 && count % lose == 0 {
                    continue;
                }
                let server = server.get_or_insert_with(|| End::server(terms, 77, send.seq, now));
                let mut payload = vec![0; send.len.into()];
                fill(client.sends, send.offset.into(), &mut payload);
                server
                    .take(
                        &Segment { seq: send.seq, ack: send.ack, flags: send.flags, payload: &payload },
                        now,
                    )
                    .unwrap();
            }
            let Some(server) = &mut server else { continue };
            let mut sends = Vec::new();
            if now > server.deadline {
                server.time_out(now);
            }
            server.send(now, &mut sends);
            for send in sends {
                count += 1;
                if lose > 0 && count % lose == 0 {
                    continue;
                }
                let mut payload = vec![0; send.len.into()];
                fill(server.sends, send.offset.into(), &mut payload);
                client
                    .take(
                        &Segment { seq: send.seq, ack: send.ack, flags: send.flags, payload: &payload },
                        now,
                    )
                    .unwrap();
            }
        }
        (client.life, server.unwrap().life)
    }

    #[test]
    fn both_ends_get_all_bytes_also_when_segments_are_lost() {
        for closes in [false, true] {
            assert_eq!(talk(&terms(closes), 0), (Life::Done, Life::Done));
            assert_eq!(talk(&terms(closes), 7), (Life::Done, Life::Done));
        }
    }

    #[test]
    fn a_byte_of_another_connection_is_seen() {
        let mut server = End::server(&terms(false), 1, 100, 0);
        let mut payload = vec![0; 10];
        fill(99, 5, &mut payload);
        assert_eq!(server.take(&Segment { seq: 106, ack: 2, flags: ACK, payload: &payload }, 0), Ok(()));
        payload[3] ^= 1;
        let seen = server.take(&Segment { seq: 106, ack: 2, flags: ACK, payload: &payload }, 0);
        assert_eq!(seen, Err(WrongByte { offset: 8 }));
    }
}
