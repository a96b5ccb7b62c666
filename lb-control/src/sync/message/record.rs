//! One connection of a sync message, as bytes and back: see [the message](super).
//!
//! Options of the kernel: sequence numbers (`IPVS_OPT_SEQ_DATA`; two `struct ip_vs_seq`, the client's side first), the data of a persistence engine
//! (`IPVS_OPT_PE_DATA`, at most 255 bytes; of `sip` the Call-ID) and its name (`IPVS_OPT_PE_NAME`, at most 16). Each comes once at most and is not empty.
//! A number is moved by `delta` when it is after `init_seq`, else by `previous_delta`, and an acknowledgement back by `delta` when it is after
//! `init_seq` and `delta`. Of a side whose flag is not set (`IP_VS_CONN_F_IN_SEQ`, `_OUT_SEQ`) the numbers may be anything.
//!
//! Source of the facts: Linux, `net/netfilter/ipvs/ip_vs_sync.c` (`ip_vs_proc_sync_conn`), `ip_vs_app.c`, `ip_vs_pe_sip.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::flow::edit::{Edit, FTP};
use lb_core::tables::Protocol;

use super::{Audience, Malformed, field};

/// Where in a connection the addresses begin.
const ADDRESSES: usize = 24;
const CONNECTION_V0: usize = 24;
const KIND_IPV6: u8 = 1;
const SIZE_MASK: u16 = 0x0fff;
pub(super) const MAX_ENGINE_NAME: usize = 16;
const SEQUENCES: usize = 24;

const OPTION_SEQUENCES: u8 = 1;
const OPTION_ENGINE_DATA: u8 = 2;
const OPTION_ENGINE_NAME: u8 = 3;
/// Our own: a local endpoint and what a call stands under (port, address), a real server's address of the other family, an edit.
const OPTION_LOCAL: u8 = 60;
const OPTION_SERVER: u8 = 61;
const OPTION_CALL: u8 = 62;
const OPTION_EDIT: u8 = 63;

pub(super) const OPTION_MAY_BE_SKIPPED: u8 = 1 << 6;

/// Bits of [`Record::flags`].
pub mod flags {
    /// The forwarding method is in these bits: [`MASQ`], [`TUNNEL`], [`DIRECT`] or [`BYPASS`].
    pub const METHOD: u32 = 0x0007;
    pub const MASQ: u32 = 0;
    pub const TUNNEL: u32 = 2;
    pub const DIRECT: u32 = 3;
    /// Past all real servers: the real server's address and port are zeros.
    pub const BYPASS: u32 = 4;
    /// It counts as inactive at its real server.
    pub const INACTIVE: u32 = 0x0100;
    /// Sequence numbers of the real server's side are changed on the way.
    pub const SEQUENCES_FROM_SERVER: u32 = 0x0200;
    pub const SEQUENCES_FROM_CLIENT: u32 = 0x0400;
    pub const SEQUENCES: u32 = SEQUENCES_FROM_SERVER | SEQUENCES_FROM_CLIENT;
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

impl Sequence {
    /// Whether any number is changed.
    pub fn moves(&self) -> bool {
        self.delta != 0 || self.delta_before != 0
    }
}

/// One connection, or one persistence template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'m> {
    pub protocol: Protocol,
    /// See [`flags`]; as the sender wrote them.
    pub flags: u32,
    /// The protocol's own, in the kernel's numbers.
    pub state: u16,
    /// Two addresses of one family.
    pub client: SocketAddr,
    pub virtual_: SocketAddr,
    /// Of the same family, but for [`Audience::Own`].
    pub server: SocketAddr,
    pub fwmark: u32,
    /// Idle seconds after which it is forgotten; 0: what the receiver's own timeouts say.
    pub timeout: u32,
    /// Of the client's and of the real server's side.
    pub sequences: Option<[Sequence; 2]>,
    /// Empty: none.
    pub engine_data: &'m [u8],
    pub engine_name: &'m [u8],
    /// What the real server takes for the client, where that is another endpoint.
    pub local: Option<SocketAddr>,
    /// What a call's template stands under, in the place of its client.
    pub call: Option<SocketAddr>,
    pub edit: Option<Edit>,
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
            local: None,
            call: None,
            edit: None,
        }
    }

    /// Who may be told of it. A kernel could make nothing right of a connection by a local endpoint, or whose real server is of the other family, of a
    /// call without its Call-ID, or of streams that are edited otherwise than by its FTP helper.
    pub fn audience(&self) -> Audience {
        let is_edited = self.edit.is_some_and(|edit| edit.wants != FTP);
        let is_mixed = self.client.is_ipv6() != self.server.is_ipv6();
        match self.local.is_some() || self.call.is_some() || is_edited || is_mixed {
            true => Audience::Own,
            false => Audience::All,
        }
    }

    pub fn is_template(&self) -> bool {
        self.flags & flags::TEMPLATE != 0
    }

    pub(super) fn read(bytes: &'m [u8]) -> Result<Record<'m>, Malformed> {
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
    pub(super) fn read_v0(bytes: &'m [u8]) -> Result<(Record<'m>, usize), Malformed> {
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
            OPTION_LOCAL => self.local.replace(end(data).ok_or(Malformed::Option)?).is_none(),
            OPTION_SERVER => {
                let is_first = self.server.is_ipv6() == self.client.is_ipv6();
                self.server.set_ip(address(data).ok_or(Malformed::Option)?);
                is_first && self.server.is_ipv6() != self.client.is_ipv6()
            }
            OPTION_CALL => {
                let call = end(data).filter(|call| call.is_ipv6() == self.client.is_ipv6());
                self.call.replace(call.ok_or(Malformed::Option)?).is_none()
            }
            OPTION_EDIT => {
                let edit = data.try_into().ok().and_then(Edit::from_bytes);
                self.edit.replace(edit.ok_or(Malformed::Option)?).is_none()
            }
            _ => what & OPTION_MAY_BE_SKIPPED != 0,
        };
        if is_first && !data.is_empty() { Ok(rest) } else { Err(Malformed::Option) }
    }

    /// Bytes without padding.
    pub(super) fn size(&self) -> usize {
        let addresses = if self.client.is_ipv6() { 48 } else { 12 };
        let mut options = 0;
        self.options(|_, data| options += 2 + data.len());
        ADDRESSES + addresses + options
    }

    /// Visits those that it has.
    fn options(&self, mut visit: impl FnMut(u8, &[u8])) {
        let mut option = |what, data: &[u8]| {
            if !data.is_empty() {
                visit(what, data);
            }
        };
        let own = |what| what | OPTION_MAY_BE_SKIPPED;
        if let Some(sequences) = self.sequences {
            let numbers = sequences.map(|Sequence { from, delta, delta_before }| [from, delta, delta_before]);
            option(
                OPTION_SEQUENCES,
                numbers.map(|side| side.map(u32::to_be_bytes)).as_flattened().as_flattened(),
            );
        }
        option(OPTION_ENGINE_DATA, self.engine_data);
        option(OPTION_ENGINE_NAME, self.engine_name);
        for (what, end) in [(OPTION_LOCAL, self.local), (OPTION_CALL, self.call)] {
            if let Some(end) = end {
                let (bytes, len) = octets(end.ip());
                option(own(what), &[&end.port().to_be_bytes(), &bytes[..len]].concat());
            }
        }
        if self.server.is_ipv6() != self.client.is_ipv6() {
            let (bytes, len) = octets(self.server.ip());
            option(own(OPTION_SERVER), &bytes[..len]);
        }
        if let Some(edit) = self.edit {
            option(own(OPTION_EDIT), &edit.to_bytes());
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend([u8::from(self.client.is_ipv6()), self.protocol.0]);
        out.extend((self.size() as u16 & SIZE_MASK).to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.state.to_be_bytes());
        let ends = [self.client, self.virtual_, self.server];
        ends.iter().for_each(|end| out.extend(end.port().to_be_bytes()));
        out.extend(self.fwmark.to_be_bytes());
        out.extend(self.timeout.to_be_bytes());
        for end in ends {
            // Where there is no room for it, an option has it.
            let is_mixed = end.is_ipv6() != self.client.is_ipv6();
            let (bytes, len) = octets(if is_mixed { unspecified(self.client) } else { end.ip() });
            out.extend(&bytes[..len]);
        }
        self.options(|what, data| {
            out.extend([what, data.len() as u8]);
            out.extend(data);
        });
    }
}

/// As many as are meant.
fn octets(address: IpAddr) -> ([u8; 16], usize) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        }
        IpAddr::V6(address) => (address.octets(), 16),
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    if like.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// An option's address, if its length is one's.
fn address(data: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(data).ok().map(IpAddr::from))
}

/// Port and address.
fn end(data: &[u8]) -> Option<SocketAddr> {
    let (&port, rest) = data.split_first_chunk()?;
    Some(SocketAddr::new(address(rest)?, u16::from_be_bytes(port)))
}
