//! The sync message of the kernel's IPVS, format version 1, as bytes and back; format version 0, which kernels before 3.1 send, from
//! bytes; and messages of our own.
//!
//! ```text
//! message:    0 | syncid | size (16) | connections | version (1) | 0 (16), then the connections
//! connection: kind | protocol | version (4 bits), size (12 bits) | flags (32)
//!             | state (16) | client's, virtual, real server's port (16 each) | fwmark (32) | timeout, s (32)
//!             | client's, virtual, real server's address (32 each; 128 when bit 0 of kind is set)
//!             then options: what | bytes | …: 1 sequence numbers, 2 a persistence engine's data, 3 its name
//! ```
//!
//! All numbers are big-endian, and each connection begins at a multiple of four bytes; the padding before it is in no
//! connection's size. An option whose number has bit 6 set may be skipped by whoever does not know it; another one makes
//! the rest of the message unreadable.
//!
//! ```text
//! version 0:  connections | syncid | size (16), then the connections, IPv4 alone
//! connection: 0 | protocol | client's, virtual, real server's port (16 each)
//!             | client's, virtual, real server's address (32 each) | flags (16) | state (16)
//!             then 24 bytes when the flags say that sequence numbers are changed
//! ```
//!
//! These sequence numbers are in the sender's byte order, which nothing tells: they are skipped.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sync.c` (layouts, order of the checks) and
//! `include/uapi/linux/ip_vs.h` (flags).
//!
//! The messages of our own have another version number, and 0 where the number of connections stands. The kernel takes a message that it
//! does not know for one of format version 0, whose number of connections stands where ours has that 0: it finds nothing to do in it.
//!
//! ```text
//! own:  0 | syncid | size (16) | 0 | 108 | 0 (16) | kind: 1 ask, 2 done, 3 begin | 0 (24) | number (32) | connections (64)
//!       … | kind: 4 | connections | 0 (16), then the connections, with options that mean nothing to the kernel:
//!       60 a local endpoint, 62 what a call stands under: port (16), address (32 or 128)
//!       61 the real server's address, where it is of the other family (its place has zeros then)
//!       63 how the streams are edited: wants, stage, shifts of windows (8 each), then of the client's and of the server's side where the last
//!          edit is (32), moved before it (32), taken out, put in, acknowledged (8 each); a cookie's number, clock (32 each), window (16), scales (8 each)
//! ```

mod record;

use self::record::MAX_ENGINE_NAME;
pub use self::record::{Record, Sequence, flags};

/// Bytes before the first connection.
const HEADER: usize = 8;
const HEADER_V0: usize = 4;
const VERSION: u8 = 1;
/// Of the messages of our own: "l".
const OWN_VERSION: u8 = 108;
/// Kind of those that have connections.
const CONNECTIONS: u8 = 4;
const OWN_SIZE: usize = HEADER + 16;
const SIZE_MASK: u16 = 0x0fff;
const VERSION_SHIFT: u32 = 12;
const MOST_CONNECTIONS: u8 = u8::MAX;

/// Why a message, or the rest of it, is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    #[error("it is shorter than its parts")]
    Short,
    #[error("its length is not the one that it says")]
    Size,
    #[error("it has a format version that is not known")]
    Version,
    #[error("a connection is of a kind that is not known")]
    Kind,
    #[error("an option of a connection cannot be read")]
    Option,
}

/// Who is to understand a message of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Also the kernel.
    All,
    /// Directors of our kind.
    Own,
}

impl Audience {
    /// Bytes before the first connection.
    fn head(self) -> usize {
        match self {
            Audience::All => HEADER,
            Audience::Own => HEADER + 4,
        }
    }
}

/// A message that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'m> {
    Connections(Connections<'m>),
    Own { syncid: u8, call: Call },
}

/// What directors of our kind say to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// A backup that begins wants all connections at once. `number` is any; the answer repeats it.
    Ask { number: u32 },
    /// All are sent from here on.
    Begin { number: u32 },
    /// So many were sent since the beginning: all that there are, and what changed meanwhile.
    Done { number: u32, connections: u64 },
}

/// Connections that came in one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connections<'m> {
    pub syncid: u8,
    format: Format,
    left: u8,
    bytes: &'m [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    V0,
    V1,
    Own,
}

impl<'m> Message<'m> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// When it is no message. What is wrong with a connection within is found by [`Connections`] later.
    pub fn read(bytes: &'m [u8]) -> Result<Message<'m>, Malformed> {
        let (&[reserved, syncid, size_high, size_low, count, version, spare_high, spare_low], body) =
            bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
        if usize::from(u16::from_be_bytes([size_high, size_low])) != bytes.len() {
            return Err(Malformed::Size);
        }
        match (reserved, version, [spare_high, spare_low]) {
            (0, VERSION, [0, 0]) => {
                let format = Format::V1;
                Ok(Message::Connections(Connections { syncid, format, left: count, bytes: body }))
            }
            (0, OWN_VERSION, [0, 0]) if body.first() == Some(&CONNECTIONS) => {
                let &[_, left, ..] = body.first_chunk::<4>().ok_or(Malformed::Short)?;
                let format = Format::Own;
                Ok(Message::Connections(Connections { syncid, format, left, bytes: &body[4..] }))
            }
            (0, OWN_VERSION, [0, 0]) => Ok(Message::Own { syncid, call: Call::read(body)? }),
            // Where a message of version 0 has its number of connections. The kernel too tells them apart so.
            (left @ 1.., ..) => {
                let body = bytes.get(HEADER_V0..).ok_or(Malformed::Short)?;
                Ok(Message::Connections(Connections { syncid, format: Format::V0, left, bytes: body }))
            }
            _ => Err(Malformed::Version),
        }
    }
}

impl Call {
    const ASK: u8 = 1;
    const DONE: u8 = 2;
    const BEGIN: u8 = 3;

    fn read(body: &[u8]) -> Result<Call, Malformed> {
        let number = u32::from_be_bytes(field(body, 4)?);
        match body.first() {
            Some(&Call::ASK) => Ok(Call::Ask { number }),
            Some(&Call::BEGIN) => Ok(Call::Begin { number }),
            Some(&Call::DONE) => Ok(Call::Done { number, connections: u64::from_be_bytes(field(body, 8)?) }),
            _ => Err(Malformed::Kind),
        }
    }

    /// The whole message.
    pub fn message(self, syncid: u8) -> [u8; OWN_SIZE] {
        let (kind, number, connections) = match self {
            Call::Ask { number } => (Call::ASK, number, 0),
            Call::Begin { number } => (Call::BEGIN, number, 0),
            Call::Done { number, connections } => (Call::DONE, number, connections),
        };
        let mut message = [0; OWN_SIZE];
        message[..HEADER].copy_from_slice(&[0, syncid, 0, OWN_SIZE as u8, 0, OWN_VERSION, 0, 0]);
        message[HEADER] = kind;
        message[HEADER + 4..HEADER + 8].copy_from_slice(&number.to_be_bytes());
        message[HEADER + 8..].copy_from_slice(&connections.to_be_bytes());
        message
    }
}

/// The bytes at a place, as many as are asked for.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Malformed::Short)
}

/// Ends after the first connection that cannot be read: nobody knows where the next one begins.
impl<'m> Iterator for Connections<'m> {
    type Item = Result<Record<'m>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.take();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

impl<'m> Connections<'m> {
    pub fn audience(&self) -> Audience {
        if self.format == Format::Own { Audience::Own } else { Audience::All }
    }

    fn take(&mut self) -> Result<Record<'m>, Malformed> {
        if self.format == Format::V0 {
            let (record, len) = Record::read_v0(self.bytes)?;
            self.bytes = self.bytes.get(len..).ok_or(Malformed::Short)?;
            return Ok(record);
        }
        let version_and_size = u16::from_be_bytes(field(self.bytes, 2)?);
        if version_and_size >> VERSION_SHIFT != 0 {
            return Err(Malformed::Version);
        }
        let size = usize::from(version_and_size & SIZE_MASK);
        let bytes = self.bytes.get(..size).ok_or(Malformed::Short)?;
        // The last one has no padding behind it.
        self.bytes = self.bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Record::read(bytes)
    }
}

/// A message of connections that is being written.
#[derive(Debug)]
pub struct Writer {
    audience: Audience,
    bytes: Vec<u8>,
    count: u8,
    syncid: u8,
    max: usize,
}

impl Writer {
    /// Of messages of at most `max` bytes, but for one connection that is longer alone.
    pub fn new(audience: Audience, syncid: u8, max: usize) -> Writer {
        Writer { audience, bytes: Vec::with_capacity(max), count: 0, syncid, max }
    }

    /// Adds a connection, whose engine's data and name have at most 255 and 16 bytes.
    /// False: there is no room for it, the message has to be [taken](Writer::message) first.
    pub fn add(&mut self, record: &Record<'_>) -> bool {
        debug_assert!(record.engine_data.len() <= 255 && record.engine_name.len() <= MAX_ENGINE_NAME);
        let at = self.bytes.len().max(self.audience.head()).next_multiple_of(4);
        if self.count > 0 && (self.count == MOST_CONNECTIONS || at + record.size() > self.max) {
            return false;
        }
        self.bytes.resize(at, 0);
        record.write(&mut self.bytes);
        self.count += 1;
        true
    }

    /// Has the message sent by `send`, if there is anything in it, and begins the next one.
    pub fn message<T>(&mut self, send: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if self.count == 0 {
            return None;
        }
        let [high, low] = (self.bytes.len() as u16).to_be_bytes();
        match self.audience {
            Audience::All => {
                self.bytes[..HEADER].copy_from_slice(&[0, self.syncid, high, low, self.count, VERSION, 0, 0]);
            }
            Audience::Own => {
                self.bytes[..HEADER].copy_from_slice(&[0, self.syncid, high, low, 0, OWN_VERSION, 0, 0]);
                self.bytes[HEADER..HEADER + 4].copy_from_slice(&[CONNECTIONS, self.count, 0, 0]);
            }
        }
        let sent = send(&self.bytes);
        self.bytes.clear();
        self.count = 0;
        Some(sent)
    }
}

#[cfg(test)]
mod tests;
