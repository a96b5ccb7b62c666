//! Connections as netfilter's connection tracking has them: what `/v1/conntrack` lists, and which of them are meant.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use lb_core::conntrack::{Accounting, Status, icmp};
use lb_core::flow::Direction;
use lb_core::path::{Change, EventKind, FlowEvent, FlowView};
use lb_core::tables::Protocol;
use lb_core::time::Timeout;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::query::query;

/// A line of the answer to `GET /v1/conntrack`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tracked {
    /// The IP protocol's number.
    pub protocol: u8,
    /// Seconds until it ends if nothing comes.
    pub expires: u32,
    /// netfilter's word: `ESTABLISHED` …; `null` where the protocol has no states.
    pub state: Option<String>,
    pub status: Vec<StatusBit>,
    pub original: Ends,
    pub reply: Ends,
    pub mark: u32,
    pub zone: u16,
    /// The same for as long as it lives.
    pub id: u32,
    /// Not there: its packets are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// A line of the answer to `GET /v1/conntrack/events`: what became of a connection, as it is then, or as it was when it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConntrackEvent {
    pub event: EventName,
    /// Microseconds since 1970 (UTC): when the daemon heard of it.
    pub at: u64,
    #[serde(flatten)]
    pub tracked: Tracked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventName {
    New,
    Update,
    Destroy,
}

impl ConntrackEvent {
    pub fn of(event: &FlowEvent, at: u64) -> Option<ConntrackEvent> {
        let name = match event.kind {
            EventKind::New => EventName::New,
            EventKind::Update => EventName::Update,
            EventKind::Destroy => EventName::Destroy,
        };
        Tracked::of(&event.view).map(|tracked| ConntrackEvent { event: name, at, tracked })
    }
}

/// Packets of a connection, and their bytes with IP headers, by direction: where `nf_conntrack_acct` is 1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct Counted {
    pub original_packets: u64,
    pub original_bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

impl From<Accounting> for Counted {
    fn from(Accounting { packets, bytes }: Accounting) -> Counted {
        Counted {
            original_packets: packets[0],
            original_bytes: bytes[0],
            reply_packets: packets[1],
            reply_bytes: bytes[1],
        }
    }
}

/// What packets of one direction carry. Of ICMP the port of who asks is the identifier, the other one type · 256 + code of
/// the question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, ToSchema)]
pub struct Ends {
    #[schema(value_type = String)]
    pub src: IpAddr,
    #[schema(value_type = String)]
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
}

/// What is known of a connection. Where neither `SEEN_REPLY` nor `UNREPLIED` is, it is not known whether packets came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StatusBit {
    SeenReply,
    Unreplied,
    Assured,
    SrcNat,
    DstNat,
    Expected,
    FixedTimeout,
    Offload,
    HwOffload,
}

impl StatusBit {
    const ALL: [(StatusBit, &'static str); 9] = [
        (StatusBit::SeenReply, "SEEN_REPLY"),
        (StatusBit::Unreplied, "UNREPLIED"),
        (StatusBit::Assured, "ASSURED"),
        (StatusBit::SrcNat, "SRC_NAT"),
        (StatusBit::DstNat, "DST_NAT"),
        (StatusBit::Expected, "EXPECTED"),
        (StatusBit::FixedTimeout, "FIXED_TIMEOUT"),
        (StatusBit::Offload, "OFFLOAD"),
        (StatusBit::HwOffload, "HW_OFFLOAD"),
    ];

    /// Upper or lower case.
    pub fn named(name: &str) -> Option<StatusBit> {
        let found = Self::ALL.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|&(bit, _)| bit)
    }
}

impl fmt::Display for StatusBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(bit, _)| bit == self);
        f.write_str(found.map_or("", |(_, name)| name))
    }
}

impl Tracked {
    /// `None`: a persistence template, which netfilter does not know.
    ///
    /// States of a virtual service's connection are those of IPVS, by netfilter's names. Answers that take another way than through the director are not
    /// seen, and netfilter would expect them from the virtual service.
    pub fn of(view: &FlowView) -> Option<Tracked> {
        if view.is_template {
            return None;
        }
        let is_one_way = view.method.is_one_way();
        let answerer = if is_one_way { view.virtual_ } else { view.server };
        let ends = |src: (IpAddr, u16), dst: (IpAddr, u16)| Ends {
            src: src.0,
            dst: dst.0,
            sport: src.1,
            dport: dst.1,
        };
        let (mut original, mut reply) =
            (ends(view.client, view.virtual_), ends(answerer, view.local.unwrap_or(view.client)));
        if is_icmp(view.protocol) {
            // The workers know the type of the question alone.
            (original.dport, reply.sport) = (original.dport << 8, reply.sport << 8);
        }
        let (state, status) = if view.is_tracked { tracking(view) } else { service(view) };
        let mut hasher = DefaultHasher::new();
        (view.protocol.0, original).hash(&mut hasher);
        Some(Tracked {
            protocol: view.protocol.0,
            expires: view.expires_in.as_secs(),
            state: state.map(str::to_owned),
            status,
            original,
            reply,
            mark: view.known.mark,
            zone: view.known.zone,
            id: hasher.finish() as u32,
            counted: view.known.accounting.map(Counted::from),
        })
    }

    pub fn has(&self, bit: StatusBit) -> bool {
        self.status.contains(&bit)
    }

    pub fn is_ipv6(&self) -> bool {
        self.original.src.is_ipv6()
    }

    /// Type, code and identifier of the ICMP messages that go this way; `None`: it is no such connection.
    pub fn icmp(&self, direction: Direction) -> Option<(u8, u8, u16)> {
        let (kind, code) = icmp::kind(self.is_ipv6(), self.original.dport, direction);
        let id = match direction {
            Direction::Original => self.original.sport,
            Direction::Reply => self.reply.dport,
        };
        is_icmp(Protocol(self.protocol)).then_some((kind, code, id))
    }
}

fn is_icmp(protocol: Protocol) -> bool {
    [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
}

/// State and status of a connection of no virtual service.
fn tracking(view: &FlowView) -> (Option<&'static str>, Vec<StatusBit>) {
    let has_states = matches!(view.protocol, Protocol::TCP | Protocol::SCTP);
    let mut status = named(view.known.status);
    if !view.known.status.has(Status::SEEN_REPLY) {
        status.push(StatusBit::Unreplied);
    }
    (has_states.then_some(view.state), status)
}

/// State and status of a virtual service's connection.
fn service(view: &FlowView) -> (Option<&'static str>, Vec<StatusBit>) {
    let (state, is_answered) = state(view.protocol, view.state);
    let mut status = match is_answered {
        _ if view.method.is_one_way() => vec![StatusBit::Unreplied],
        true => vec![StatusBit::SeenReply, StatusBit::Assured],
        // Rules may have seen an answer.
        false => named(view.known.status),
    };
    if !view.method.is_one_way() && view.server != view.virtual_ {
        status.push(StatusBit::DstNat);
    }
    if view.local.is_some() {
        status.push(StatusBit::SrcNat);
    }
    (state, status)
}

/// Those that have a name in listings.
fn named(status: Status) -> Vec<StatusBit> {
    let names = [
        (Status::SEEN_REPLY, StatusBit::SeenReply),
        (Status::ASSURED, StatusBit::Assured),
        (Status::SRC_NAT, StatusBit::SrcNat),
        (Status::DST_NAT, StatusBit::DstNat),
        (Status::EXPECTED, StatusBit::Expected),
        (Status::FIXED_TIMEOUT, StatusBit::FixedTimeout),
    ];
    names.iter().filter(|(bit, _)| status.has(*bit)).map(|&(_, name)| name).collect()
}

/// netfilter's name for a state of IPVS, and whether both ends have agreed in it.
fn state(protocol: Protocol, state: &'static str) -> (Option<&'static str>, bool) {
    match protocol {
        Protocol::TCP => {
            let is_answered =
                matches!(state, "ESTABLISHED" | "FIN_WAIT" | "CLOSE_WAIT" | "LAST_ACK" | "TIME_WAIT");
            (Some(if state == "SYNACK" { "SYN_RECV" } else { state }), is_answered)
        }
        Protocol::SCTP => {
            let name = match state {
                "C-SENT" | "COOKIE" => "COOKIE_WAIT",
                "C-REPLIED" | "C-ECHOED" => "COOKIE_ECHOED",
                "ESTABLISHED" => "ESTABLISHED",
                // IPVS names who sends from the real server's side, netfilter from the client's.
                "S-RECEIVED" => "SHUTDOWN_SENT",
                "S-SENT" => "SHUTDOWN_RECD",
                "S-ACK-SENT" => "SHUTDOWN_ACK_SENT",
                "NONE" => "NONE",
                _ => "CLOSED",
            };
            (Some(name), name == "ESTABLISHED" || name.starts_with("SHUTDOWN"))
        }
        _ => (None, false),
    }
}

/// Which connections are meant: those that all that is given fits.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// `ipv4` or `ipv6`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub family: Option<Family>,
    /// the IP protocol's number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// source of the original direction: an address, with `/24` or `/255.255.255.0` a network
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub src: Option<Net>,
    /// destination of the original direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub dst: Option<Net>,
    /// source of the reply direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub reply_src: Option<Net>,
    /// destination of the reply direction
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub reply_dst: Option<Net>,
    /// ports, of protocols that have some
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_dport: Option<u16>,
    /// of the question
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// such as `ESTABLISHED`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// all of these, with commas between: `SEEN_REPLY,ASSURED`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub status: Option<Statuses>,
    /// a number, with `/` and a mask only those bits
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub mark: Option<Masked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// `any`: whose source is translated; an address: to that
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub src_nat: Option<NatTo>,
    /// as `src_nat`, of the destination
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub dst_nat: Option<NatTo>,
    /// one of the two
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub any_nat: Option<NatTo>,
}

impl Filter {
    pub fn matches(&self, tracked: &Tracked) -> bool {
        let Tracked { original, reply, .. } = tracked;
        let is = |wanted: Option<u16>, port: u16| wanted.is_none_or(|wanted| wanted == port);
        let within = |wanted: &Option<Net>, address: IpAddr| wanted.is_none_or(|net| net.contains(address));
        self.protocol.is_none_or(|protocol| protocol == tracked.protocol)
            && self.family.is_none_or(|family| (family == Family::Ipv6) == tracked.is_ipv6())
            && within(&self.src, original.src)
            && within(&self.dst, original.dst)
            && within(&self.reply_src, reply.src)
            && within(&self.reply_dst, reply.dst)
            && is(self.sport, original.sport)
            && is(self.dport, original.dport)
            && is(self.reply_sport, reply.sport)
            && is(self.reply_dport, reply.dport)
            && self.matches_icmp(tracked)
            && self.state.as_ref().is_none_or(|state| tracked.state.as_ref() == Some(state))
            && self.status.as_ref().is_none_or(|all| all.0.iter().all(|&bit| tracked.has(bit)))
            && self.mark.is_none_or(|mark| tracked.mark & mark.mask == mark.value & mark.mask)
            && self.zone.is_none_or(|zone| zone == tracked.zone)
            && self.id.is_none_or(|id| id == tracked.id)
            && self.matches_nat(tracked)
    }

    fn matches_icmp(&self, tracked: &Tracked) -> bool {
        if (self.icmp_type, self.icmp_code, self.icmp_id) == (None, None, None) {
            return true;
        }
        let Some((kind, code, id)) = tracked.icmp(Direction::Original) else { return false };
        self.icmp_type.is_none_or(|wanted| wanted == kind)
            && self.icmp_code.is_none_or(|wanted| wanted == code)
            && self.icmp_id.is_none_or(|wanted| wanted == id)
    }

    fn matches_nat(&self, tracked: &Tracked) -> bool {
        let Tracked { original, reply, .. } = tracked;
        let is_source = (original.src, original.sport) != (reply.dst, reply.dport);
        let is_destination = (original.dst, original.dport) != (reply.src, reply.sport);
        let source = |to: NatTo| is_source && to.is(reply.dst);
        let destination = |to: NatTo| is_destination && to.is(reply.src);
        self.src_nat.is_none_or(source)
            && self.dst_nat.is_none_or(destination)
            && self.any_nat.is_none_or(|to| source(to) || destination(to))
    }

    /// As the query of an address: `?protocol=6&sport=80`; empty when all are meant.
    pub fn query(&self) -> String {
        query(self)
    }
}

/// Body of `PATCH /v1/conntrack`: what becomes of the connections that fit. What is not given stays as it is.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConntrackChange {
    /// A mark; with `/` and a mask only those bits of the old one are taken away first, and the new ones put in by exclusive or.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mark: Option<Masked>,
    /// Seconds from now, at most 2678400, until it ends if nothing comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// `SEEN_REPLY`, `ASSURED`, `FIXED_TIMEOUT`: these are set. None can be taken away, as in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub status: Option<Statuses>,
}

impl ConntrackChange {
    /// # Errors
    /// What cannot be set.
    pub fn check(&self) -> Result<(), String> {
        if let Some(timeout) = self.timeout.filter(|&timeout| timeout > Timeout::MAX_SECS) {
            return Err(format!("timeout {timeout} is outside 0..={}", Timeout::MAX_SECS));
        }
        match self.bits().find(|bit| settable(*bit).is_none()) {
            Some(bit) => {
                Err(format!("status {bit} cannot be set; SEEN_REPLY, ASSURED and FIXED_TIMEOUT can"))
            }
            None => Ok(()),
        }
    }

    fn bits(&self) -> impl Iterator<Item = StatusBit> {
        self.status.iter().flat_map(|all| all.0.iter().copied())
    }

    /// What the worker has to set of a connection, which is shown as `tracked` then; `None`: nothing changes.
    pub fn of(&self, view: &FlowView, tracked: &mut Tracked) -> Option<Change> {
        let mark = self.mark.map(|mark| view.known.mark & !mark.mask ^ mark.value);
        let mut status = Status::NONE;
        self.bits().filter_map(settable).for_each(|bit| status.set(bit));
        let has_new = !view.known.status.has(status);
        let change = Change {
            mark: mark.filter(|&mark| mark != view.known.mark),
            timeout: self.timeout.map(Timeout::from_secs),
            status: if has_new { status } else { Status::NONE },
        };
        tracked.mark = mark.unwrap_or(tracked.mark);
        tracked.expires = self.timeout.unwrap_or(tracked.expires);
        let missing: Vec<StatusBit> = self.bits().filter(|&bit| has_new && !tracked.has(bit)).collect();
        tracked.status.extend(missing);
        if tracked.has(StatusBit::SeenReply) {
            tracked.status.retain(|&bit| bit != StatusBit::Unreplied);
        }
        (change != Change::default()).then_some(change)
    }
}

/// The bit of those that can be set from outside.
fn settable(bit: StatusBit) -> Option<Status> {
    match bit {
        StatusBit::SeenReply => Some(Status::SEEN_REPLY),
        StatusBit::Assured => Some(Status::ASSURED),
        StatusBit::FixedTimeout => Some(Status::FIXED_TIMEOUT),
        _ => None,
    }
}

/// Why a value of a filter is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{value}: {allowed}")]
pub struct BadValue {
    value: String,
    allowed: &'static str,
}

/// Written and read as text.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = BadValue;
            fn try_from(text: String) -> Result<$name, BadValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}

as_text!(Net, Masked, NatTo, Statuses);

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// An address, and which of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Net {
    pub address: IpAddr,
    pub mask: IpAddr,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The mask of a network's first `len` bits; `None`: addresses have not so many.
pub fn mask(of: IpAddr, len: u32) -> Option<IpAddr> {
    match of {
        IpAddr::V4(_) if len <= 32 => {
            Some(Ipv4Addr::from(u32::MAX.checked_shl(32 - len).unwrap_or(0)).into())
        }
        IpAddr::V6(_) if len <= 128 => {
            Some(Ipv6Addr::from(u128::MAX.checked_shl(128 - len).unwrap_or(0)).into())
        }
        _ => None,
    }
}

impl Net {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && bits(self.mask) & bits(self.address) == bits(self.mask) & bits(address)
    }
}

impl FromStr for Net {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Net, BadValue> {
        let bad = || BadValue {
            value: text.to_owned(),
            allowed: "not an address, ADDRESS/LENGTH or ADDRESS/MASK of one family",
        };
        let (address, rest) =
            text.split_once('/').map_or((text, None), |(address, rest)| (address, Some(rest)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let mask = match rest {
            None => mask(address, if address.is_ipv4() { 32 } else { 128 }),
            Some(rest) => match rest.parse() {
                Ok(len) => mask(address, len),
                Err(_) => rest.parse().ok().filter(|mask: &IpAddr| mask.is_ipv4() == address.is_ipv4()),
            },
        };
        Ok(Net { address, mask: mask.ok_or_else(bad)? })
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.mask)
    }
}

/// A mark, and which of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Masked {
    pub value: u32,
    pub mask: u32,
}

impl FromStr for Masked {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Masked, BadValue> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        number(value).zip(number(mask)).map(|(value, mask)| Masked { value, mask }).ok_or_else(|| BadValue {
            value: text.to_owned(),
            allowed: "not a mark, or a mark and a mask: 7, 0x7/0xff",
        })
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// What an address is translated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum NatTo {
    Any,
    Address(IpAddr),
}

impl NatTo {
    fn is(self, address: IpAddr) -> bool {
        match self {
            NatTo::Any => true,
            NatTo::Address(wanted) => wanted == address,
        }
    }
}

impl FromStr for NatTo {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<NatTo, BadValue> {
        if text == "any" {
            return Ok(NatTo::Any);
        }
        text.parse()
            .map(NatTo::Address)
            .map_err(|_| BadValue { value: text.to_owned(), allowed: "neither \"any\" nor an address" })
    }
}

impl fmt::Display for NatTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NatTo::Any => f.write_str("any"),
            NatTo::Address(address) => address.fmt(f),
        }
    }
}

/// Several of what is known of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Statuses(pub Vec<StatusBit>);

impl FromStr for Statuses {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Statuses, BadValue> {
        let bit = |name: &str| {
            StatusBit::named(name).ok_or_else(|| BadValue {
                value: name.to_owned(),
                allowed: "not one of SEEN_REPLY, UNREPLIED, ASSURED, SRC_NAT, DST_NAT, EXPECTED, FIXED_TIMEOUT",
            })
        };
        let mut bits = Vec::new();
        for name in text.split(',') {
            let bit = bit(name)?;
            // Each once: a list is looked through for each connection.
            if !bits.contains(&bit) {
                bits.push(bit);
            }
        }
        Ok(Statuses(bits))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(StatusBit::to_string).collect();
        f.write_str(&names.join(","))
    }
}

/// What a worker counts, by the names of `conntrack -S`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConntrackStatistics {
    pub worker: u16,
    pub cpu: u32,
    /// Packets whose connection was found.
    pub found: u64,
    /// Packets that rules found INVALID.
    pub invalid: u64,
    /// Connections begun.
    pub insert: u64,
    /// Connections refused because the index was full at their place.
    pub insert_failed: u64,
    /// Connections refused because there was no room in the table, or the index.
    pub drop: u64,
    /// Connections that went early to make room for new ones.
    pub early_drop: u64,
}

/// Answer to `GET /v1/conntrack/count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConntrackCount {
    pub count: u64,
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
