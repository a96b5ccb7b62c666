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
//! The messages of our own have another version number and no connections. The kernel takes a message that it does not know
//! for one of format version 0, whose number of connections stands where ours has 0: it finds nothing to do in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::tables::Protocol;

/// Bytes before the first connection.
const HEADER: usize = 8;
const HEADER_V0: usize = 4;
const CONNECTION_V0: usize = 24;
const VERSION: u8 = 1;
/// Of the messages of our own: "l".
const OWN_VERSION: u8 = 108;
const OWN_SIZE: usize = HEADER + 16;
/// Where in a connection the addresses begin.
const ADDRESSES: usize = 24;
const KIND_IPV6: u8 = 1;
const SIZE_MASK: u16 = 0x0fff;
const VERSION_SHIFT: u32 = 12;
const MOST_CONNECTIONS: u8 = u8::MAX;
const MAX_ENGINE_NAME: usize = 16;
const SEQUENCES: usize = 24;

const OPTION_SEQUENCES: u8 = 1;
const OPTION_ENGINE_DATA: u8 = 2;
const OPTION_ENGINE_NAME: u8 = 3;
const OPTION_MAY_BE_SKIPPED: u8 = 1 << 6;

/// Bits of [`Record::flags`].
pub mod flags {
    /// The forwarding method is in these bits: [`MASQ`], [`TUNNEL`] or [`DIRECT`].
    pub const METHOD: u32 = 0x0007;
    pub const MASQ: u32 = 0;
    pub const TUNNEL: u32 = 2;
    pub const DIRECT: u32 = 3;
    /// It counts as inactive at its real server.
    pub const INACTIVE: u32 = 0x0100;
    /// Sequence numbers of the real server's, or of the client's, side are changed on the way.
    pub const SEQUENCES: u32 = 0x0600;
    /// No connection but a persistence template: which real server a client gets.
    pub const TEMPLATE: u32 = 0x1000;
    /// The sender was told of it itself and has seen no packet of it. Our own: the kernel ignores the bit.
    pub const HEARSAY: u32 = 1 << 31;
}

/// How the sequence numbers of one side of a TCP connection are changed (by an application helper).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sequence {
    /// The change holds from this number on.
    pub from: u32,
    pub delta: u32,
    pub delta_before: u32,
}

/// One connection, or one persistence template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'m> {
    pub protocol: Protocol,
    /// See [`flags`]; as the sender wrote them.
    pub flags: u32,
    /// The protocol's own, in the kernel's numbers.
    pub state: u16,
    /// Three addresses of one family.
    pub client: SocketAddr,
    pub virtual_: SocketAddr,
    pub server: SocketAddr,
    pub fwmark: u32,
    /// Idle seconds after which it is forgotten; 0: what the receiver's own timeouts say.
    pub timeout: u32,
    /// Of the client's and of the real server's side.
    pub sequences: Option<[Sequence; 2]>,
    /// Empty: none.
    pub engine_data: &'m [u8],
    pub engine_name: &'m [u8],
}

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

impl<'m> Record<'m> {
    /// Neither sequence numbers nor an engine's data, no mark.
    pub fn new(
        protocol: Protocol,
        client: SocketAddr,
        virtual_: SocketAddr,
        server: SocketAddr,
    ) -> Record<'m> {
        Record {
            protocol,
            flags: 0,
            state: 0,
            client,
            virtual_,
            server,
            fwmark: 0,
            timeout: 0,
            sequences: None,
            engine_data: &[],
            engine_name: &[],
        }
    }

    pub fn is_template(&self) -> bool {
        self.flags & flags::TEMPLATE != 0
    }

    fn read(bytes: &'m [u8]) -> Result<Record<'m>, Malformed> {
        let kind = u8::from_be_bytes(field(bytes, 0)?);
        let addresses = bytes.get(ADDRESSES..).ok_or(Malformed::Short)?;
        let ([client, virtual_, server], mut options) = match kind {
            0 => {
                let (all, rest) = addresses.split_first_chunk::<12>().ok_or(Malformed::Short)?;
                let (all, _) = all.as_chunks::<4>();
                ([0, 1, 2].map(|index| IpAddr::V4(Ipv4Addr::from(all[index]))), rest)
            }
            KIND_IPV6 => {
                let (all, rest) = addresses.split_first_chunk::<48>().ok_or(Malformed::Short)?;
                let (all, _) = all.as_chunks::<16>();
                ([0, 1, 2].map(|index| IpAddr::V6(Ipv6Addr::from(all[index]))), rest)
            }
            _ => return Err(Malformed::Kind),
        };
        let end = |address, at| Ok(SocketAddr::new(address, u16::from_be_bytes(field(bytes, at)?)));
        let protocol = Protocol(u8::from_be_bytes(field(bytes, 1)?));
        let mut record = Record {
            flags: u32::from_be_bytes(field(bytes, 4)?),
            state: u16::from_be_bytes(field(bytes, 8)?),
            fwmark: u32::from_be_bytes(field(bytes, 16)?),
            timeout: u32::from_be_bytes(field(bytes, 20)?),
            ..Record::new(protocol, end(client, 10)?, end(virtual_, 12)?, end(server, 14)?)
        };
        while !options.is_empty() {
            options = record.take_option(options)?;
        }
        Ok(record)
    }

    /// The first of several connections of format version 0, and its length.
    fn read_v0(bytes: &'m [u8]) -> Result<(Record<'m>, usize), Malformed> {
        let end = |port, address| -> Result<SocketAddr, Malformed> {
            let address = Ipv4Addr::from(field::<4>(bytes, address)?);
            Ok((address, u16::from_be_bytes(field(bytes, port)?)).into())
        };
        let protocol = Protocol(u8::from_be_bytes(field(bytes, 1)?));
        let flags = u16::from_be_bytes(field(bytes, 20)?).into();
        let state = u16::from_be_bytes(field(bytes, 22)?);
        let has_sequences = flags & flags::SEQUENCES != 0;
        let len = CONNECTION_V0 + if has_sequences { SEQUENCES } else { 0 };
        let record = Record { flags, state, ..Record::new(protocol, end(2, 8)?, end(4, 12)?, end(6, 16)?) };
        Ok((record, len))
    }

    /// Returns what follows the option.
    fn take_option(&mut self, options: &'m [u8]) -> Result<&'m [u8], Malformed> {
        let (&[what, len], rest) = options.split_first_chunk().ok_or(Malformed::Option)?;
        let (data, rest) = rest.split_at_checked(len.into()).ok_or(Malformed::Option)?;
        let is_first = match what & !OPTION_MAY_BE_SKIPPED {
            OPTION_SEQUENCES => {
                let (numbers, []) = data.as_chunks::<4>() else { return Err(Malformed::Option) };
                let [a, b, c, d, e, f] = *numbers else { return Err(Malformed::Option) };
                let sequence = |from, delta, delta_before| Sequence {
                    from: u32::from_be_bytes(from),
                    delta: u32::from_be_bytes(delta),
                    delta_before: u32::from_be_bytes(delta_before),
                };
                self.sequences.replace([sequence(a, b, c), sequence(d, e, f)]).is_none()
            }
            OPTION_ENGINE_DATA => std::mem::replace(&mut self.engine_data, data).is_empty(),
            OPTION_ENGINE_NAME if data.len() <= MAX_ENGINE_NAME => {
                std::mem::replace(&mut self.engine_name, data).is_empty()
            }
            _ => what & OPTION_MAY_BE_SKIPPED != 0,
        };
        if is_first && !data.is_empty() { Ok(rest) } else { Err(Malformed::Option) }
    }

    /// Bytes without padding.
    fn size(&self) -> usize {
        let option = |data: &[u8]| if data.is_empty() { 0 } else { 2 + data.len() };
        ADDRESSES
            + if self.client.is_ipv6() { 48 } else { 12 }
            + self.sequences.map_or(0, |_| 2 + SEQUENCES)
            + option(self.engine_data)
            + option(self.engine_name)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([u8::from(self.client.is_ipv6()), self.protocol.0]);
        out.extend((self.size() as u16 & SIZE_MASK).to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.state.to_be_bytes());
        let ends = [self.client, self.virtual_, self.server];
        ends.iter().for_each(|end| out.extend(end.port().to_be_bytes()));
        out.extend(self.fwmark.to_be_bytes());
        out.extend(self.timeout.to_be_bytes());
        for end in ends {
            match end.ip() {
                IpAddr::V4(address) => out.extend(address.octets()),
                IpAddr::V6(address) => out.extend(address.octets()),
            }
        }
        if let Some(sequences) = self.sequences {
            out.extend([OPTION_SEQUENCES, SEQUENCES as u8]);
            for Sequence { from, delta, delta_before } in sequences {
                [from, delta, delta_before].iter().for_each(|number| out.extend(number.to_be_bytes()));
            }
        }
        for (what, data) in [(OPTION_ENGINE_DATA, self.engine_data), (OPTION_ENGINE_NAME, self.engine_name)] {
            if !data.is_empty() {
                out.extend([what, data.len() as u8]);
                out.extend(data);
            }
        }
    }
}

/// A message of connections that is being written.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    count: u8,
    syncid: u8,
    max: usize,
}

impl Writer {
    /// Of messages of at most `max` bytes, but for one connection that is longer alone.
    pub fn new(syncid: u8, max: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(max), count: 0, syncid, max }
    }

    /// Adds a connection, whose addresses are of one family and whose engine's data and name have at most 255 and 16 bytes.
    /// False: there is no room for it, the message has to be [taken](Writer::message) first.
    pub fn add(&mut self, record: &Record<'_>) -> bool {
        debug_assert!(record.engine_data.len() <= 255 && record.engine_name.len() <= MAX_ENGINE_NAME);
        let at = self.bytes.len().max(HEADER).next_multiple_of(4);
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
        self.bytes[..HEADER].copy_from_slice(&[0, self.syncid, high, low, self.count, VERSION, 0, 0]);
        let sent = send(&self.bytes);
        self.bytes.clear();
        self.count = 0;
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint(is_ipv6: bool) -> BoxedStrategy<SocketAddr> {
        if is_ipv6 {
            any::<(Ipv6Addr, u16)>().prop_map(SocketAddr::from).boxed()
        } else {
            any::<(Ipv4Addr, u16)>().prop_map(SocketAddr::from).boxed()
        }
    }

    fn sequence() -> impl Strategy<Value = Sequence> {
        any::<[u32; 3]>().prop_map(|[from, delta, delta_before]| Sequence { from, delta, delta_before })
    }

    /// A record, and the data of its engine.
    fn record() -> impl Strategy<Value = (Record<'static>, Vec<u8>, Vec<u8>)> {
        let ends = any::<bool>().prop_flat_map(|is_ipv6| [(); 3].map(|()| endpoint(is_ipv6)));
        let numbers = any::<(u8, u32, u16, u32, u32)>();
        let sequences = prop::option::of([sequence(), sequence()]);
        let engine =
            (prop::collection::vec(any::<u8>(), 0..=255), prop::collection::vec(any::<u8>(), 0..=16));
        (ends, numbers, sequences, engine).prop_map(|(ends, numbers, sequences, (data, name))| {
            let [client, virtual_, server] = ends;
            let (protocol, flags, state, fwmark, timeout) = numbers;
            let record = Record::new(Protocol(protocol), client, virtual_, server);
            (Record { flags, state, fwmark, timeout, sequences, ..record }, data, name)
        })
    }

    fn read(bytes: &[u8]) -> Vec<Record<'_>> {
        match Message::read(bytes) {
            Ok(Message::Connections(all)) => all.map(|record| record.expect("as it was written")).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// As the kernel's master sends it: laid out by hand.
    #[test]
    fn a_message_has_the_bytes_that_the_kernel_knows() {
        let v4 = Record {
            flags: flags::DIRECT | flags::INACTIVE,
            state: 1,
            fwmark: 0x0102_0304,
            timeout: 900,
            engine_data: b"abc",
            engine_name: b"sip",
            ..Record::new(
                Protocol::TCP,
                "192.0.2.7:1025".parse().expect("valid"),
                "198.51.100.1:80".parse().expect("valid"),
                "10.0.0.1:8080".parse().expect("valid"),
            )
        };
        let v6 = Record {
            sequences: Some([
                Sequence { from: 1, delta: 2, delta_before: 3 },
                Sequence { from: 4, delta: 5, delta_before: 6 },
            ]),
            ..Record::new(
                Protocol::UDP,
                "[2001:db8::7]:53".parse().expect("valid"),
                "[2001:db8::1]:54".parse().expect("valid"),
                "[2001:db8::2]:55".parse().expect("valid"),
            )
        };
        let mut writer = Writer::new(9, 1472);
        assert!(writer.add(&v4) && writer.add(&v6));
        let message = writer.message(<[u8]>::to_vec).expect("two connections");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&message[..8]), "0009009a02010000", "header: 154 bytes, 2 connections, version 1");
        assert_eq!(
            hex(&message[8..54]),
            "0006002e000001030001040100501f90010203040000 0384c0000207c63364010a0000010203616263 0303736970"
                .replace(' ', "")
        );
        assert_eq!(hex(&message[54..56]), "0000", "padding in no one's size");
        assert_eq!(hex(&message[56..80]), "011100620000000000000035003600370000000000000000");
        assert_eq!(hex(&message[128..]), "0118000000010000000200000003000000040000000500000006 ".trim());
        assert_eq!(hex(&message[126..130]), "00020118");
        assert_eq!(read(&message), [v4, v6]);
    }

    #[test]
    fn a_message_of_an_old_kernel_is_read() {
        let hex = "0207004c \
                   0006 0401 0050 1f90 c0000207 c6336401 0a000001 0003 0001 \
                   0011 0035 0036 0037 c0000207 c6336401 0a000002 0600 0000 \
                   010000000200000003000000040000000500000006000000"
            .replace(' ', "");
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let end = |text: &str| text.parse().expect("valid");
        let first = Record {
            flags: flags::DIRECT,
            state: 1,
            ..Record::new(Protocol::TCP, end("192.0.2.7:1025"), end("198.51.100.1:80"), end("10.0.0.1:8080"))
        };
        let second = Record {
            flags: flags::SEQUENCES,
            ..Record::new(Protocol::UDP, end("192.0.2.7:53"), end("198.51.100.1:54"), end("10.0.0.2:55"))
        };
        assert_eq!(read(&bytes), [first, second]);
        let Ok(Message::Connections(all)) = Message::read(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(all.syncid, 7);
    }

    /// What a helper that changes sequence numbers, and a persistence engine, say of an IPv6 connection.
    #[test]
    fn all_options_of_an_ipv6_connection_have_the_bytes_that_the_kernel_knows() {
        let record = Record {
            flags: flags::TUNNEL | flags::TEMPLATE | 0x0200,
            state: 0x0102,
            fwmark: 7,
            timeout: 360,
            sequences: Some([
                Sequence { from: 0x0a0b_0c0d, delta: 1, delta_before: u32::MAX },
                Sequence::default(),
            ]),
            engine_data: b"a84b4c76e66710@pc33.example.com",
            engine_name: b"sip",
            ..Record::new(
                Protocol::UDP,
                "[2001:db8::7]:0".parse().expect("valid"),
                "[2001:db8::1]:5060".parse().expect("valid"),
                "[2001:db8::2]:0".parse().expect("valid"),
            )
        };
        let mut writer = Writer::new(255, 1472);
        assert!(writer.add(&record));
        let message = writer.message(<[u8]>::to_vec).expect("a connection");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // Header; 24 bytes; three addresses; then type, length and data of each option.
        assert_eq!(hex(&message[..8]), "00ff009001010000");
        assert_eq!(hex(&message[8..32]), "01110088000012020102000013c400000000000700000168");
        assert_eq!(hex(&message[32..48]), "20010db8000000000000000000000007");
        assert_eq!(hex(&message[64..80]), "20010db8000000000000000000000002");
        assert_eq!(hex(&message[80..106]), "01180a0b0c0d00000001ffffffff000000000000000000000000");
        assert_eq!(hex(&message[106..108]), "021f");
        assert_eq!(&message[108..139], b"a84b4c76e66710@pc33.example.com");
        assert_eq!(hex(&message[139..]), "0303736970");
        assert_eq!(read(&message), [record]);
    }

    #[test]
    fn a_message_of_our_own_is_an_empty_one_of_version_0_to_the_kernel() {
        for call in [
            Call::Ask { number: 7 },
            Call::Begin { number: 7 },
            Call::Done { number: 8, connections: 1 << 40 },
        ] {
            let message = call.message(3);
            assert_eq!(Message::read(&message), Ok(Message::Own { syncid: 3, call }));
            assert_eq!(message[0], 0, "connections, in version 0");
            assert_eq!(message[1..4], [3, 0, 24], "syncid and size, in both");
            assert_ne!(message[5], VERSION);
        }
    }

    #[test]
    fn a_message_takes_as_many_connections_as_it_has_room_and_a_long_one_alone() {
        let end = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let record = |port| Record::new(Protocol::TCP, end(port), end(2), end(3));
        let mut writer = Writer::new(0, 8 + 3 * 36);
        assert_eq!([1, 2, 3, 4].map(|port| writer.add(&record(port))), [true, true, true, false]);
        assert_eq!(writer.message(<[u8]>::len), Some(116));
        assert_eq!(writer.message(<[u8]>::len), None);
        let mut narrow = Writer::new(0, 1);
        assert!(narrow.add(&record(1)));
        assert!(!narrow.add(&record(2)));
        let mut wide = Writer::new(0, 65_507);
        assert_eq!((0..300).filter(|&port| wide.add(&record(port))).count(), 255);
    }

    #[test]
    fn what_is_wrong_with_a_message_is_found() {
        let end = SocketAddr::from(([192, 0, 2, 1], 1));
        let mut writer = Writer::new(0, 1472);
        let mut good = Vec::new();
        for _ in 0..2 {
            assert!(writer.add(&Record {
                sequences: Some(Default::default()),
                ..Record::new(Protocol::TCP, end, end, end)
            }));
        }
        writer.message(|bytes| good = bytes.to_vec());
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            match Message::read(&bytes) {
                Ok(Message::Connections(all)) => all.map(|record| record.err()).collect(),
                Ok(other) => panic!("{other:?}"),
                Err(why) => vec![Some(why)],
            }
        };
        assert_eq!(changed(1, 200), [None, None], "any syncid");
        assert_eq!(changed(0, 1), [None], "a message of version 0");
        assert_eq!(changed(0, 9).last(), Some(&Some(Malformed::Short)), "of more connections than there are");
        assert_eq!(changed(3, 0), [Some(Malformed::Size)]);
        assert_eq!(changed(5, 2), [Some(Malformed::Version)]);
        assert_eq!(changed(7, 1), [Some(Malformed::Version)]);
        assert_eq!(changed(4, 3), [None, None, Some(Malformed::Short)], "more connections than there are");
        assert_eq!(changed(8, 2), [Some(Malformed::Kind)]);
        assert_eq!(changed(8, 1), [Some(Malformed::Short)], "too short for IPv6");
        assert_eq!(changed(10, 0x10), [Some(Malformed::Version)]);
        assert_eq!(changed(11, 0), [Some(Malformed::Short)]);
        assert_eq!(changed(11, 255), [Some(Malformed::Short)]);
        assert_eq!(changed(44, 9), [Some(Malformed::Option)], "one that must not be skipped");
        assert_eq!(changed(44, 9 | OPTION_MAY_BE_SKIPPED), [None, None]);
        assert_eq!(changed(45, 23), [Some(Malformed::Option)]);
        assert_eq!(Message::read(&good[..7]), Err(Malformed::Short));
    }

    proptest! {
        #[test]
        fn records_read_as_they_were_written(all in prop::collection::vec(record(), 1..8), max in 1..2000usize) {
            let records: Vec<_> = all.iter().map(|(record, data, name)| {
                Record { engine_data: data, engine_name: name, ..*record }
            }).collect();
            let (mut writer, mut messages) = (Writer::new(5, max), Vec::new());
            for record in &records {
                if !writer.add(record) {
                    messages.extend(writer.message(<[u8]>::to_vec));
                    prop_assert!(writer.add(record));
                }
            }
            messages.extend(writer.message(<[u8]>::to_vec));
            let again: Vec<_> = messages.iter().flat_map(|message| read(message)).collect();
            prop_assert_eq!(again, records);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(
            head in prop::option::of((any::<u8>(), any::<u8>())),
            mut bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(36), any::<u8>()], 0..200),
        ) {
            if let (Some((syncid, count)), len @ 8..) = (head, bytes.len()) {
                bytes[..8].copy_from_slice(&[0, syncid, 0, len as u8, count, VERSION, 0, 0]);
            }
            if let Ok(Message::Connections(all)) = Message::read(&bytes) {
                let read: Vec<_> = all.collect();
                prop_assert!(read.len() <= 255);
                prop_assert!(read.iter().rev().skip(1).all(|record| record.is_ok()), "the first error ends it");
            }
        }
    }
}
