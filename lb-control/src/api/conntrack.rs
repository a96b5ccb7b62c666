//! Connections as netfilter's connection tracking has them: what `/v1/conntrack` lists, and which of them are meant.

mod beginning;
mod change;
mod expectation;
mod filter;
pub(super) mod routes;
mod values;

use std::fmt;
use std::net::IpAddr;

use lb_core::conntrack::{Accounting, Labels, Status, icmp};
use lb_core::flow::{Direction, Tuple};
use lb_core::path::{EventKind, FlowEvent, FlowView};
use lb_core::tables::Protocol;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use beginning::{ConntrackNew, NatEnd};
pub use change::ConntrackChange;
pub use expectation::{Expectation, ExpectationEvent, ExpectationFilter, ExpectationNew};
pub use filter::Filter;
pub use values::{BadValue, Family, LabelBits, Masked, NatTo, Net, Statuses, mask};

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
    /// Labels that it has, by number: 0 to 127.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<u8>,
    /// Of both directions.
    pub zone: u16,
    /// Of the original direction alone, where that is in one.
    #[serde(default, skip_serializing_if = "is_default_zone")]
    pub orig_zone: u16,
    /// Of the reply direction alone.
    #[serde(default, skip_serializing_if = "is_default_zone")]
    pub reply_zone: u16,
    /// That of a `CT --helper` rule, or of a virtual service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
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
    /// `None`: it is of one that is expected.
    pub fn of(event: &FlowEvent, at: u64) -> Option<ConntrackEvent> {
        let name = event.kind.into();
        Tracked::of(&event.view).map(|tracked| ConntrackEvent { event: name, at, tracked })
    }
}

impl From<EventKind> for EventName {
    fn from(kind: EventKind) -> EventName {
        match kind {
            EventKind::New => EventName::New,
            EventKind::Update => EventName::Update,
            EventKind::Destroy => EventName::Destroy,
        }
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
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

    /// That of tracking; `None`: it is none of a connection's own, or nothing has it here.
    fn of_netfilter(self) -> Option<Status> {
        match self {
            StatusBit::SeenReply => Some(Status::SEEN_REPLY),
            StatusBit::Assured => Some(Status::ASSURED),
            StatusBit::SrcNat => Some(Status::SRC_NAT),
            StatusBit::DstNat => Some(Status::DST_NAT),
            StatusBit::Expected => Some(Status::EXPECTED),
            StatusBit::FixedTimeout => Some(Status::FIXED_TIMEOUT),
            StatusBit::Unreplied | StatusBit::Offload | StatusBit::HwOffload => None,
        }
    }

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
    /// `None`: a persistence template, which netfilter does not know, or what is only expected.
    ///
    /// States of a virtual service's connection are those of IPVS, by netfilter's names.
    pub fn of(view: &FlowView) -> Option<Tracked> {
        if !view.is_connection() {
            return None;
        }
        let ends = |Tuple { src, dst, sport, dport, .. }| Ends { src, dst, sport, dport };
        let (original, reply) = (ends(view.original()), ends(view.reply()));
        let (known, is_unreplied) = view.netfilter_status();
        let status = StatusBit::ALL.iter().map(|&(bit, _)| bit).filter(|bit| match bit.of_netfilter() {
            Some(of) => known.has(of),
            None => *bit == StatusBit::Unreplied && is_unreplied,
        });
        let zones = view.known.zones;
        let zone = |only| if zones.only() == only { zones.id() } else { 0 };
        Some(Tracked {
            protocol: view.protocol.0,
            expires: view.expires_in.as_secs(),
            state: view.netfilter_state().map(str::to_owned),
            status: status.collect(),
            original,
            reply,
            mark: view.known.mark,
            labels: view.known.labels.bits().collect(),
            zone: zone(None),
            orig_zone: zone(Some(Direction::Original)),
            reply_zone: zone(Some(Direction::Reply)),
            helper: view.known.helper.map(str::to_owned),
            id: view.netfilter_id(),
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

/// Those of these numbers.
fn labels(numbers: &[u8]) -> Result<Labels, String> {
    match numbers.iter().find(|&&number| number >= Labels::BITS) {
        Some(number) => Err(format!("label {number} is outside 0..={}", Labels::BITS - 1)),
        None => Ok(Labels::of(numbers.iter().copied())),
    }
}

fn is_default_zone(zone: &u16) -> bool {
    *zone == 0
}

fn is_icmp(protocol: Protocol) -> bool {
    [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
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
    /// Packets that began what was expected.
    pub expect_new: u64,
    /// Expectations made, and ended, by such a packet or without one.
    pub expect_create: u64,
    pub expect_delete: u64,
}

/// Answer to `GET /v1/conntrack/count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConntrackCount {
    pub count: u64,
}

#[cfg(test)]
mod tests;
